import json
import struct
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundles.runner import frames

ARRAYS = [
    np.array([[True, False]]),
    *(np.arange(6, dtype=code).reshape(3, 2) for code in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")),
    *(np.linspace(-1, 1, 6, dtype=code).reshape(2, 3) for code in ("f2", "f4", "f8")),
    np.array([b"", b"\x00\xff", "snow ❄".encode()], dtype=object),
]


def back(array: np.ndarray[Any, Any], datatype: str | None = None) -> np.ndarray[Any, Any]:
    """Send an array through a frame."""
    spec, data = frames.from_array("x", array, datatype)
    description = frames.describe(len(array), (("inputs", (spec,)),))
    ((header, body),) = frames.Decoder().feed(frames.encode(description, [data], id=1))
    return frames.to_array(header["inputs"][0], body)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.dtype))
def test_every_datatype_comes_back(array: np.ndarray[Any, Any]) -> None:
    """What goes into a frame comes out of it: type, shape and values."""
    got = back(array)
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    assert (got == array).all()


@pytest.mark.parametrize("name", ["x", "pixels", "a longer name"])
def test_numbers_lie_where_numbers_may_lie(name: str) -> None:
    """An array that looks into a frame is aligned: what is not costs every library that reads it."""
    spec, data = frames.from_array(name, np.arange(3, dtype="f8"))
    frame = frames.encode(frames.describe(3, (("inputs", (spec,)),)), [data], id=1)
    for piece in (len(frame), 50):  # As one, and in pieces that are put together.
        decoder = frames.Decoder()
        pieces = [frame[first : first + piece] for first in range(0, len(frame), piece)]
        ((header, body),) = [one for part in pieces for one in decoder.feed(part)]
        assert frames.to_array(header["inputs"][0], body).flags.aligned


def test_half_precision_of_the_brain_kind_travels_as_its_bits() -> None:
    """BF16 has no numpy type: its bits are said to be BF16, and come back as bits."""
    bits = np.array([0x3F80, 0xC000], dtype=np.uint16)
    spec, _data = frames.from_array("x", bits, "BF16")
    assert spec == ("x", "BF16", (2,), 4)
    assert (back(bits, "BF16") == bits).all()


def test_layout_is_made_little_endian_and_row_major() -> None:
    """Big-endian, transposed and strided arrays are written as the protocol wants them."""
    array = np.arange(12, dtype=">i4").reshape(3, 4).T[::2]
    spec, data = frames.from_array("x", array)
    assert spec[1:3] == ("INT32", (2, 3))
    assert data == np.array([[0, 4, 8], [2, 6, 10]], dtype="<i4").tobytes()


def test_text_is_bytes_with_their_length_before_them() -> None:
    """Text, fixed-width or in objects, is written as in the Open Inference Protocol."""
    written = b"\x02\x00\x00\x00ab\x03\x00\x00\x00\xe2\x9d\x84"
    for array in (np.array(["ab", "❄"]), np.array(["ab", "❄"], dtype=object)):
        assert frames.from_array("x", array)[1] == written


@pytest.mark.parametrize("array", [np.array([1j]), np.array([None]), np.array(["2026-11-24"], dtype="M8[D]")])
def test_what_no_datatype_holds_is_refused(array: np.ndarray[Any, Any]) -> None:
    """The error names the tensor."""
    with pytest.raises(frames.FrameError, match=r"^x: "):
        frames.from_array("x", array)


@pytest.mark.parametrize(
    ("spec", "data"),
    [
        ({"datatype": "FP32", "shape": [2]}, b"1234567"),
        ({"datatype": "FP32", "shape": [2]}, b"1234"),
        ({"datatype": "FP31", "shape": [1]}, b"1234"),
        ({"datatype": "INT8", "shape": "four"}, b"1234"),
        ({"datatype": "BYTES", "shape": [1]}, b"\x05\x00\x00\x00abc"),
        ({"datatype": "BYTES", "shape": [1]}, b"\x05\x00"),
        ({"datatype": "BYTES", "shape": [2]}, b"\x01\x00\x00\x00a"),
    ],
)
def test_bytes_that_do_not_fit_their_description_are_refused(spec: dict[str, Any], data: bytes) -> None:
    """Truncated numbers, cut-off text, wrong shapes and unknown datatypes: never a wrong array."""
    with pytest.raises(frames.FrameError, match=r"^x: "):
        frames.to_array({"name": "x", **spec}, data)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # A busy machine is no failure.
@given(
    bodies=st.lists(st.lists(st.binary(max_size=20), max_size=3), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 300), max_size=8),
)
def test_frames_come_whole_however_they_are_cut(bodies: list[list[bytes]], cuts: list[int]) -> None:
    """A socket cuts where it likes: the same frames come out, in order, each once."""
    stream = b"".join(frames.encode(b"{}", body, id=number) for number, body in enumerate(bodies))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = frames.Decoder()
    got = [
        (header["id"], bytes(body))
        for first, last in pairwise(edges)
        for header, body in decoder.feed(stream[first:last])
    ]
    assert got == [(number, b"".join(body)) for number, body in enumerate(bodies)]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: snowgate.example.org\r\n\r\n",
        struct.pack("<4sIQQQI", b"SGF2", 2**31, 0, 1, 0, 0),
        struct.pack("<4sIQQQI", b"SGF2", 2, 2**60, 1, 0, 0),
        struct.pack("<4sIQQQI", b"SGF2", 2, 0, 1, 0, 0) + b"{]",
    ],
)
def test_what_is_not_a_frame_is_refused_at_once(data: bytes) -> None:
    """Another protocol, absurd lengths and broken headers are errors, not gigabytes waited for."""
    with pytest.raises(frames.FrameError):
        list(frames.Decoder().feed(data))


def test_nothing_heavy_is_imported() -> None:
    """Workers use the frames too: torch, scipy and the like must not come with them."""
    script = "import sys, json, bundles.runner.frames; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert not {"torch", "safetensors", "scipy", "pandas", "river"} & set(json.loads(done.stdout))

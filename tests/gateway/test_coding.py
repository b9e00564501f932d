"""Content codings: what goes in comes out, whatever is sent stops at the limit, and a real gateway speaks both ways."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
import tritonclient.http
from hypothesis import given
from hypothesis import strategies as st

from gateway.coding import COMPRESSED_BYTES_MIN, accepted_coding, compress, content_coding, inflate
from gateway.errors import BadCall, TooLarge, Unsupported
from tests.conftest import Gateway

INFER = "/v2/models/signs/versions/1/infer"
ROWS = 5_000
"""Two floats a row, in JSON or as 4 bytes each: more than is sent uncompressed."""


def bare(data: bytes) -> bytes:
    """A deflate stream without zlib's header, as some clients send it."""
    made = zlib.compressobj(wbits=-15)
    return made.compress(data) + made.flush()


@given(st.binary(max_size=4096), st.sampled_from(["gzip", "deflate"]))
def test_what_is_compressed_inflates(data: bytes, coding: str) -> None:
    """Our own streams, zlib's and gzip's at any level, and bare ones are all read."""
    assert inflate(coding, compress(coding, data), len(data)) == data
    others = [gzip.compress(data, level) for level in (0, 9)] if coding == "gzip" else [zlib.compress(data), bare(data)]
    for other in others:
        assert inflate(coding, bytearray(other), len(data)) == data


@given(st.binary(max_size=64), st.sampled_from(["gzip", "deflate"]))
def test_noise_is_refused_or_read(data: bytes, coding: str) -> None:
    """Whatever bytes come, the outcome is a body within the limit or an error of the client's."""
    with suppress(BadCall, TooLarge):
        assert len(inflate(coding, data, 1000)) <= 1000


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_stops_at_the_limit(coding: str) -> None:
    """100 MB of zeros in 100 KB: no more than the limit and one copy of it is ever in memory."""
    bomb = compress(coding, bytes(100_000_000))
    assert len(bomb) < 1_000_000
    tracemalloc.start()
    with pytest.raises(TooLarge, match="more than 1000000 bytes"):
        inflate(coding, bomb, 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize(
    ("coding", "body", "words"),
    [
        ("gzip", b"not gzip", "not gzip"),
        ("gzip", gzip.compress(b"hello", mtime=0)[:-4], "ends too early"),
        ("gzip", gzip.compress(b"hello", mtime=0) * 2, "after its gzip stream"),
        ("gzip", b"", "ends too early"),
        ("deflate", zlib.compress(b"hello") + b"x", "1 bytes after"),
        ("deflate", zlib.compress(b"hello")[:-1], "ends too early"),
    ],
)
def test_a_broken_stream_is_named(coding: str, body: bytes, words: str) -> None:
    """A stream that is none, is cut off, or has something behind it says which."""
    with pytest.raises(BadCall, match=words):
        inflate(coding, body, 1000)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (b"gzip, deflate, br", "gzip"),
        (b"deflate", "deflate"),
        (b"gzip;q=0.5, deflate;q=0.8", "deflate"),
        (b"x-gzip", "gzip"),
        (b"*;q=0.1", "gzip"),
        (b"gzip;q=0, *", "deflate"),
        (b"identity;q=1, gzip;q=0.9", None),
        (b"identity, gzip", "gzip"),
        (b"identity;q=0.5, gzip;q=0.5", "gzip"),
        (b"gzip;q=0", None),
        (b"gzip;q=no", None),
        (b"br, zstd", None),
        (b"", None),
    ],
)
def test_accept_encoding(header: bytes, coding: str | None) -> None:
    """The client's weights decide."""
    assert accepted_coding(header) == coding


def test_unknown_codings_are_named() -> None:
    """A coding that nobody here speaks, or several, say what was expected."""
    for value in (b"br", b"gzip, deflate", b"zstd"):
        with pytest.raises(Unsupported, match="expected gzip, deflate or none"):
            content_coding(value)


def body() -> bytes:
    """A call with many rows that compresses well."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [ROWS, 3], "data": [1.0, 2.0, 3.0] * ROWS}
    return orjson.dumps({"inputs": [tensor]})


def ask(gateway: Gateway, data: bytes, **headers: str) -> Any:
    """Post, and do not let the client inflate the answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.http.request("POST", gateway.url + INFER, body=data, headers=named, decode_content=False)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_both_ways(gateway: Gateway, coding: str) -> None:
    """A compressed call has the answer of the plain one, compressed; the header's length is that of the plain JSON."""
    packed: Callable[[bytes], bytes] = gzip.compress if coding == "gzip" else zlib.compress
    plain = ask(gateway, body())
    assert "Content-Encoding" not in plain.headers
    answer = ask(gateway, packed(body()), Content_Encoding=coding, Accept_Encoding=coding)
    assert (answer.status, answer.headers["Content-Encoding"]) == (200, coding)
    assert len(answer.data) < len(plain.data) / 10
    inflated = inflate(coding, answer.data, 10_000_000)
    assert orjson.loads(inflated)["outputs"] == orjson.loads(plain.data)["outputs"]
    small = ask(gateway, packed(b'{"inputs": []}'), Content_Encoding=coding, Accept_Encoding=coding)
    assert (small.status, small.headers.get("Content-Encoding")) == (400, None)


def test_what_does_not_pay_is_left_as_it_is(gateway: Gateway) -> None:
    """A small answer and one that would not shrink go as they are, though the client would take them compressed."""
    rows = np.random.default_rng(1).normal(size=(ROWS, 3)).astype("<f4")
    head = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [ROWS, 3],
                    "parameters": {"binary_data_size": rows.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    length = {"Inference_Header_Content_Length": str(len(head)), "Accept_Encoding": "gzip"}
    answer = ask(gateway, head + rows.tobytes(), **length)
    assert answer.status == 200
    assert len(answer.data) > COMPRESSED_BYTES_MIN
    part = int(answer.headers["Inference-Header-Content-Length"])
    plain = answer.data
    if "Content-Encoding" in answer.headers:
        # Noise shrinks by a few percent at most: then it was worth it.
        plain = gzip.decompress(answer.data)
        assert len(answer.data) < len(plain)
    found = np.frombuffer(plain[part:], "<f4").reshape(ROWS, 2)[:, 0]
    version = orjson.loads(plain[:part])["model_version"]
    np.testing.assert_allclose(found, rows.sum(axis=1) * int(version), rtol=1e-4, atol=1e-5)


def test_bad_codings_on_a_real_gateway(gateway: Gateway) -> None:
    """415 for an unknown coding, 400 for a broken stream, 413 for a bomb; the connection and the server live."""
    assert ask(gateway, body(), Content_Encoding="br").status == 415
    broken = ask(gateway, b"\x1f\x8b nonsense", Content_Encoding="gzip")
    assert broken.status == 400
    assert "not gzip" in orjson.loads(broken.data)["error"]
    bomb = ask(gateway, gzip.compress(bytes(65 * 1024 * 1024)), Content_Encoding="gzip")
    assert bomb.status == 413
    assert "inflates to more than" in orjson.loads(bomb.data)["error"]
    assert gateway.call()[0] == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_triton_client_compresses(gateway: Gateway, coding: str, binary: bool) -> None:
    """The reference client with compression both ways reads the right numbers, in JSON and in binary."""
    client = tritonclient.http.InferenceServerClient(gateway.url.removeprefix("http://"))
    rows = (np.arange(ROWS * 3, dtype=np.float32) % 100).reshape(ROWS, 3)
    given_rows = tritonclient.http.InferInput("x", [ROWS, 3], "FP32")
    given_rows.set_data_from_numpy(rows, binary_data=binary)
    result = client.infer(
        "signs",
        [given_rows],
        model_version="1",
        outputs=[tritonclient.http.InferRequestedOutput("y", binary_data=binary)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    np.testing.assert_allclose(result.as_numpy("y")[:, 0], rows.sum(axis=1))
    client.close()

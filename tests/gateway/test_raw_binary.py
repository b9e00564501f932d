"""The raw binary request: the body is the tensor, and the schema says of which shape."""

import numpy as np
import pytest

from bundles.schema import TensorSpec
from gateway.errors import BadCall
from gateway.raw_binary import decode_raw, raw_shape
from gateway.schema import Schema
from tests.conftest import Gateway


@pytest.mark.parametrize(
    ("datatype", "shape", "size", "expected"),
    [
        ("FP32", (-1, 3), 12, [1, 3]),
        ("UINT8", (-1, 2, -1), 10, [1, 2, 5]),
        ("INT64", (4,), 32, [4]),
        ("FP16", (2, -1), 12, [2, 3]),
        ("BYTES", (1,), 7, [1]),
        ("BYTES", (-1,), 7, [1]),
        ("BYTES", (-1, 1), 0, [1, 1]),
    ],
)
def test_the_bytes_decide_one_open_size(datatype: str, shape: tuple[int, ...], size: int, expected: list[int]) -> None:
    """The batch is one, and a single open size is what is left."""
    spec = TensorSpec("x", datatype, shape)
    assert raw_shape(spec, size, batched=Schema((spec,), ()).batched) == expected


@pytest.mark.parametrize(
    ("datatype", "shape", "size", "words"),
    [
        ("FP32", (-1, 3), 24, "24 bytes, expected 12"),
        ("FP32", (-1, 3), 0, "0 bytes, expected 12"),
        ("FP32", (2, -1), 12, "expected a multiple of 8"),
        ("FP32", (-1, -1, -1), 12, "one open size at most"),
        ("BYTES", (-1, 2), 12, "one element a row"),
    ],
)
def test_what_the_bytes_can_not_decide(datatype: str, shape: tuple[int, ...], size: int, words: str) -> None:
    """Too few or too many bytes, and shapes that they do not decide, are refused with what was expected."""
    spec = TensorSpec("x", datatype, shape)
    with pytest.raises(BadCall, match=words):
        raw_shape(spec, size, batched=Schema((spec,), ()).batched)


def test_bytes_are_one_element_whatever_is_in_them() -> None:
    """A BYTES body is its one element, with NUL and what is no UTF-8."""
    (tensor,) = decode_raw(b"\x00\xff\x00", Schema((TensorSpec("x", "BYTES", (-1,)),), ())).inputs
    assert (tensor.shape, tensor.data) == ([1], b"\x03\x00\x00\x00\x00\xff\x00")


def test_two_inputs_need_a_json_part() -> None:
    """Which bytes are whose only a JSON part can say."""
    two = (TensorSpec("x", "FP32", (-1,)), TensorSpec("y", "FP32", (-1,)))
    with pytest.raises(BadCall, match="2 inputs, expected one"):
        decode_raw(bytes(8), Schema(two, ()))


def test_a_raw_call(gateway: Gateway) -> None:
    """Twelve bytes are a call, and its answer is binary throughout."""
    row = np.array([1, 2, 3], "<f4")
    answer = gateway.http.request(
        "POST",
        gateway.url + "/v2/models/signs/versions/1/infer",
        body=row.tobytes(),
        headers={"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"},
    )
    assert answer.status == 200
    part = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.headers["Content-Type"] == "application/octet-stream"
    np.testing.assert_allclose(np.frombuffer(answer.data[part:], "<f4"), [6, -6])
    status, refused, _headers = gateway.post(
        "/v2/models/signs/infer", row.tobytes() + b"\x00", Inference_Header_Content_Length="0"
    )
    assert status == 400
    assert "13 bytes, expected 12" in refused["error"]

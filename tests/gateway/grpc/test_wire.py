"""Tensors in protobuf messages: every datatype, raw and typed, both ways, and what is refused."""

from typing import Any

import numpy as np
import pytest

from bundles.schema import DATATYPES, TensorSpec
from gateway.call import Arrived, Call, Source
from gateway.errors import BadCall
from gateway.grpc.wire import FIELDS, GrpcInference, InferRequest, InferResponse, delimited
from gateway.schema import Schema
from monitors.log.record import Tensor, new_id

WIRE = GrpcInference("ModelInfer")
SOURCE = Source("signs", "7", "sha256:abc", "stable")
PREDICTION_ID = new_id(1_700_000_000_123_456_789)
TEXTS = [b"", b"zero \0 inside", b"\xff\xfe no text"]


def extremes(datatype: str) -> list[Any]:
    """The smallest value of a datatype, the largest, and one between."""
    if datatype == "BYTES":
        return TEXTS
    dtype = DATATYPES[datatype][0]
    if dtype.kind == "b":
        return [True, False, True]
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    values: list[Any] = np.array([limits.min, 1, limits.max], dtype).tolist()
    return values


def data_of(datatype: str, values: list[Any]) -> bytes:
    """The raw form."""
    if datatype == "BYTES":
        return b"".join(len(one).to_bytes(4, "little") + one for one in values)
    return np.array(values, DATATYPES[datatype][0]).tobytes()


def decode(request: Any) -> Call:
    """Decode a request as a call for a version with one input."""
    arrived = Arrived("signs", None, WIRE, request)
    return WIRE.decode(arrived, Schema((TensorSpec("x", "FP32", (-1, 3)),), ()))


def encode(call: Call, *outputs: Tensor) -> Any:
    """Encode an answer, and read it as a client does."""
    body, json_length = WIRE.encode(call, outputs, SOURCE, PREDICTION_ID)
    assert json_length is None
    return InferResponse.FromString(body)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw_contents(datatype: str) -> None:
    """Raw tensors go through untouched, in and out, in the order of the inputs."""
    data = data_of(datatype, extremes(datatype))
    request = InferRequest(id="mine", raw_input_contents=[data, data_of("INT8", [5])])
    request.inputs.add(name="x", datatype=datatype, shape=[3])
    request.inputs.add(name="y", datatype="INT8", shape=[1])
    call = decode(request)
    assert call.inputs == [Tensor("x", datatype, [3], data), Tensor("y", "INT8", [1], b"\5")]
    answer = encode(call, *call.inputs)
    assert list(answer.raw_output_contents) == [data, b"\5"]
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [
        ("x", datatype, [3]),
        ("y", "INT8", [1]),
    ]
    assert not any(one.HasField("contents") for one in answer.outputs)
    assert (answer.id, answer.model_name, answer.model_version) == ("mine", "signs", "7")
    assert {key: value.string_param for key, value in answer.parameters.items()} == {
        "snowgate_prediction_id": PREDICTION_ID,
        "snowgate_bundle": "sha256:abc",
        "snowgate_variant": "stable",
    }


@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_contents(datatype: str) -> None:
    """Typed tensors become the same bytes, and a typed call gets a typed answer."""
    values = extremes(datatype)
    request = InferRequest()
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[3])
    getattr(tensor.contents, FIELDS[datatype]).extend(values)
    call = decode(request)
    assert call.inputs == [Tensor("x", datatype, [3], data_of(datatype, values))]
    answer = encode(call, *call.inputs)
    assert list(getattr(answer.outputs[0].contents, FIELDS[datatype])) == values
    assert not answer.raw_output_contents


@pytest.mark.parametrize("datatype", sorted(DATATYPES.keys() - FIELDS))
def test_datatypes_that_travel_raw_only(datatype: str) -> None:
    """A typed call whose output has no typed field gets all of its outputs raw."""
    request = InferRequest()
    request.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(1)
    half = Tensor("h", datatype, [1], b"\0\x3c")
    answer = encode(decode(request), half, Tensor("y", "INT8", [1], b"\7"))
    assert list(answer.raw_output_contents) == [b"\0\x3c", b"\7"]
    request.inputs[0].datatype = datatype
    with pytest.raises(BadCall, match=f"'x': {datatype} without raw_input_contents"):
        decode(request)


def test_requested_outputs_and_parameters() -> None:
    """Only the outputs that are asked for, in that order; parameters of every kind are read."""
    request = InferRequest(raw_input_contents=[b"\1"])
    request.inputs.add(name="x", datatype="INT8", shape=[1])
    request.outputs.add(name="b")
    request.outputs.add(name="a")
    request.parameters["timeout"].int64_param = 5
    request.parameters["flag"].bool_param = False
    request.parameters["word"].string_param = "w"
    request.parameters["real"].double_param = 0.5
    request.parameters["large"].uint64_param = 2**64 - 1
    call = decode(request)
    assert call.parameters == {"timeout": 5, "flag": False, "word": "w", "real": 0.5, "large": 2**64 - 1}
    a, b, c = (Tensor(name, "INT8", [1], b"\1") for name in "abc")
    assert [one.name for one in encode(call, a, b, c).outputs] == ["b", "a"]


def bad_requests() -> dict[str, tuple[Any, str]]:
    """Requests that are refused, and what they are told."""

    def request(*raw: bytes, name: str = "x", datatype: str = "INT32", shape: Any = (2,), **contents: Any) -> Any:
        made = InferRequest(raw_input_contents=raw)
        made.inputs.add(name=name, datatype=datatype, shape=shape, contents=contents or None)
        return made

    twice = request(b"12345678")
    twice.inputs.add(name="x", datatype="INT32", shape=[2])
    repeated = request(b"12345678")
    repeated.outputs.add(name="y")
    repeated.outputs.add(name="y")
    valueless = request(b"12345678")
    valueless.parameters["p"].Clear()
    shared = request()
    shared.inputs[0].parameters["shared_memory_region"].string_param = "here"
    return {
        "no inputs": (InferRequest(), "inputs: none"),
        "too many inputs": (
            InferRequest(inputs=[{"name": "x"}] * 1_025),
            "inputs: 1025, expected at most 1024",
        ),
        "too many outputs": (
            InferRequest(inputs=[{"name": "x"}], outputs=[{"name": "y"}] * 1_025),
            "outputs: 1025, expected at most 1024",
        ),
        "many sizes": (request(b"1", shape=[2**62] * 2_000), "'x': dimensions: 2000, expected at most 64"),
        "no name": (request(b"12345678", name=""), r"inputs\[0\].name"),
        "unknown datatype": (request(b"12345678", datatype="INT33"), "'x': datatype INT33, expected one of BOOL"),
        "negative shape": (
            request(b"12345678", shape=(-1, 2)),
            r"'x': shape \[-1, 2\], expected integers, none below 0",
        ),
        "too few bytes": (request(b"1234567"), "'x': 7 bytes, expected 8"),
        "huge shape": (request(b"12345678", shape=(2**4, 2**60 + 2)), "'x': 8 bytes, expected 73786976294838206592"),
        "broken strings": (request(b"\x09\0\0\0no", datatype="BYTES", shape=[1]), "'x': 6 bytes hold 1 BYTES"),
        "input twice": (twice, "'x': given twice"),
        "raw for some": (request(b"12345678", b"1"), "raw_input_contents: 2, expected 1"),
        "both": (request(b"12345678", int_contents=[1, 2]), "'x': has both"),
        "wrong field": (request(fp32_contents=[1, 2]), r"'x': contents.fp32_contents, expected contents.int_contents"),
        "too few elements": (request(int_contents=[1]), "'x': 1 elements, expected 2"),
        "out of range": (request(datatype="INT8", int_contents=[1, 128]), "'x': data holds 128, outside"),
        "output twice": (repeated, "'y': asked for twice"),
        "parameter without value": (valueless, "parameters.p: nothing"),
        "shared memory": (shared, "'x': shared memory"),
    }


@pytest.mark.parametrize("case", bad_requests())
def test_bad_requests_are_told_what_is_wrong(case: str) -> None:
    """The sentence names the field, what came and what was expected."""
    request, words = bad_requests()[case]
    with pytest.raises(BadCall, match=words):
        decode(request)


@pytest.mark.parametrize("size", [0, 127, 128, 300, 2**14, 2**31])
def test_lengths_are_written_as_protobuf_does(size: int) -> None:
    """The tag and length that are written by hand are those that protobuf reads."""
    written = InferResponse(raw_output_contents=[bytes(min(size, 2**14))]).SerializeToString()
    if size <= 2**14:
        assert written.startswith(delimited(6, size))
    else:
        assert delimited(6, size).hex() == "328080808008"

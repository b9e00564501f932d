"""Calls and answers as bytes: what goes in comes out, and nothing is believed that the bytes do not hold."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.schema import DATATYPES
from gateway.call import Call, Source
from gateway.errors import BadCall, ModelFailed
from gateway.protocol import decode, elements, encode, json_data
from monitors.log.record import Tensor

SOURCE = Source("m", "1", "sha256:ab", "stable")
NUMERIC = [name for name in DATATYPES if name not in ("BYTES", "FP16", "BF16", "BOOL")]


def tensor(datatype: str, shape: list[int], data: bytes) -> Tensor:
    """A tensor named x."""
    return Tensor(name="x", datatype=datatype, shape=shape, data=data)


@pytest.mark.parametrize("datatype", NUMERIC)
def test_numbers_survive_json_and_binary(datatype: str) -> None:
    """The datatype's extremes come through JSON and through binary as the same bytes."""
    dtype = DATATYPES[datatype][0]
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    values = np.array([limits.min, 0, limits.max], dtype=dtype)
    given = {"name": "x", "datatype": datatype, "shape": [3], "data": values.tolist()}
    call = decode(orjson.dumps({"inputs": [given]}), None)
    assert call.inputs[0].data == values.tobytes()
    del given["data"]
    given["parameters"] = {"binary_data_size": values.nbytes}
    head = orjson.dumps({"inputs": [given]})
    assert decode(head + values.tobytes(), len(head)).inputs[0].data == values.tobytes()


def test_text_survives_both_ways() -> None:
    """Strings with an embedded NUL through JSON; bytes that are no UTF-8 through binary only."""
    given = {"name": "x", "datatype": "BYTES", "shape": [2], "data": ["snow\0man", "❄"]}
    call = decode(orjson.dumps({"inputs": [given]}), None)
    assert elements(call.inputs[0].data) == [b"snow\0man", "❄".encode()]
    assert json_data(call.inputs[0]) == ["snow\0man", "❄"]
    raw = (2).to_bytes(4, "little") + b"\xff\x00"
    with pytest.raises(ModelFailed, match="not UTF-8"):
        json_data(tensor("BYTES", [1], raw))


def test_an_answer_carries_what_was_asked_for() -> None:
    """Only the outputs that were asked for, in that order, each in the form that was asked for."""
    outputs = [Tensor(name=name, datatype="FP32", shape=[1], data=np.float32(1).tobytes()) for name in ("a", "b", "c")]
    wanted = {"outputs": [{"name": "c", "parameters": {"binary_data": True}}, {"name": "a"}]}
    given = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    call = decode(orjson.dumps({"inputs": [given]} | wanted), None)
    body, json_length = encode(call, outputs, SOURCE, "id")
    assert json_length is not None
    answer = orjson.loads(body[:json_length])
    assert [one["name"] for one in answer["outputs"]] == ["c", "a"]
    assert answer["outputs"][1]["data"] == [1.0]
    assert (answer["model_name"], answer["model_version"], "id" in answer) == ("m", "1", False)
    assert answer["parameters"]["snowgate_prediction_id"] == "id"
    assert body[json_length:] == np.float32(1).tobytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_carry_is_said(value: float) -> None:
    """NaN and infinity are an error that names the output and the way out; binary carries them."""
    output = tensor("FP32", [1], np.float32(value).tobytes())
    with pytest.raises(ModelFailed, match="binary_data"):
        encode(Call([]), [output], SOURCE, "id")
    body, _length = encode(Call([], binary_output=True), [output], SOURCE, "id")
    assert body.endswith(np.float32(value).tobytes())


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(-5, 300)))
def test_any_bytes_are_refused_or_decoded(body: bytes, json_length: int | None) -> None:
    """Whatever comes, the answer is a call or a BadCall."""
    try:
        decode(body, json_length)
    except BadCall:
        return


scalars = st.one_of(st.none(), st.booleans(), st.integers(-3, 2**65), st.floats(), st.text(max_size=3))
shapes = st.one_of(scalars, st.lists(scalars, max_size=3))
datas = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@given(
    st.fixed_dictionaries(
        {"name": scalars, "datatype": st.one_of(scalars, st.sampled_from(list(DATATYPES))), "shape": shapes},
        optional={"data": datas, "parameters": st.dictionaries(st.just("binary_data_size"), scalars)},
    )
)
def test_any_tensor_is_refused_or_whole(described: dict[str, object]) -> None:
    """A tensor that is accepted has exactly the bytes that its shape and datatype ask for."""
    try:
        body = orjson.dumps({"inputs": [described]})
    except TypeError:
        return  # Integers beyond 64 bits are no JSON of ours to send.
    try:
        (found,) = decode(body, None).inputs
    except BadCall:
        return
    if found.datatype != "BYTES":
        assert len(found.data) == int(np.prod(found.shape)) * DATATYPES[found.datatype][1]

"""The usual call: what is decoded at one stroke is what looking at each part gives, and the usual ones are taken."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles.schema import DATATYPES
from gateway.protocol import decode_with_care
from gateway.usual import decode_usual

SCALARS = st.one_of(
    st.integers(-3, 300),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
)
PARAMETERS: st.SearchStrategy[Any] = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "binary_data_output", "timeout"]),
    st.one_of(st.integers(0, 24), SCALARS, st.just([])),
    max_size=2,
)
DATA = st.one_of(
    st.lists(st.integers(0, 1), max_size=4),
    st.lists(st.floats(-4, 4), max_size=4),
    st.lists(SCALARS, max_size=4),
    st.just([[1, 2]]),
    st.none(),
)
INPUTS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "b", "", 7]),
        "datatype": st.sampled_from([*DATATYPES, "FP99"]),
        "shape": st.lists(st.integers(-1, 4), max_size=3),
        "data": DATA,
        "parameters": st.one_of(st.none(), PARAMETERS),
        "more": SCALARS,
    },
)
OUTPUTS = st.fixed_dictionaries(
    {}, optional={"name": st.sampled_from(["o", "p", 1]), "parameters": st.one_of(st.none(), PARAMETERS)}
)
CALLS = st.fixed_dictionaries(
    {"inputs": st.lists(INPUTS, max_size=3)},
    optional={
        "id": st.one_of(st.none(), st.text(max_size=2), st.integers()),
        "parameters": st.one_of(st.none(), PARAMETERS),
        "outputs": st.one_of(st.none(), st.lists(OUTPUTS, max_size=2)),
        "more": SCALARS,
    },
)


@settings(max_examples=1_500)
@given(CALLS, st.binary(max_size=24))
def test_what_is_taken_at_one_stroke_is_what_care_gives(document: object, tail: bytes) -> None:
    """For any call, right or wrong: the quick way gives the same call as the careful one, or leaves it to that."""
    head = json.dumps(document).encode()
    usual = decode_usual(memoryview(head), memoryview(tail))
    if usual is not None:
        assert usual == decode_with_care(memoryview(head), memoryview(tail))


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("BYTES", "FP16", "BF16", "BOOL")])
@pytest.mark.parametrize("more", [{}, {"id": "x", "parameters": {"timeout": 5}, "outputs": [{"name": "o"}]}])
def test_the_usual_calls_are_taken(datatype: str, more: dict[str, object]) -> None:
    """Numbers in JSON and binary tensors, with an id, parameters and outputs or without."""
    described = {"name": "a", "datatype": datatype, "shape": [1, 3]}
    size = 3 * DATATYPES[datatype][1]
    flat = orjson.dumps({"inputs": [{**described, "data": [1, 2, 3]}]} | more)
    binary = orjson.dumps({"inputs": [{**described, "parameters": {"binary_data_size": size}}]} | more)
    in_json = decode_usual(memoryview(flat), memoryview(b""))
    in_binary = decode_usual(memoryview(binary), memoryview(bytes(size)))
    assert in_json is not None
    assert in_binary is not None
    assert in_binary.inputs[0].data == bytes(size)


@pytest.mark.parametrize(
    "body", [b"", b"[" * 100_000, b"{", b'{"inputs": []}', b'{"inputs": [{"name": "\xff"}]}', b"null", b'{"x": "\xff"}']
)
def test_what_is_no_call_is_left_alone(body: bytes) -> None:
    """Nothing is raised here: what is wrong is said by the careful way."""
    assert decode_usual(memoryview(body), memoryview(b"")) is None

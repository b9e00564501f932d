"""The Open Inference Protocol, version 2, over HTTP: calls in, answers out, with its binary tensor extension.

A tensor travels through the gateway as raw bytes (little-endian, row-major; BYTES elements with a 32-bit length
before each), whichever way it came: binary tensors are sliced out of the body and never looked at, JSON numbers are
turned into the same bytes. What the sender claims is checked against the bytes that are there before anything is
multiplied or allocated.

Source: the protocol's `inference_rest.md`, and Triton's `extension_binary_data.md` for the extension.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import isfinite, prod
from struct import error as StructError  # noqa: N812 - a class, whatever its module calls it
from typing import Any

import numpy as np
import orjson

from bundles.schema import DATATYPES
from gateway.call import Arrived, Call, Source
from gateway.errors import BadCall, InferenceError, ModelFailed
from gateway.raw_binary import decode_raw
from gateway.schema import Schema, WantedOutput, kind, shown
from gateway.usual import DIMENSIONS_MAX, TENSORS_MAX, decode_usual, numbers
from monitors.log.record import Tensor

BINARY_ONLY = frozenset({"FP16", "BF16"})
"""JSON has no agreed form for these; the protocol's text calls it problematic and so it is refused."""


class OpenInference:
    """The wire of this protocol over HTTP."""

    operation = "POST /v2/models/{model}/infer"

    def decode(self, arrived: Arrived, schema: Schema) -> Call:
        """As `Wire.decode`."""
        if arrived.json_length == 0:
            return decode_raw(arrived.body, schema)
        return decode(arrived.body, arrived.json_length)

    def encode(
        self, call: Call, outputs: Sequence[Tensor], source: Source, prediction_id: str
    ) -> tuple[bytes, int | None]:
        """As `Wire.encode`."""
        return encode(call, outputs, source, prediction_id)

    def refuse(self, error: InferenceError, prediction_id: str) -> bytes:
        """The protocol's own error body, and the id under which the refusal is in the log."""
        return orjson.dumps({"error": error.message, "prediction_id": prediction_id})


def decode(body: bytes | bytearray | memoryview, json_length: int | None) -> Call:
    """Decode a call's body.

    `json_length` is the header `Inference-Header-Content-Length`: the length of the JSON part, the rest being binary
    tensors. None means that all of it is JSON.

    Raises:
        BadCall: naming the field, what came, and what was expected.
    """
    view = memoryview(body)
    if json_length is not None and not 0 < json_length <= len(view):
        msg = f"Inference-Header-Content-Length: {json_length}, expected at most {len(view)}, the length of the body"
        raise BadCall(msg)
    head = view if json_length is None else view[:json_length]
    tail = view[len(head) :]
    usual = decode_usual(head, tail)
    return decode_with_care(head, tail) if usual is None else usual


def decode_with_care(head: memoryview, tail: memoryview) -> Call:
    """Decode any call, looking at each part, so as to say what is wrong with it. Raises BadCall."""
    try:
        document = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        msg = f"body: not JSON: {error}"
        raise BadCall(msg) from None
    if not isinstance(document, dict):
        msg = f"body: {kind(document)}, expected an object with `inputs`"
        raise BadCall(msg)
    parameters = _parameters(document, "parameters")
    return Call(
        _decode_inputs(document, tail),
        client_id=_client_id(document),
        parameters=parameters,
        outputs=tuple(_wanted(document)),
        binary_output=parameters.get("binary_data_output") is True,
    )


def _decode_inputs(document: dict[str, Any], tail: memoryview) -> list[Tensor]:
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise BadCall(f"inputs: {kind(inputs)}, expected an array of at least one tensor")
    check_at_most("inputs", len(inputs), TENSORS_MAX)
    tensors, offset, seen = [], 0, set()
    for position, item in enumerate(inputs):
        if not isinstance(item, dict):
            raise BadCall(f"inputs[{position}]: {kind(item)}, expected an object with name, datatype, shape and data")
        name, datatype, shape = _described(item, position)
        if name in seen:
            raise BadCall(f"input '{shown(name)}': given twice, expected once")
        seen.add(name)
        size = None
        if "parameters" in item:
            size = _parameters(item, f"input '{shown(name)}': parameters").get("binary_data_size")
        if size is None:
            data = json_bytes(name, datatype, shape, item)
        else:
            data = _binary_bytes(name, size, item, tail, offset)
            offset += size
            check_size(f"input '{shown(name)}'", datatype, shape, data)
        tensors.append(Tensor(name=name, datatype=datatype, shape=shape, data=data))
    if offset != len(tail):
        msg = f"body: {len(tail)} bytes after the JSON part, expected {offset}, the sum of all binary_data_size"
        raise BadCall(msg)
    return tensors


def _described(item: dict[str, Any], position: int) -> tuple[str, str, list[int]]:
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str) or not name:
        raise BadCall(f"inputs[{position}].name: {kind(name)}, expected a string")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadCall(f"input '{shown(name)}': datatype {shown(datatype)}, expected one of {', '.join(DATATYPES)}")
    if not isinstance(shape, list) or [size for size in shape if type(size) is not int or size < 0]:
        raise BadCall(f"input '{shown(name)}': shape {shown(shape)}, expected an array of integers, none below 0")
    check_at_most(f"input '{shown(name)}': dimensions", len(shape), DIMENSIONS_MAX)
    return name, datatype, shape


def check_at_most(what: str, count: int, limit: int) -> None:
    """Check a count against its limit. Raises BadCall."""
    if count > limit:
        raise BadCall(f"{what}: {count}, expected at most {limit}")


def _binary_bytes(name: str, size: object, item: dict[str, Any], tail: memoryview, offset: int) -> bytes:
    if "data" in item:
        raise BadCall(f"input '{shown(name)}': has both data and binary_data_size, expected one of them")
    if type(size) is not int or size < 0:
        raise BadCall(f"input '{shown(name)}': binary_data_size {shown(size)}, expected a count of bytes")
    if size > len(tail) - offset:
        msg = f"input '{shown(name)}': binary_data_size {size}, but {len(tail) - offset} bytes are left in the body"
        raise BadCall(msg)
    return bytes(tail[offset : offset + size])


def check_size(what: str, datatype: str, shape: Sequence[int], data: bytes) -> None:
    """Check that `data` holds exactly the elements that `shape` claims. Raises BadCall."""
    count = prod(shape)
    if datatype == "BYTES":
        found, offset = 0, 0
        while offset + 4 <= len(data):
            offset += 4 + int.from_bytes(data[offset : offset + 4], "little")
            found += 1
        if found != count or offset != len(data):
            msg = f"{what}: {len(data)} bytes hold {found} BYTES elements, expected {count} for shape {list(shape)}"
            raise BadCall(msg)
        return
    width = DATATYPES[datatype][1]
    if len(data) != count * width:
        msg = (
            f"{what}: {len(data)} bytes, expected {count * width} for shape {list(shape)} of {datatype} "
            f"({width} bytes an element)"
        )
        raise BadCall(msg)


def json_bytes(name: str, datatype: str, shape: list[int], item: dict[str, Any]) -> bytes:
    """Return the bytes of an input whose `data` stands in JSON, flat or nested as its shape. Raises BadCall."""
    what = f"input '{shown(name)}'"
    if "data" not in item:
        msg = f"{what}: has no data, expected data or parameters.binary_data_size"
        raise BadCall(msg)
    data = item["data"]
    if datatype in BINARY_ONLY:
        msg = f"{what}: {datatype} in JSON, expected binary data (parameters.binary_data_size)"
        raise BadCall(msg)
    if not isinstance(data, list):
        msg = f"{what}: data is {kind(data)}, expected an array"
        raise BadCall(msg)
    if datatype == "BYTES":
        return _strings(what, shape, data)
    packed = _packed(datatype, shape, data)
    if packed is not None:
        return packed
    try:
        array = np.array(data)
    except ValueError:
        msg = f"{what}: data is a ragged array, expected a flat array or one nested as shape {shape}"
        raise BadCall(msg) from None
    if array.size != prod(shape):
        msg = f"{what}: {array.size} elements, expected {prod(shape)} for shape {shape}"
        raise BadCall(msg)
    if array.ndim > 1 and list(array.shape) != shape:
        msg = f"{what}: data nested as {list(array.shape)}, expected a flat array or shape {shape}"
        raise BadCall(msg)
    if array.size and array.dtype.kind in "fO" and DATATYPES[datatype][0].kind in "iu":
        # numpy makes floats of integers that no one type of its own holds, such as 0 beside 2^64 - 1.
        exact = np.array(data, dtype=object).ravel().tolist()
        if all(type(one) is int for one in exact):
            check_range(what, datatype, min(exact), max(exact))
            return np.array(exact, dtype=DATATYPES[datatype][0]).tobytes()
    return _numbers(what, datatype, array)


def _packed(datatype: str, shape: list[int], data: list[Any]) -> bytes | None:
    """Pack a flat array of numbers in one call that checks kind and range as it goes; None when it is none.

    Some ten times as fast as looking at it from numpy, which then says what is wrong.
    """
    count = len(data)
    if count != prod(shape) or not count or type(data[0]) not in (int, float):
        return None
    try:
        return numbers(datatype, count).pack(*data)
    except (StructError, OverflowError, KeyError):
        return None


def _numbers(what: str, datatype: str, array: np.ndarray[Any, Any]) -> bytes:
    """Turn JSON numbers into the datatype's bytes; a number that the datatype can't hold is refused, not bent."""
    dtype = DATATYPES[datatype][0]
    accepted = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[dtype.kind]
    if array.dtype.kind not in accepted and array.size:
        names = {
            "b": "booleans",
            "i": "integers",
            "u": "integers",
            "f": "numbers",
            "U": "strings",
            "O": "mixed values",
        }
        came = names.get(array.dtype.kind, array.dtype.name)
        msg = f"{what}: data holds {came}, expected {names[dtype.kind]} for {datatype}"
        raise BadCall(msg)
    if array.size and dtype.kind != "b":
        check_range(what, datatype, array.min(), array.max())
    return array.astype(dtype).tobytes()


def check_range(what: str, datatype: str, low: Any, high: Any) -> None:
    """Check that a datatype can hold the smallest and the largest of some numbers. Raises BadCall."""
    dtype = DATATYPES[datatype][0]
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    if low < limits.min or high > limits.max:
        msg = f"{what}: data holds {low if low < limits.min else high}, outside the range of {datatype}"
        raise BadCall(msg)


def _strings(what: str, shape: list[int], data: list[Any]) -> bytes:
    flat: list[Any] = data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(one, list) for one in flat):
            msg = f"{what}: data is a ragged array, expected a flat array or one nested as shape {shape}"
            raise BadCall(msg)
        flat = [element for one in flat for element in one]
    if len(flat) != prod(shape):
        msg = f"{what}: {len(flat)} elements, expected {prod(shape)} for shape {shape}"
        raise BadCall(msg)
    parts = []
    for element in flat:
        if not isinstance(element, str):
            msg = f"{what}: data holds {kind(element)}, expected strings for BYTES"
            raise BadCall(msg)
        raw = element.encode()
        parts.append(len(raw).to_bytes(4, "little") + raw)
    return b"".join(parts)


def _parameters(item: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = item.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        msg = f"{what}: {kind(parameters)}, expected an object"
        raise BadCall(msg)
    for key, value in parameters.items():
        if not isinstance(value, str | int | float | bool):
            msg = f"{what}.{shown(key)}: {kind(value)}, expected a string, a number or a boolean"
            raise BadCall(msg)
    return parameters


def _client_id(document: dict[str, Any]) -> str | None:
    client_id = document.get("id")
    if client_id is not None and not isinstance(client_id, str):
        msg = f"id: {kind(client_id)}, expected a string"
        raise BadCall(msg)
    return client_id or None


def _wanted(document: dict[str, Any]) -> list[WantedOutput]:
    outputs = document.get("outputs")
    if outputs is None:
        return []
    if not isinstance(outputs, list):
        msg = f"outputs: {kind(outputs)}, expected an array"
        raise BadCall(msg)
    check_at_most("outputs", len(outputs), TENSORS_MAX)
    wanted: list[WantedOutput] = []
    for position, item in enumerate(outputs):
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            msg = f"outputs[{position}]: {kind(item)}, expected an object with a name"
            raise BadCall(msg)
        if any(one.name == name for one in wanted):
            msg = f"output '{shown(name)}': asked for twice, expected once"
            raise BadCall(msg)
        wanted.append(WantedOutput(name, _parameters(item, f"output '{shown(name)}': parameters").get("binary_data")))
    return wanted


def encode(call: Call, outputs: Sequence[Tensor], source: Source, prediction_id: str) -> tuple[bytes, int | None]:
    """Encode an answer: the body, and the length of its JSON part when binary tensors follow it.

    Raises:
        ModelFailed: an output can't be written in JSON (NaN, infinite, FP16, bytes that are not UTF-8).
    """
    # Written piece by piece: most pieces are the same from call to call, and known by now.
    described: list[bytes] = []
    tail: list[bytes] = []
    for tensor, binary in _chosen(call, outputs):
        begin = _described_output(tensor.name, tensor.datatype, *tensor.shape)
        if binary:
            described.append(b'%b,"parameters":{"binary_data_size":%d}}' % (begin, len(tensor.data)))
            tail.append(tensor.data)
        else:
            described.append(b'%b,"data":%b}' % (begin, orjson.dumps(json_data(tensor))))
    head = b'%b%b"parameters":{"snowgate_prediction_id":"%b",%b},"outputs":[%b]}' % (
        _named(source.model, source.version),
        b"" if call.client_id is None else b'"id":%b,' % orjson.dumps(call.client_id),
        prediction_id.encode(),
        _parameters_of(source.digest, source.variant),
        b",".join(described),
    )
    if not tail:
        return head, None
    return b"".join([head, *tail]), len(head)


@lru_cache(maxsize=1024)
def _named(model: str, version: str) -> bytes:
    return b'{"model_name":%b,"model_version":%b,' % (orjson.dumps(model), orjson.dumps(version))


@lru_cache(maxsize=1024)
def _parameters_of(digest: str, variant: str) -> bytes:
    return orjson.dumps({"snowgate_bundle": digest, "snowgate_variant": variant})[1:-1]


@lru_cache(maxsize=1024)
def _described_output(name: str, datatype: str, *shape: int) -> bytes:
    return orjson.dumps({"name": name, "datatype": datatype, "shape": shape})[:-1]


def _chosen(call: Call, outputs: Sequence[Tensor]) -> Iterable[tuple[Tensor, bool]]:
    """Return the outputs that a call asks for, in its order, and whether each goes as binary."""
    if not call.outputs:
        return [(tensor, call.binary_output) for tensor in outputs]
    by_name = {tensor.name: tensor for tensor in outputs}
    return [(by_name[one.name], call.binary_output if one.binary is None else one.binary) for one in call.outputs]


def json_data(tensor: Tensor) -> Sequence[Any]:
    """Give a tensor's elements, flat, as JSON can carry them. Raises ModelFailed when it can't."""
    way_out = "expected values that JSON can carry; ask for this output with parameters.binary_data = true"
    if tensor.datatype == "BYTES":
        try:
            return [element.decode() for element in elements(tensor.data)]
        except UnicodeDecodeError:
            msg = f"output '{tensor.name}': bytes that are not UTF-8, {way_out}"
            raise ModelFailed(msg) from None
    if tensor.datatype in BINARY_ONLY:
        msg = f"output '{tensor.name}': {tensor.datatype}, {way_out}"
        raise ModelFailed(msg)
    values = numbers(tensor.datatype, prod(tensor.shape)).unpack(tensor.data)
    # One NaN or infinity makes a sum that is not finite. So can finite numbers; those are looked at one by one.
    if tensor.datatype in ("FP32", "FP64") and not isfinite(sum(values)) and not all(map(isfinite, values)):
        msg = f"output '{tensor.name}': NaN or infinity, {way_out}"
        raise ModelFailed(msg)
    return values


def elements(data: bytes) -> list[bytes]:
    """Split a BYTES tensor's raw form into its elements."""
    found, offset = [], 0
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + 4], "little")
        found.append(bytes(data[offset + 4 : offset + 4 + length]))
        offset += 4 + length
    return found

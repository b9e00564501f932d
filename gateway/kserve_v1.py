"""KServe's protocol, version 1, which TensorFlow Serving began: rows in, rows out, in plain JSON.

    {"instances": [row, …]}      a row is the one input's value, or an object with a value for each input
    {"inputs": column}           the one input's values row by row, or an object with such a column for each input
    {"predictions": [row, …]}    a row is the one output's value, or an object with a value for each output

Shapes are not said, they follow from how the lists are nested. An element of BYTES is a string, `{"b64": "…"}` for what
is no text, or, where the bundle declares `content_type = "application/json"`, any JSON value. Behind the wire it is the
same path as every other call.

Source: KServe's `v1-protocol.md`, and `{"b64": …}` from TensorFlow Serving's `api_rest.md`.
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from math import prod
from typing import Any

import orjson

from bundles.schema import TensorSpec
from gateway.call import Arrived, Call, Source
from gateway.errors import BadCall, InferenceError, ModelFailed
from gateway.protocol import elements, json_bytes, json_data
from gateway.schema import Schema, kind, shown
from monitors.log.record import Tensor


class KServeV1:
    """The wire of this protocol."""

    operation = "POST /v1/models/{model}:predict"

    def decode(self, arrived: Arrived, schema: Schema) -> Call:
        """As `Wire.decode`."""
        try:
            document = orjson.loads(arrived.body)
        except orjson.JSONDecodeError as error:
            raise BadCall(f"body: not JSON: {error}") from None
        if not isinstance(document, dict):
            raise BadCall(f"body: {kind(document)}, expected an object with either `instances` or `inputs`")
        if ("instances" in document) == ("inputs" in document):
            came = "both" if "inputs" in document else "neither"
            raise BadCall(f"body: {came} of `instances` and `inputs`, expected one of them")
        by_row = "instances" in document
        columns = _from_rows(document["instances"], schema) if by_row else _from_columns(document["inputs"], schema)
        return Call(inputs=[_tensor(spec, columns[spec.name], batched=schema.batched) for spec in schema.inputs])

    def encode(self, call: Call, outputs: Sequence[Tensor], source: Source, prediction_id: str) -> tuple[bytes, None]:
        """As `Wire.encode`."""
        columns = {tensor.name: _column(tensor, source) for tensor in outputs}
        if len(columns) == 1:
            (rows,) = columns.values()
        else:
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=False)]
        return orjson.dumps({"predictions": rows}), None

    def refuse(self, error: InferenceError, prediction_id: str) -> bytes:
        """As `Wire.refuse`."""
        return orjson.dumps({"error": error.message, "prediction_id": prediction_id})


def _from_rows(instances: Any, schema: Schema) -> dict[str, list[Any]]:
    """Turn rows into a column for each input."""
    if not isinstance(instances, list) or not instances:
        raise BadCall(f"instances: {kind(instances)}, expected an array of at least one row")
    names = [spec.name for spec in schema.inputs]
    if len(names) == 1:
        (spec,) = schema.inputs
        return {spec.name: [_one_value(spec, row) for row in instances]}
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for position, row in enumerate(instances):
        if not isinstance(row, dict) or row.keys() != columns.keys():
            came = ", ".join(map(shown, row)) if isinstance(row, dict) else kind(row)
            raise BadCall(f"instances[{position}]: {came}, expected an object with {', '.join(names)}")
        for name, value in row.items():
            columns[name].append(value)
    return columns


def _one_value(spec: TensorSpec, row: Any) -> Any:
    """The one input's value in a row: the row itself, or what stands under the input's name."""
    named = isinstance(row, dict) and row.keys() == {spec.name}
    return row[spec.name] if named else row


def _from_columns(inputs: Any, schema: Schema) -> dict[str, list[Any]]:
    names = [spec.name for spec in schema.inputs]
    if len(names) == 1 and not isinstance(inputs, dict):
        inputs = {names[0]: inputs}
    if not isinstance(inputs, dict) or inputs.keys() != set(names):
        came = ", ".join(map(shown, inputs)) if isinstance(inputs, dict) else kind(inputs)
        raise BadCall(f"inputs: {came}, expected an object with {', '.join(names)}")
    for name, column in inputs.items():
        if not isinstance(column, list) or not column:
            raise BadCall(f"input '{name}': {kind(column)}, expected an array of at least one row")
    return inputs


def _tensor(spec: TensorSpec, column: list[Any], *, batched: bool) -> Tensor:
    """Make a tensor of a column; without a batch axis the one row is the tensor."""
    if not batched and len(column) > 1:
        raise BadCall(f"input '{spec.name}': {len(column)} rows, expected 1: this model takes no batches")
    row_rank = len(spec.shape) - batched
    values = column if batched else column[0]
    if spec.content_type is not None:
        shape = [1 if size == -1 else size for size in spec.shape]
        shape[:1] = [len(column)] if batched else shape[:1]
        leaves = [_element(spec, one[0] if row_rank and isinstance(one, list) and one else one) for one in column]
        return Tensor(name=spec.name, datatype=spec.datatype, shape=shape, data=_joined(leaves))
    shape = _nesting(spec, values, row_rank + batched)
    if spec.datatype == "BYTES":
        leaves = [_element(spec, one) for one in _leaves(spec, values, shape)]
        return Tensor(name=spec.name, datatype=spec.datatype, shape=shape, data=_joined(leaves))
    data = values if shape else [values]
    return Tensor(spec.name, spec.datatype, shape, json_bytes(spec.name, spec.datatype, shape, {"data": data}))


def _nesting(spec: TensorSpec, value: Any, rank: int) -> list[int]:
    """Read a shape from the first element at each depth; that the others agree is checked where they are read."""
    shape: list[int] = []
    for _ in range(rank):
        if not isinstance(value, list):
            raise BadCall(
                f"input '{spec.name}': nested {len(shape)} deep, expected {rank} for shape {list(spec.shape)}"
            )
        shape.append(len(value))
        value = value[0] if value else None
        if value is None:
            return shape + list(spec.shape[len(shape) :])
    return shape


def _leaves(spec: TensorSpec, value: Any, shape: Sequence[int]) -> list[Any]:
    leaves = [value]
    for size in shape:
        if not all(isinstance(one, list) and len(one) == size for one in leaves):
            raise BadCall(f"input '{spec.name}': a ragged array, expected one nested as shape {list(shape)}")
        leaves = [element for one in leaves for element in one]
    return leaves


def _element(spec: TensorSpec, value: Any) -> bytes:
    """Return one element of BYTES."""
    if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
        try:
            return b64decode(value["b64"], validate=True)
        except (Base64Error, ValueError):
            raise BadCall(f"input '{spec.name}': b64 {shown(value['b64'])!r}, expected base64") from None
    if spec.content_type == "application/json":
        return orjson.dumps(value)
    if not isinstance(value, str):
        raise BadCall(f'input \'{spec.name}\': {kind(value)}, expected a string or {{"b64": "…"}}')
    return value.encode()


def _joined(leaves: Sequence[bytes]) -> bytes:
    return b"".join(len(one).to_bytes(4, "little") + one for one in leaves)


def _column(tensor: Tensor, source: Source) -> list[Any]:
    """Return an output row by row."""
    try:
        flat = _texts(tensor) if tensor.datatype == "BYTES" else list(json_data(tensor))
    except ModelFailed as error:
        way = f"/v2/models/{source.model}/infer"
        raise ModelFailed(f"{error.message}, which this protocol can't say; call {way}") from None
    return _nested(flat, tensor.shape)


def _texts(tensor: Tensor) -> list[Any]:
    found: list[Any] = []
    for element in elements(tensor.data):
        try:
            found.append(element.decode())
        except UnicodeDecodeError:
            found.append({"b64": b64encode(element).decode()})
    return found


def _nested(flat: list[Any], shape: Sequence[int]) -> list[Any]:
    """Nest a flat list as a shape; a tensor without axes is a list of its one value.

    >>> _nested([1, 2, 3, 4], [2, 2]), _nested([5], [])
    ([[1, 2], [3, 4]], [5])
    """
    for axis in range(len(shape) - 1, 0, -1):
        size = shape[axis]
        flat = [flat[first * size : (first + 1) * size] for first in range(prod(shape[:axis]))]
    return flat

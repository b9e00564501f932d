"""The Open Inference Protocol over gRPC: protobuf calls in, protobuf answers out.

A call's tensors come raw, all of them in `raw_input_contents`, or typed, each in the field of its datatype. The answer
is written as the call was: raw for raw, typed for typed; typed calls get raw answers where an output's datatype has no
typed field (FP16, BF16).

Source: the protocol's `open_inference_grpc.proto` and its comments.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from bundles.schema import DATATYPES
from gateway.call import Arrived, Call, Source
from gateway.errors import BadCall, InferenceError
from gateway.grpc.messages import message
from gateway.protocol import check_at_most, check_range, check_size, elements
from gateway.schema import Schema, WantedOutput, shown
from gateway.usual import DIMENSIONS_MAX, TENSORS_MAX
from monitors.log.record import Tensor

InferRequest = message("inference.ModelInferRequest")
InferResponse = message("inference.ModelInferResponse")
_Output = message("inference.ModelInferResponse.InferOutputTensor")

FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of typed contents for each datatype; those that are not here travel raw only."""
CLIENT_ID, RAW_OUTPUT = 3, 6
"""The numbers of `id` and `raw_output_contents`."""


def _before_prediction_id() -> bytes:
    """What stands before a prediction id in the parameters of an answer: ids are all of one length, and last."""
    response, id_ = InferResponse(), "0" * 36
    response.parameters["snowgate_prediction_id"].string_param = id_
    encoded: bytes = response.SerializeToString()
    assert encoded.endswith(id_.encode()), "the value is the last field of the parameter"
    return encoded[: -len(id_)]


BEFORE_PREDICTION_ID = _before_prediction_id()


class GrpcInference:
    """The wire of this protocol over gRPC. A call's body is a `ModelInferRequest`, an answer's is its bytes."""

    def __init__(self, method: str) -> None:
        self.operation = f"inference.GRPCInferenceService/{method}"

    def decode(self, arrived: Arrived, schema: Schema) -> Call:
        """As `Wire.decode`."""
        request = arrived.body
        raw = list(request.raw_input_contents)
        check_at_most("inputs", len(request.inputs), TENSORS_MAX)
        check_at_most("outputs", len(request.outputs), TENSORS_MAX)
        described = [_described(one, position) for position, one in enumerate(request.inputs)]
        _check_names(described, raw)
        tensors = [
            _raw(one, *found, raw[at]) if raw else _typed(one, *found)
            for at, (one, found) in enumerate(zip(request.inputs, described, strict=True))
        ]
        return Call(
            inputs=tensors,
            client_id=request.id or None,
            parameters=parameter_values(request.parameters) if request.parameters else {},
            outputs=tuple(_wanted(request.outputs)) if request.outputs else (),
            binary_output=bool(raw),
        )

    def encode(
        self, call: Call, outputs: Sequence[Tensor], source: Source, prediction_id: str
    ) -> tuple[bytes, int | None]:
        """As `Wire.encode`."""
        by_name = {tensor.name: tensor for tensor in outputs}
        wanted = [by_name[one.name] for one in call.outputs] if call.outputs else outputs
        origin = (source.model, source.version, source.digest, source.variant)
        # Messages that are joined are merged: what is the same for every call is encoded once.
        parts = [b"", BEFORE_PREDICTION_ID, prediction_id.encode()]
        if call.client_id is not None:
            client_id = call.client_id.encode()
            parts += (delimited(CLIENT_ID, len(client_id)), client_id)
        if not call.binary_output and all(tensor.datatype in FIELDS for tensor in wanted):
            parts[0] = _head(origin, ())
            parts.append(InferResponse(outputs=map(_typed_output, wanted)).SerializeToString())
            return b"".join(parts), None
        parts[0] = _head(origin, tuple([(tensor.name, tensor.datatype, *tensor.shape) for tensor in wanted]))
        for tensor in wanted:
            parts += (delimited(RAW_OUTPUT, len(tensor.data)), tensor.data)
        return b"".join(parts), None

    def refuse(self, error: InferenceError, prediction_id: str) -> str:
        """As `Wire.refuse`: the sentence, which travels as `grpc-message`."""
        return error.message


def _described(tensor: Any, position: int) -> tuple[str, str, list[int]]:
    name, datatype = tensor.name, tensor.datatype
    check_at_most(f"input '{shown(name)}': dimensions", len(tensor.shape), DIMENSIONS_MAX)
    shape = list(tensor.shape)
    if not name:
        raise BadCall(f"inputs[{position}].name: nothing, expected a string")
    if datatype not in DATATYPES:
        expected = ", ".join(DATATYPES)
        raise BadCall(f"input '{shown(name)}': datatype {shown(datatype)}, expected one of {expected}")
    if min(shape, default=0) < 0:
        raise BadCall(f"input '{shown(name)}': shape {shown(shape)}, expected integers, none below 0")
    return name, datatype, shape


def _check_names(described: Sequence[tuple[str, str, list[int]]], raw: Sequence[bytes]) -> None:
    if not described:
        raise BadCall("inputs: none, expected at least one tensor")
    seen: set[str] = set()
    for name, _datatype, _shape in described:
        if name in seen:
            raise BadCall(f"input '{shown(name)}': given twice, expected once")
        seen.add(name)
    if raw and len(raw) != len(described):
        raise BadCall(f"raw_input_contents: {len(raw)}, expected {len(described)}, one for each input, or none")


def _raw(tensor: Any, name: str, datatype: str, shape: list[int], data: bytes) -> Tensor:
    what = f"input '{shown(name)}'"
    if tensor.HasField("contents"):
        raise BadCall(f"{what}: has both contents and raw_input_contents, expected one of them")
    check_size(what, datatype, shape, data)
    return Tensor(name=name, datatype=datatype, shape=shape, data=data)


def _typed(tensor: Any, name: str, datatype: str, shape: list[int]) -> Tensor:
    what = f"input '{shown(name)}'"
    field = FIELDS.get(datatype)
    if field is None:
        raise BadCall(f"{what}: {datatype} without raw_input_contents; no typed contents can carry it")
    if "shared_memory_region" in tensor.parameters:
        raise BadCall(f"{what}: shared memory, expected contents or raw_input_contents")
    for found, _values in tensor.contents.ListFields():
        if found.name != field:
            raise BadCall(f"{what}: contents.{found.name}, expected contents.{field} for {datatype}")
    values = getattr(tensor.contents, field)
    if len(values) != prod(shape):
        raise BadCall(f"{what}: {len(values)} elements, expected {prod(shape)} for shape {shown(shape)}")
    return Tensor(name=name, datatype=datatype, shape=shape, data=_bytes(what, datatype, values))


def _bytes(what: str, datatype: str, values: Sequence[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(part for value in values for part in (len(value).to_bytes(4, "little"), value))
    dtype = DATATYPES[datatype][0]
    if dtype.itemsize < 4 and dtype.kind in "iu" and values:
        check_range(what, datatype, min(values), max(values))
    return np.array(values, dtype=dtype).tobytes()


def parameter_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a map of parameters by their names. Raises BadCall for one without a value."""
    found = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None:
            raise BadCall(f"parameters.{shown(name)}: nothing, expected a boolean, a number or a string")
        found[name] = getattr(value, choice)
    return found


def _wanted(outputs: Iterable[Any]) -> list[WantedOutput]:
    wanted: list[WantedOutput] = []
    for one in outputs:
        if any(other.name == one.name for other in wanted):
            raise BadCall(f"output '{shown(one.name)}': asked for twice, expected once")
        wanted.append(WantedOutput(one.name, None))
    return wanted


def _typed_output(tensor: Tensor) -> Any:
    output = _Output(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    values: Any
    if tensor.datatype == "BYTES":
        values = elements(tensor.data)
    else:
        values = np.frombuffer(tensor.data, dtype=DATATYPES[tensor.datatype][0]).tolist()
    getattr(output.contents, FIELDS[tensor.datatype]).extend(values)
    return output


@lru_cache(maxsize=1024)
def _head(origin: tuple[str, str, str, str], described: tuple[tuple[Any, ...], ...]) -> bytes:
    """The part of an answer that all calls to one version share, as long as their shapes are the same."""
    model, version, bundle, variant = origin
    response = InferResponse(model_name=model, model_version=version)
    response.parameters["snowgate_bundle"].string_param = bundle
    response.parameters["snowgate_variant"].string_param = variant
    for name, datatype, *shape in described:
        response.outputs.add(name=name, datatype=datatype, shape=shape)
    head: bytes = response.SerializeToString()
    return head


def delimited(number: int, size: int) -> bytes:
    """The tag and length before the bytes of a field.

    >>> delimited(6, 300).hex()
    '32ac02'
    """
    encoded = bytearray((number << 3 | 2,))
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)

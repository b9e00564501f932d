"""The usual call of the Open Inference Protocol, decoded at one stroke.

Nearly all calls are made of flat numbers, or of binary tensors, with nothing wrong in them. msgspec turns the text of
such a one into structures and checks the types as it goes, in a third of the time that looking at each part takes.
Whatever it does not take is left to `protocol.decode`, which looks at each part and says what is wrong with it. What
it does take would come out of there the same; a test by random bodies holds the two together.
"""

from functools import lru_cache
from math import prod
from struct import Struct
from struct import error as StructError  # noqa: N812 - a class, whatever its module calls it
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bundles.schema import DATATYPES
from gateway.call import Call
from gateway.schema import WantedOutput
from monitors.log.record import Tensor

TENSORS_MAX = 1_024
"""Inputs or outputs of one call: models have some, and a body of 64 MiB could name millions, each looked at here."""
DIMENSIONS_MAX = 64
"""As numpy has it. The product of a million sizes is a number of megabytes, and takes minutes to compute."""
FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
"""The letters of `struct` for the datatypes that JSON can carry."""
NUMBERS = FORMATS.keys() - {"BOOL"}

Parameters = dict[str, str | int | float | bool]


class _Input(msgspec.Struct, gc=False):
    name: Annotated[str, Meta(min_length=1)]
    datatype: str
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=DIMENSIONS_MAX)]
    data: list[int | float] | UnsetType = UNSET
    parameters: Parameters | UnsetType = UNSET


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: Parameters | UnsetType = UNSET


class _Call(msgspec.Struct, gc=False):
    inputs: Annotated[list[_Input], Meta(min_length=1, max_length=TENSORS_MAX)]
    id: str | UnsetType = UNSET
    parameters: Parameters | UnsetType = UNSET
    outputs: Annotated[list[_Output], Meta(max_length=TENSORS_MAX)] | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Call).decode


def decode_usual(head: memoryview, tail: memoryview) -> Call | None:
    """Decode a call from its JSON and the binary tensors behind it; None when it is none of the usual ones."""
    try:
        # As text, because msgspec does not look at the bytes of what it passes over.
        found = _decode(str(head, "utf-8"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    tensors: list[Tensor] = []
    offset = 0
    for one in found.inputs:
        if one.data is UNSET:
            data = _binary(one, tail, offset)
            offset += 0 if data is None else len(data)
        else:
            data = _packed(one)
        if data is None:
            return None
        tensors.append(Tensor(one.name, one.datatype, one.shape, data))
    if offset != len(tail) or (len(tensors) > 1 and len({one.name for one in tensors}) < len(tensors)):
        return None
    call = Call(tensors)
    if found.id is not UNSET:
        call.client_id = found.id or None
    if found.parameters is not UNSET:
        call.parameters = found.parameters
        call.binary_output = found.parameters.get("binary_data_output") is True
    if found.outputs is not UNSET:
        if len({one.name for one in found.outputs}) < len(found.outputs):
            return None
        call.outputs = tuple(WantedOutput(one.name, _binary_data(one)) for one in found.outputs)
    return call


def _binary_data(one: _Output) -> Any:
    """As the careful way takes it: what is there is only looked at for its truth."""
    return None if one.parameters is UNSET else one.parameters.get("binary_data")


def _packed(one: _Input) -> bytes | None:
    """The bytes of flat numbers; None when one is out of range, or a fraction where whole numbers are expected."""
    data = one.data
    if one.datatype not in NUMBERS or data is UNSET or len(data) != prod(one.shape):
        return None
    if one.parameters is not UNSET and "binary_data_size" in one.parameters:
        return None
    try:
        return numbers(one.datatype, len(data)).pack(*data)
    except (StructError, OverflowError):
        return None


def _binary(one: _Input, tail: memoryview, offset: int) -> bytes | None:
    size = None if one.parameters is UNSET else one.parameters.get("binary_data_size")
    if type(size) is not int or one.datatype not in DATATYPES or one.datatype == "BYTES":
        return None
    if size != prod(one.shape) * DATATYPES[one.datatype][1] or size > len(tail) - offset:
        return None
    return bytes(tail[offset : offset + size])


@lru_cache(maxsize=256)
def numbers(datatype: str, count: int) -> Struct:
    """Return what packs so many numbers of a datatype into its bytes, and unpacks them. Raises KeyError: no numbers."""
    return Struct(f"<{count}{FORMATS[datatype]}")

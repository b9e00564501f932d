"""The raw binary request: a body that is nothing but the one input's data (`Inference-Header-Content-Length: 0`).

The shape is what the schema says, with a batch of one; where one size is open the number of bytes decides it. All
outputs come back as binary.

Source: Triton's `extension_binary_data.md`, "Raw Binary Request".
"""

from math import prod

from bundles.schema import DATATYPES, TensorSpec
from gateway.call import Call
from gateway.errors import BadCall
from gateway.schema import Schema
from monitors.log.record import Tensor


def decode_raw(body: bytes | bytearray | memoryview, schema: Schema) -> Call:
    """Decode a raw body for a version with this schema. Raises BadCall, saying what a raw body needs."""
    if len(schema.inputs) != 1:
        raise BadCall(
            f"Inference-Header-Content-Length: 0, but there are {len(schema.inputs)} inputs, expected one: "
            "send a JSON part that says which bytes are whose"
        )
    spec = schema.inputs[0]
    shape = raw_shape(spec, len(body), batched=schema.batched)
    data = bytes(body)
    if spec.datatype == "BYTES":
        data = len(data).to_bytes(4, "little") + data
    return Call(inputs=[Tensor(name=spec.name, datatype=spec.datatype, shape=shape, data=data)], binary_output=True)


def raw_shape(spec: TensorSpec, size: int, *, batched: bool) -> list[int]:
    """Return the shape of an input of which only the bytes came. Raises BadCall."""
    shape = [1, *spec.shape[1:]] if batched else list(spec.shape)
    if spec.datatype == "BYTES":
        if prod(shape) != 1:
            raise BadCall(
                f"input '{spec.name}': BYTES of shape {list(spec.shape)} as a raw body, expected one element a row"
            )
        return shape
    variable = [axis for axis, length in enumerate(shape) if length == -1]
    if len(variable) > 1:
        raise BadCall(
            f"input '{spec.name}': shape {list(spec.shape)} as a raw body, expected one open size at most; "
            "send a JSON part with the shape"
        )
    width = DATATYPES[spec.datatype][1] * prod(length for length in shape if length != -1)
    if variable and size and size % width == 0:
        shape[variable[0]] = size // width
    elif variable or size != width:
        wanted = f"a multiple of {width}" if variable else str(width)
        raise BadCall(f"body: {size} bytes, expected {wanted} for {spec.datatype} of shape {shape} (-1 is any size)")
    return shape

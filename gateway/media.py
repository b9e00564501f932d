"""A body that is one row as it is: an image posted with its own media type, no tensor around it.

It goes to a model whose one input declares that it takes it (`content_type = "image/*"` in `bundle.toml`), by either
protocol's route, and is answered in that protocol's form.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from gateway.call import Arrived, Call, Source, Wire
from gateway.errors import InferenceError, Unsupported
from gateway.raw_binary import decode_raw
from gateway.schema import Schema
from monitors.log.record import Tensor

MEDIA = (b"image/", b"audio/", b"video/")
"""What is never a protocol's own envelope; other types are read as JSON, which many clients mislabel."""


class Media:
    """The wire of a body of one media type, with the answers of another wire."""

    def __init__(self, wire: Wire, content_type: str) -> None:
        self.operation = wire.operation
        self._wire = wire
        self._type = content_type.partition(";")[0].strip().lower()

    def decode(self, arrived: Arrived, schema: Schema) -> Call:
        """As `Wire.decode`. Raises Unsupported: no input takes a body of this type."""
        declared = [spec.content_type for spec in schema.inputs]
        if len(declared) != 1 or declared[0] is None or not fnmatchcase(self._type, declared[0]):
            takes = ", ".join(f"{spec.name} {spec.content_type or spec.datatype}" for spec in schema.inputs)
            raise Unsupported(f"Content-Type: {self._type[:64]}, expected what the model takes: {takes}")
        call = decode_raw(arrived.body, schema)
        call.binary_output = False
        return call

    def encode(
        self, call: Call, outputs: Sequence[Tensor], source: Source, prediction_id: str
    ) -> tuple[Any, int | None]:
        """As `Wire.encode`."""
        return self._wire.encode(call, outputs, source, prediction_id)

    def refuse(self, error: InferenceError, prediction_id: str) -> Any:
        """As `Wire.refuse`."""
        return self._wire.refuse(error, prediction_id)

"""What goes between a worker and a runner: one frame a batch, one frame back.

    frame := "SGF1", header bytes u32, body bytes u64, header (JSON), body (the tensors' bytes, one after the other)

A request's header has `id`, `rows`, `inputs`; an answer's `id`, `outputs`, `signals`, `compute_ns`, `batch_rows`, or
`id` and `error`. Tensors are described by `name`, `datatype`, `shape` and `size` (bytes), and always have a leading
row axis. Little-endian; BYTES elements carry their length (u32) before them, as in the Open Inference Protocol.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

MAGIC = b"SGF1"
FIXED = struct.Struct("<4sIQ")
HEADER_BYTES_MAX = 16 * 1024 * 1024
BODY_BYTES_MAX = 4 * 1024 * 1024 * 1024
"""A batch of 64 rows of 64 MiB; what claims more is not a frame of ours."""

Buffer = bytes | bytearray | memoryview

DTYPES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "BF16": "<u2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""As in `bundles.schema`, said again because this folder stands alone; a test holds the two together."""
_NAMES = {np.dtype(code): name for name, code in DTYPES.items() if name != "BF16"}


class FrameError(Exception):
    """What came is not a frame."""


def encode(header: dict[str, Any], buffers: Sequence[Buffer]) -> bytes:
    """Return the bytes of a frame."""
    head = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([FIXED.pack(MAGIC, len(head), sum(map(len, buffers))), head, *buffers])


class Decoder:
    """Takes bytes as they come and gives frames as they are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = FIXED.size

    def feed(self, data: Buffer) -> Iterator[tuple[dict[str, Any], memoryview]]:
        """Add bytes and yield the header and body of each frame that is whole now. Raises FrameError."""
        self._buffer += data
        while len(self._buffer) >= self._needed:
            magic, header_bytes, body_bytes = FIXED.unpack_from(self._buffer)
            if magic != MAGIC or header_bytes > HEADER_BYTES_MAX or body_bytes > BODY_BYTES_MAX:
                raise FrameError(
                    f"got {bytes(self._buffer[: FIXED.size])!r}, expected a frame beginning with {MAGIC!r}"
                )
            self._needed = FIXED.size + header_bytes + body_bytes
            if len(self._buffer) < self._needed:
                return
            whole = bytes(self._buffer[: self._needed])
            del self._buffer[: self._needed]
            self._needed = FIXED.size
            body = FIXED.size + header_bytes
            yield json.loads(whole[FIXED.size : body]), memoryview(whole)[body:]


def to_array(spec: dict[str, Any], data: Buffer) -> np.ndarray[Any, Any]:
    """Return the array that a description and its bytes stand for. Raises FrameError when they don't fit."""
    if spec["datatype"] == "BYTES":
        elements, offset = [], 0
        while offset < len(data):
            end = offset + 4 + int.from_bytes(data[offset : offset + 4], "little")
            elements.append(bytes(data[offset + 4 : end]))
            offset = end
        array = np.empty(len(elements), dtype=object)
        array[:] = elements
    else:
        array = np.frombuffer(data, dtype=DTYPES[spec["datatype"]])
    try:
        return array.reshape(spec["shape"])
    except ValueError:
        raise FrameError(f"{spec['name']}: {array.size} elements, expected shape {spec['shape']}") from None


def from_array(name: str, array: np.ndarray[Any, Any], datatype: str | None = None) -> tuple[dict[str, Any], bytes]:
    """Return the description and the bytes of an array. Raises FrameError when no datatype can hold it."""
    if array.dtype.kind in "OSU":
        parts = []
        for element in array.ravel().tolist():
            raw = element.encode() if isinstance(element, str) else element
            if not isinstance(raw, bytes):
                raise FrameError(f"{name}: holds {type(element).__name__}, expected text, bytes or numbers")
            parts.append(len(raw).to_bytes(4, "little") + raw)
        kind, data = "BYTES", b"".join(parts)
    else:
        little = array.dtype.newbyteorder("<")
        found = datatype if datatype == "BF16" else _NAMES.get(np.dtype(little))
        if found is None:
            raise FrameError(f"{name}: numpy type {array.dtype}, expected one of {', '.join(map(str, _NAMES))}")
        kind, data = found, np.ascontiguousarray(array, dtype=little).tobytes()
    return {"name": name, "datatype": kind, "shape": list(array.shape), "size": len(data)}, data

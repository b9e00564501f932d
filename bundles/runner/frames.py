"""What goes between a worker and a runner: one frame a batch, one frame back.

    frame := "SGF1", header bytes u32, body bytes u64, header (JSON), body (the tensors' bytes, one after the other)

A request's header has `id`, `rows`, `inputs`; an answer's `id`, `outputs`, `signals`, `compute_ns`, `batch_rows`, or
`id` and `error`. Tensors are described by `name`, `datatype`, `shape` and `size` (bytes), and always have a leading
row axis. Little-endian; BYTES elements carry their length (u32) before them, as in the Open Inference Protocol.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

MAGIC = b"SGF1"
FIXED = struct.Struct("<4sIQ")
HEADER_BYTES_MAX = 16 * 1024 * 1024
BODY_BYTES_MAX = 4 * 1024 * 1024 * 1024
"""A batch of 64 rows of 64 MiB; what claims more is not a frame of ours."""

Array = np.ndarray[Any, Any]
Buffer = bytes | bytearray | memoryview

DTYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""As in `bundles.schema`, said again because this folder stands alone; a test holds the two together."""
_NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
# Made once: json.dumps with separators makes an encoder at every call.
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class FrameError(Exception):
    """What came is not a frame, or a tensor in it is not what its description says."""


def encode(header: Mapping[str, Any], buffers: Sequence[Buffer]) -> bytes:
    """Return the bytes of a frame; `buffers` hold bytes, and are copied once."""
    head = _to_json(header).encode()
    return b"".join([FIXED.pack(MAGIC, len(head), sum(map(len, buffers))), head, *buffers])


class Decoder:
    """Takes bytes as they come and gives frames as they are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = FIXED.size

    def feed(self, data: Buffer) -> Iterator[tuple[dict[str, Any], memoryview]]:
        """Add bytes and yield the header and body of each frame that is whole now.

        Raises:
            FrameError: these are not frames; nothing that comes later on the same connection can be trusted.
        """
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
            with memoryview(self._buffer) as view:
                whole = bytes(view[: self._needed])
            del self._buffer[: self._needed]
            self._needed = FIXED.size
            body = FIXED.size + header_bytes
            try:
                header = json.loads(whole[FIXED.size : body])
            except ValueError as error:
                raise FrameError(f"a frame's header is not JSON: {error}") from None
            yield header, memoryview(whole)[body:]


def to_array(spec: Mapping[str, Any], data: Buffer) -> Array:
    """Return the array that a description and its bytes stand for; it looks into `data` and can't be written to.

    Raises:
        FrameError: the description and the bytes do not fit each other.
    """
    datatype = spec["datatype"]
    try:
        array = _elements(data) if datatype == "BYTES" else np.frombuffer(data, dtype=DTYPES[datatype])
        return array.reshape(spec["shape"])
    except KeyError:
        raise FrameError(
            f"{spec['name']}: datatype {datatype!r}, expected BYTES or one of {', '.join(DTYPES)}"
        ) from None
    except (ValueError, TypeError) as error:
        raise FrameError(
            f"{spec['name']}: {len(data)} bytes are not a tensor {datatype} {spec['shape']}: {error}"
        ) from None


def _elements(data: Buffer) -> Array:
    """Cut a BYTES tensor into its elements. Raises ValueError when a length leads beyond the end."""
    raw = bytes(data)
    elements: list[bytes] = []
    offset = 0
    while offset < len(raw):
        begin = offset + 4
        offset = begin + int.from_bytes(raw[offset:begin], "little")
        if offset > len(raw):
            raise ValueError(f"element {len(elements)} ends at byte {offset}")
        elements.append(raw[begin:offset])
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def from_array(name: str, array: Array, datatype: str | None = None) -> tuple[dict[str, Any], bytes]:
    """Return the description and the bytes of an array.

    The datatype follows from the numpy type, text and bytes being BYTES; only BF16, kept as its bits, must be said.

    Raises:
        FrameError: no datatype can hold it.
    """
    if array.dtype.kind in "OSU":
        kind, data = "BYTES", _joined(name, array)
    else:
        found = _NAMES.get(array.dtype)
        if found is None:
            array = array.astype(array.dtype.newbyteorder("<"))
            found = _NAMES.get(array.dtype)
        if found is None:
            raise FrameError(f"{name}: numpy type {array.dtype}, expected one of {', '.join(map(str, _NAMES))}")
        kind, data = "BF16" if datatype == "BF16" else found, array.tobytes()
    return {"name": name, "datatype": kind, "shape": list(array.shape), "size": len(data)}, data


def _joined(name: str, array: Array) -> bytes:
    parts = []
    for element in array.ravel().tolist():
        raw = element.encode() if isinstance(element, str) else element
        if not isinstance(raw, bytes):
            raise FrameError(f"{name}: holds {type(element).__name__}, expected text, bytes or numbers")
        parts += [len(raw).to_bytes(4, "little"), raw]
    return b"".join(parts)

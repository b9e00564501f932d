"""What goes between a worker and a runner: one frame a batch, one frame back.

    frame := "SGF2", description bytes u32, body bytes u64, id u64, compute ns u64, batch rows u32, description, body

The description is JSON, the body the bytes of the tensors that it describes, one after the other. A request's has
`rows` and `inputs`; an answer's `rows`, `outputs`, `signals` and, where the bundle has functions of its own around the
model, `model_inputs` and `model_outputs`; or `error` with `type`, `message` and `fault` (`client` or `server`). Tensors
have `name`, `datatype`, `shape` (rows first) and `size` (bytes); signals are one tensor, with `fields` for `name`:
`rows` says what its rows are. Little-endian; BYTES elements carry their length (u32) before them, as in the Open
Inference Protocol.

What differs from frame to frame stands before the description: that is the same for batches of one size, so it is
written once, read once, and then known by its bytes.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

MAGIC = b"SGF2"
FIXED = struct.Struct("<4sIQQQI")
DESCRIPTION_BYTES_MAX = 16 * 1024 * 1024
BODY_BYTES_MAX = 4 * 1024 * 1024 * 1024
"""A batch of 64 rows of 64 MiB; what claims more is not a frame of ours."""

PARTS = ("inputs", "outputs", "model_inputs", "model_outputs", "signals")
"""In this order their tensors stand in a body."""

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
ALIGNED = 64
DESCRIPTIONS_KNOWN_MAX = 1024
"""A bundle of fixed sizes has one for each number of rows; at a kilobyte each this is a megabyte."""

Spec = tuple[Any, str, tuple[int, ...], int]
"""A tensor as it is written: name (or fields), datatype, shape, bytes."""


class FrameError(Exception):
    """What came is not a frame, or a tensor in it is not what its description says."""


@lru_cache(maxsize=DESCRIPTIONS_KNOWN_MAX)
def describe(rows: int, parts: tuple[tuple[str, tuple[Spec, ...]], ...]) -> bytes:
    """Return the description of a frame: its rows, and the tensors of each part in the order of the body."""
    described: dict[str, Any] = {"rows": rows}
    for part, specs in parts:
        label = "fields" if part == "signals" else "name"
        described[part] = [
            {label: name, "datatype": datatype, "shape": shape, "size": size} for name, datatype, shape, size in specs
        ]
    text = json.dumps(described, separators=(",", ":")).encode()
    # Spaces behind it, so that the body begins where numbers may lie: arrays look into it as it comes.
    return text + b" " * (-(FIXED.size + len(text)) % ALIGNED)


def encode(
    description: bytes, buffers: Sequence[Buffer], *, id: int, compute_ns: int = 0, batch_rows: int = 0
) -> bytes:
    """Return the bytes of a frame; `buffers` hold bytes, and are copied once."""
    fixed = FIXED.pack(MAGIC, len(description), sum(map(len, buffers)), id, compute_ns, batch_rows)
    return b"".join([fixed, description, *buffers])


class Decoder:
    """Takes bytes as they come and gives frames as they are whole."""

    def __init__(self) -> None:
        self._rest: Buffer = b""
        self._frame: bytearray | None = None
        self._filled = 0
        self._known: dict[bytes, dict[str, Any]] = {}

    def feed(self, data: Buffer) -> Iterator[tuple[dict[str, Any], memoryview]]:
        """Add bytes and yield the header and body of each frame that is whole now.

        The header is the description with `id`, `compute_ns` and `batch_rows`; what is inside is shared, and read only.

        Raises:
            FrameError: these are not frames; nothing that comes later on the same connection can be trusted.
        """
        view = memoryview(data)
        if self._frame is not None:
            # In the middle of a large one: what comes goes to its place, and is copied once.
            part = view[: len(self._frame) - self._filled]
            self._frame[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            if self._filled < len(self._frame):
                return
            whole, self._frame = self._frame, None
            view = self._rest = view[len(part) :]
            yield self._parsed(memoryview(whole))
        elif self._rest:
            view = memoryview(b"".join([self._rest, view]))
        self._rest = view
        while (size := _size(view)) is not None:
            if len(view) < size:
                self._frame, self._filled = bytearray(size), len(view)
                self._frame[: len(view)] = view
                self._rest = b""
                return
            whole_view, view = view[:size], view[size:]
            self._rest = view
            yield self._parsed(whole_view)

    def _parsed(self, whole: memoryview) -> tuple[dict[str, Any], memoryview]:
        _magic, length, _body, id_, compute_ns, batch_rows = FIXED.unpack_from(whole)
        written = bytes(whole[FIXED.size : FIXED.size + length])
        described = self._known.get(written)
        if described is None:
            try:
                described = json.loads(written)
            except ValueError as error:
                raise FrameError(f"a frame's description is not JSON: {error}") from None
            if len(self._known) >= DESCRIPTIONS_KNOWN_MAX:
                self._known.clear()
            self._known[written] = described
        header = {**described, "id": id_, "compute_ns": compute_ns, "batch_rows": batch_rows}
        return header, whole[FIXED.size + length :]


def _size(view: memoryview) -> int | None:
    """Return the length of the frame that begins here, None when too little of it is there. Raises FrameError."""
    if view[: len(MAGIC)] != MAGIC[: len(view)]:
        raise FrameError(f"got {bytes(view[: FIXED.size])!r}, expected a frame beginning with {MAGIC!r}")
    if len(view) < FIXED.size:
        return None
    _magic, length, body, *_ = FIXED.unpack_from(view)
    if length > DESCRIPTION_BYTES_MAX or body > BODY_BYTES_MAX:
        raise FrameError(
            f"a frame of {length} + {body} bytes, expected {DESCRIPTION_BYTES_MAX} + {BODY_BYTES_MAX} at most"
        )
    return FIXED.size + int(length) + int(body)


def parts(header: Mapping[str, Any], body: memoryview) -> dict[str, list[tuple[dict[str, Any], memoryview]]]:
    """Cut a body into its tensors: by part, each description with its bytes."""
    found: dict[str, list[tuple[dict[str, Any], memoryview]]] = {}
    offset = 0
    for part in PARTS:
        tensors = []
        for spec in header.get(part, ()):
            tensors.append((spec, body[offset : offset + spec["size"]]))
            offset += spec["size"]
        found[part] = tensors
    return found


def to_array(spec: Mapping[str, Any], data: Buffer) -> Array:
    """Return the array that a description and its bytes stand for; it looks into `data` and can't be written to.

    Raises:
        FrameError: the description and the bytes do not fit each other.
    """
    datatype, name = spec["datatype"], spec.get("name") or spec.get("fields")
    try:
        array = _elements(data) if datatype == "BYTES" else np.frombuffer(data, dtype=DTYPES[datatype])
        return array.reshape(spec["shape"])
    except KeyError:
        raise FrameError(f"{name}: datatype {datatype!r}, expected BYTES or one of {', '.join(DTYPES)}") from None
    except (ValueError, TypeError) as error:
        raise FrameError(f"{name}: {len(data)} bytes are not a tensor {datatype} {spec['shape']}: {error}") from None


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


def from_array(name: Any, array: Array, datatype: str | None = None) -> tuple[Spec, bytes]:
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
    return (name, kind, array.shape, len(data)), data


def _joined(name: str, array: Array) -> bytes:
    parts = []
    for element in array.ravel().tolist():
        raw = element.encode() if isinstance(element, str) else element
        if not isinstance(raw, bytes):
            raise FrameError(f"{name}: holds {type(element).__name__}, expected text, bytes or numbers")
        parts += [len(raw).to_bytes(4, "little"), raw]
    return b"".join(parts)

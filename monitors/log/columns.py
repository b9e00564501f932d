"""The inference table: what a record looks like as rows and columns, whoever reads them.

One row for each row of a prediction. The columns of the record are always there, under the names and with the types of
`COLUMNS`. Behind them, as they occur, come the columns of tensors and signals:

    input_NAME, output_NAME, model_input_NAME, model_output_NAME     a list: the row's elements in row-major order
    signal_NAME                                                      one value

What has no place in a column's name (anything but letters, digits and `_`) is `_` there; names that are then the same,
or differ only in case, get `_2`, `_3` in the order of the names. `tensors` says the true ones. A tensor whose first
dimension is the number of rows is parted among them; any other one is whole in the first row. Numbers keep their type,
but FP16 and BF16, which few programs read, become FP32. BYTES are text; an element that is not UTF-8 is a data URL
(RFC 2397, `data:;base64,…`). What was not kept, or was erased, is null.
"""

import re
import struct
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson

from monitors.log.record import Payload, Record, Tensor

COLUMNS = {
    "id": ("string", "The row: the prediction's id, and `.row` behind it where the prediction has several rows."),
    "prediction_id": ("string", "The prediction: what its answer carried in `Snowgate-Prediction-Id`."),
    "row": ("int32", "Which row of the prediction, from 0."),
    "rows": ("int32", "How many rows the prediction has."),
    "time": ("timestamp", "When the call came, UTC, in microseconds."),
    "kind": ("string", "`answered`, `refused` or `shadow`."),
    "status": ("int32", "The HTTP status of the answer."),
    "error": ("string", "What was wrong, in the words of the answer."),
    "error_type": ("string", "What was wrong, in a word."),
    "version": ("string", "The version that answered."),
    "bundle": ("string", "The digest of its bundle."),
    "variant": ("string", "The part that it played in the route: `stable` or `canary`."),
    "reason": ("string", "Why this version: `split`, `default` or `static`."),
    "probability": ("double", "How probable it was that this unit got this version."),
    "route_revision": ("int64", "The revision of the route."),
    "rollout": ("string", "The rollout that was under way."),
    "unit": ("string", "Whom the request belongs to."),
    "unit_hash": ("string", "A keyed hash of it."),
    "client_id": ("string", "The client's own id of the request (`id` in the protocol)."),
    "request_id": ("string", "`X-Request-Id`."),
    "trace_id": ("string", "The trace, in W3C's form."),
    "span_id": ("string", "The span in it."),
    "total_ms": ("double", "From the first byte of the call to its record."),
    "decode_ms": ("double", "Reading the call."),
    "queue_ms": ("double", "Waiting for a runner."),
    "compute_ms": ("double", "In the runner."),
    "batch_size": ("int32", "Rows that ran together."),
    "engine": ("string", "What ran them."),
    "parameters": ("string", "The call's parameters, as JSON."),
    "tensors": ("tensors", "Of each tensor: `column`, `name`, `datatype` (the protocol's), `shape` (of this row)."),
    "writer": ("string", "Whose part of the log the record is in."),
    "seq": ("int64", "Its number there."),
    "model": ("string", "The model. In Parquet it is the name of a folder."),
    "date": ("date", "The day of `time`. In Parquet it is the name of a folder."),
}
"""The columns of the record with their types and meanings, in their order."""
PARTITIONS = ("model", "date")
SIDES = ("input", "output", "model_input", "model_output")
NAMED_COLUMNS_MAX = 512
"""Names of tensors come from clients where a model declares none. What is beyond this is in the segments only."""
DATATYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BF16": "<u2",
}
UNNAMEABLE = re.compile(r"[^A-Za-z0-9_]")
LENGTH = struct.Struct("<I")

Cell = Any
"""A tensor's cell is an array of one dimension or a list of texts; other cells are what they look like in JSON."""


@dataclass(slots=True)
class Columns:
    """Rows in the making, column by column. `named` are the columns of tensors and signals; rows without a value of
    theirs are left out at the end of a list."""

    count: int = 0
    fixed: dict[str, list[Cell]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    named: dict[tuple[str, str], list[Cell]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Add the rows of a record."""
        payload = record.payload or Payload()
        rows = max(1, record.rows)
        tensors = list(_tensors(payload, rows))
        values = _values(record, payload)
        for row in range(rows):
            here = [(key, tensor, shape, cells[row]) for key, tensor, shape, cells in tensors if cells[row] is not None]
            values["id"] = record.id if rows == 1 else f"{record.id}.{row}"
            values["row"] = row
            values["tensors"] = [
                {"column": column(*key), "name": tensor.name, "datatype": tensor.datatype, "shape": shape}
                for key, tensor, shape, _cell in here
            ]
            for name, known in self.fixed.items():
                known.append(values[name])
            for key, _tensor, _shape, cell in here:
                self._put(key, cell)
            for name, signal in record.signals.items():
                if row < len(signal):
                    self._put(("signal", name), signal[row])
            self.count += 1

    def _put(self, key: tuple[str, str], cell: Cell) -> None:
        cells = self.named.get(key)
        if cells is None:
            if len(self.named) >= NAMED_COLUMNS_MAX:
                return
            cells = self.named[key] = []
        cells.extend([None] * (self.count - len(cells)))
        if len(cells) == self.count:
            cells.append(cell)

    def names(self) -> dict[tuple[str, str], str]:
        """Return how the columns of tensors and signals are called, no two alike."""
        taken: dict[str, int] = {}
        found = {}
        for key in sorted(self.named):
            name = column(*key)
            number = taken[name.lower()] = taken.get(name.lower(), 0) + 1
            found[key] = name if number == 1 else f"{name}_{number}"
        return found

    def named_cells(self, key: tuple[str, str]) -> list[Cell]:
        """Return the cells of one of them, one a row."""
        cells = self.named[key]
        return cells + [None] * (self.count - len(cells))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Return the rows as JSON knows them."""
        names = self.names()
        every = {**self.fixed, **{name: self.named_cells(key) for key, name in names.items()}}
        for row in range(self.count):
            yield {name: plain(cells[row]) for name, cells in every.items()}


def column(side: str, name: str) -> str:
    """Return how the column of a tensor or a signal is called.

    >>> column("input", "image"), column("signal", "image.mean")
    ('input_image', 'signal_image_mean')
    """
    return f"{side}_{UNNAMEABLE.sub('_', name)}"


def plain(cell: Cell) -> Any:
    """Return a cell as JSON knows it; what is not finite is null.

    >>> plain(np.array([1.5, np.nan])), plain(datetime(2026, 11, 25, 2, 40, tzinfo=UTC))
    ([1.5, None], '2026-11-25T02:40:00.000000Z')
    """
    if isinstance(cell, datetime):
        return cell.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(cell, np.ndarray):
        cell = cell.tolist()
    if isinstance(cell, list):
        return [plain(one) for one in cell]
    if isinstance(cell, dict):
        return {name: plain(one) for name, one in cell.items()}
    if isinstance(cell, float) and not np.isfinite(cell):
        return None
    return cell


def moment(seconds: float) -> datetime:
    """Return a record's time as the table has it."""
    return datetime.fromtimestamp(seconds, UTC)


def _values(record: Record, payload: Payload) -> dict[str, Cell]:
    time = moment(record.time)
    timings = record.timings
    return {
        "prediction_id": record.id,
        "rows": max(1, record.rows),
        "time": time,
        "kind": record.kind,
        "status": record.status,
        "error": payload.error,
        "error_type": record.error_type,
        "version": record.version,
        "bundle": record.bundle,
        "variant": record.variant,
        "reason": record.reason,
        "probability": record.probability,
        "route_revision": record.route_revision,
        "rollout": record.rollout,
        "unit": payload.unit,
        "unit_hash": None if record.group is None else f"{record.group:014x}",
        "client_id": payload.client_id,
        "request_id": payload.request_id,
        "trace_id": record.trace_id,
        "span_id": record.span_id,
        "total_ms": timings.get("total"),
        "decode_ms": timings.get("decode"),
        "queue_ms": timings.get("queue"),
        "compute_ms": timings.get("compute"),
        "batch_size": record.batch_size,
        "engine": record.engine,
        "parameters": orjson.dumps(payload.parameters).decode() if payload.parameters else None,
        "writer": record.writer,
        "seq": record.seq,
        "model": record.model,
        "date": time.date().isoformat(),
    }


def _tensors(payload: Payload, rows: int) -> Iterator[tuple[tuple[str, str], Tensor, list[int], list[Cell]]]:
    """Yield each tensor: its key, itself, a row's shape, and a cell for each row."""
    for side in SIDES:
        for tensor in getattr(payload, f"{side}s"):
            elements = _elements(tensor)
            if elements is None:
                continue
            shape = tensor.shape
            if rows > 1 and shape and shape[0] == rows and len(elements) % rows == 0:
                size = len(elements) // rows
                cells = [elements[row * size : (row + 1) * size] for row in range(rows)]
                yield (side, tensor.name), tensor, shape[1:], cells
            else:
                yield (side, tensor.name), tensor, shape, [elements, *[None] * (rows - 1)]


def _elements(tensor: Tensor) -> Cell:
    """Return a tensor's elements; None for what was not kept, or is no tensor: clients may send anything."""
    if tensor.datatype == "BYTES":
        return _texts(tensor.data)
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None or len(tensor.data) % np.dtype(dtype).itemsize:
        return None
    array = np.frombuffer(tensor.data, dtype)
    if tensor.datatype == "BF16":
        return (array.astype("<u4") << 16).view("<f4")  # A bfloat16 is the upper half of a float32.
    return array.astype("<f4") if tensor.datatype == "FP16" else array


def _texts(data: bytes) -> list[str] | None:
    texts, offset = [], 0
    while offset < len(data):
        if len(data) < offset + LENGTH.size:
            return None
        (size,) = LENGTH.unpack_from(data, offset)
        raw = data[offset + LENGTH.size : offset + LENGTH.size + size]
        offset += LENGTH.size + size
        try:
            texts.append(raw.decode())
        except UnicodeDecodeError:
            texts.append(f"data:;base64,{b64encode(raw).decode()}")
    return texts

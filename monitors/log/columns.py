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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache
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
    "calls": ("int64", "1, but where refusals of strangers were only counted (model `_unknown`)."),
    "status": ("int32", "The HTTP status of the answer."),
    "error": ("string", "What was wrong, in the words of the answer."),
    "error_type": ("string", "What was wrong, in a word."),
    "endpoint": ("string", "Where such calls came in."),
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
    "payload_state": ("string", "`kept`, or why tensors and parameters are not here."),
    "payload_rate": ("double", "The share of the payloads that is kept."),
    "tensors": ("tensors", "Of each tensor: `column`, `name`, `datatype`, a row's `shape`, `data_ref`, `withheld`."),
    "writer": ("string", "Whose part of the log the record is in."),
    "seq": ("int64", "Its number there."),
    "model": ("string", "The model. In Parquet it is the name of a folder."),
    "date": ("date", "The day of `time`. In Parquet it is the name of a folder."),
}
"""The columns of the record with their types and meanings, in their order."""
PARTITIONS = ("model", "date")
DAY_SECONDS = 86_400
NO_PAYLOAD = Payload()
TENSOR_FIELDS = ("column", "name", "datatype", "shape", "data_ref", "withheld")
SIDES = ("input", "output", "model_input", "model_output")
NAMED_COLUMNS_MAX = 512
"""Names of tensors come from clients where a model declares none. What is beyond this is in the segments only."""
DATATYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
}
UNNAMEABLE = re.compile(r"[^A-Za-z0-9_]")
LENGTH = struct.Struct("<I")

Cell = Any
"""A tensor's cell is an array of one dimension or a list of texts; other cells are what they look like in JSON."""


@dataclass(slots=True)
class Columns:
    """Rows in the making.

    `fixed` has a tuple a row, in the order of `COLUMNS`; `time` is in microseconds since the epoch. `named` are the
    columns of tensors and signals, in which the last rows may be missing.
    """

    fixed: list[tuple[Cell, ...]] = field(default_factory=list)
    named: dict[tuple[str, str], list[Cell]] = field(default_factory=dict)
    _described: dict[Any, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Add the rows of a record."""
        payload = record.payload or NO_PAYLOAD
        rows = max(1, record.rows)
        tensors = list(_tensors(payload, rows))
        before, behind = _before(record, payload, rows), _behind(record)
        for row in range(rows):
            count = len(self.fixed)
            here = []
            for side, tensor, shape, cells in tensors:
                here.append((side, tensor.name, tensor.datatype, tuple(shape), tensor.data_ref, tensor.withheld))
                if cells[row] is not None:
                    self._put((side, tensor.name), count, cells[row])
            for name, signal in record.signals.items():
                if row < len(signal):
                    self._put(("signal", name), count, signal[row])
            name = record.id if rows == 1 else f"{record.id}.{row}"
            self.fixed.append((name, record.id, row, *before, self._describe(tuple(here)), *behind))

    def _put(self, key: tuple[str, str], row: int, cell: Cell) -> None:
        cells = self.named.get(key)
        if cells is None:
            if len(self.named) >= NAMED_COLUMNS_MAX:
                return
            cells = self.named[key] = []
        if len(cells) == row:
            cells.append(cell)
        elif len(cells) < row:
            cells += [None] * (row - len(cells))
            cells.append(cell)

    def _describe(self, tensors: tuple[tuple[Any, ...], ...]) -> list[dict[str, Any]]:
        """Return the cell of `tensors`; rows with the same tensors share one."""
        found = self._described.get(tensors)
        if found is None:
            found = self._described[tensors] = [
                dict(zip(TENSOR_FIELDS, (column(side, name), name, datatype, list(shape), *more), strict=True))
                for side, name, datatype, shape, *more in tensors
            ]
        return found

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
        return cells + [None] * (len(self.fixed) - len(cells))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Return the rows as JSON knows them."""
        named = {name: self.named_cells(key) for key, name in self.names().items()}
        for row, cells in enumerate(self.fixed):
            values = dict(zip(COLUMNS, cells, strict=True))
            values["time"] = datetime.fromtimestamp(values["time"] / 1e6, UTC)
            values |= {name: cells[row] for name, cells in named.items()}
            yield {name: plain(cell) for name, cell in values.items()}


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
        return cell.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(cell, date):
        return cell.isoformat()
    if isinstance(cell, np.ndarray):
        cell = cell.tolist()
    if isinstance(cell, list):
        return [plain(one) for one in cell]
    if isinstance(cell, dict):
        return {name: plain(one) for name, one in cell.items()}
    if isinstance(cell, float) and not np.isfinite(cell):
        return None
    return cell


def day(seconds: float) -> str:
    """Return the day of a record's time, UTC.

    >>> day(1_700_000_000.5)
    '2023-11-14'
    """
    return _day(int(seconds // DAY_SECONDS))


@lru_cache(64)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_SECONDS, UTC).date().isoformat()


def _before(record: Record, payload: Payload, rows: int) -> tuple[Cell, ...]:
    """Return the cells between `row` and `tensors`."""
    timing = record.timings.get
    return (
        rows,
        round(record.time * 1e6),
        record.kind,
        record.calls,
        record.status,
        payload.error,
        record.error_type,
        record.endpoint,
        record.version,
        record.bundle,
        record.variant,
        record.reason,
        record.probability,
        record.route_revision,
        record.rollout,
        payload.unit,
        None if record.group is None else f"{record.group:014x}",
        payload.client_id,
        payload.request_id,
        record.trace_id,
        record.span_id,
        timing("total"),
        timing("decode"),
        timing("queue"),
        timing("compute"),
        record.batch_size,
        record.engine,
        orjson.dumps(payload.parameters).decode() if payload.parameters else None,
        record.payload_state,
        record.payload_rate,
    )


def _behind(record: Record) -> tuple[Cell, ...]:
    """Return the cells behind `tensors`."""
    return record.writer, record.seq, record.model, day(record.time)


def _tensors(payload: Payload, rows: int) -> Iterator[tuple[str, Tensor, Sequence[int], list[Cell]]]:
    """Yield each tensor that is there: its side, itself, a row's shape, and a cell for each row."""
    sides = (payload.inputs, payload.outputs, payload.model_inputs, payload.model_outputs)
    for side, tensors in zip(SIDES, sides, strict=True):
        for tensor in tensors:
            elements, shape = _elements(tensor), tensor.shape
            parted = rows > 1 and len(shape) > 0 and shape[0] == rows
            if elements is None or rows == 1:
                yield side, tensor, shape[1:] if parted else shape, [elements] * rows
            elif parted and len(elements) % rows == 0:
                size = len(elements) // rows
                yield side, tensor, shape[1:], [elements[row * size : (row + 1) * size] for row in range(rows)]
            else:
                yield side, tensor, shape, [elements, *[None] * (rows - 1)]


def _elements(tensor: Tensor) -> Cell:
    """Return a tensor's elements; None for what is elsewhere, was not kept, or is no tensor."""
    if tensor.data_ref is not None:
        return None
    if tensor.datatype == "BYTES":
        return _texts(tensor.data)
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None or len(tensor.data) % dtype.itemsize or not tensor.data:
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

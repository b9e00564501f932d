"""The inference table in Arrow and Parquet. Needs the extra `parquet`; only who has it imports this.

The types are those of `columns`. Where one tensor came with different datatypes, the column takes the type that holds
all of them: numbers become wider, and beside text they are text. DuckDB's `union_by_name` does the same between files.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monitors.log.columns import COLUMNS, PARTITIONS, TENSOR_FIELDS, Cell, Columns
from monitors.log.label_columns import LABEL_FILE_COLUMNS

TENSOR = pa.struct([(name, pa.list_(pa.int64()) if name == "shape" else pa.string()) for name in TENSOR_FIELDS])
TYPES = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "tensors": pa.list_(TENSOR),
}
GROUP_BYTES = 16 * 1024 * 1024
"""What a row group should take: a query that needs one row reads this much of a column at most."""


def table(columns: Columns) -> pa.Table:
    """Return the rows as an Arrow table, sorted by prediction and row."""
    by_column = zip(*columns.fixed, strict=True) if columns.fixed else ((),) * len(COLUMNS)
    fixed = dict(zip(COLUMNS, by_column, strict=True))
    arrays = {name: _array(fixed[name], kind) for name, (kind, _meaning) in COLUMNS.items()}
    for key, name in columns.names().items():
        cells = columns.named_cells(key)
        arrays[name] = _signal(cells) if key[0] == "signal" else _lists(cells)
    return pa.table(arrays).sort_by([("prediction_id", "ascending"), ("row", "ascending")])


def label_table(cells: dict[str, list[Cell]]) -> pa.Table:
    """Return labels as an Arrow table, sorted as the predictions are; what has no type of its own is text."""
    kinds = {name: kind for name, (kind, _meaning) in LABEL_FILE_COLUMNS.items()}
    arrays = {name: _array(values, kinds.get(name, "string")) for name, values in cells.items()}
    return pa.table(arrays).sort_by([("prediction_id", "ascending"), ("row", "ascending")])


def write(made: pa.Table, path: Path) -> None:
    """Write a table to a file, compressed; the columns of the partition are in the path and not in the file."""
    rows = max(1_000, min(100_000, GROUP_BYTES * made.num_rows // max(1, made.nbytes)))
    pq.write_table(
        made.drop_columns([name for name in PARTITIONS if name in made.column_names]),
        path,
        compression="zstd",
        row_group_size=rows,
    )


def _array(cells: Sequence[Cell], kind: str) -> pa.Array:
    if kind == "timestamp":
        return pa.array(cells, pa.int64()).cast(TYPES[kind])
    if kind == "date":
        return pa.array(cells, pa.string()).cast(TYPES[kind])
    if kind == "tensors":
        # Rows share these cells, so each is converted once.
        shared = {id(one): one for one in cells}
        places = {one: place for place, one in enumerate(shared)}
        return pa.array(list(shared.values()), TYPES[kind]).take(
            pa.array([places[id(one)] for one in cells], pa.int64())
        )
    return pa.array(cells, TYPES[kind])


def _signal(cells: Sequence[Cell]) -> pa.Array:
    kinds = {type(one) for one in cells} - {type(None)}
    if kinds <= {int} or kinds <= {str} or kinds <= {bool}:
        return pa.array(cells)
    if str in kinds:
        return pa.array([None if one is None else str(one) for one in cells], pa.string())
    return pa.array([None if one is None else float(one) for one in cells], pa.float64())


def _lists(cells: Sequence[Cell]) -> pa.Array:
    arrays = [one for one in cells if isinstance(one, np.ndarray)]
    texts = [one for one in cells if isinstance(one, list)]
    if texts:
        whole = [[str(each) for each in one] if one is not None else None for one in map(_listed, cells)]
        return pa.array(whole, pa.list_(pa.string()))
    values = np.concatenate(arrays) if arrays else np.empty(0)
    lengths = np.fromiter((0 if one is None else len(one) for one in cells), np.int64, len(cells))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    missing = pa.array([one is None for one in cells], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values), mask=missing)


def _listed(cell: Cell) -> Cell:
    return cell.tolist() if isinstance(cell, np.ndarray) else cell

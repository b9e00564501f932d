"""Labels in a file: CSV or Parquet, read a part at a time, each label with the line that it stands on."""

import csv
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import orjson

from gateway.labels import FIELDS
from gateway.operations import OperationError

READ_ROWS = 10_000
"""Rows of a Parquet file that are decoded together."""

Line = tuple[int, dict[str, Any]]
"""Where a label stands, from 1 (of a CSV file the line, whose first is the heading), and what it says."""


def read_labels(file: Path) -> Iterator[Line]:
    """Walk the labels of a file; what a column holds beside `FIELDS` is passed over, and so is an empty cell.

    Raises:
        OperationError: it can't be read, or has no column for the value or for what it is about.
    """
    return _read_parquet(file) if file.suffix.lower() in (".parquet", ".pq") else _read_csv(file)


def _read_csv(file: Path) -> Iterator[Line]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            lines = csv.DictReader(text)
            _check(file, lines.fieldnames or [])
            for row in lines:
                cells = {name: row.get(name) for name in FIELDS}
                yield lines.line_num, {name: _cell(name, cell) for name, cell in cells.items() if cell}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OperationError(f"{file}: {error}; expected CSV in UTF-8, or a file called .parquet", 422) from error


def _read_parquet(file: Path) -> Iterator[Line]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise OperationError(f"{file}: {error}; pip install 'snowgate[parquet]'", 422) from error
    try:
        with parquet.ParquetFile(file) as table:
            names = table.schema_arrow.names
            _check(file, names)
            number = 0
            for batch in table.iter_batches(READ_ROWS, columns=[name for name in names if name in FIELDS]):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {name: _plain(cell) for name, cell in row.items() if cell is not None}
    except (OSError, ArrowException) as error:
        raise OperationError(f"{file}: {error}; expected Parquet", 422) from error


def _check(file: Path, names: Any) -> None:
    if "value" not in names or not {"prediction_id", "client_id"} & set(names):
        have = ", ".join(names)[:200] or "none"
        raise OperationError(
            f"{file}: columns {have}; expected value, and prediction_id or client_id (beside them row, name, time, "
            "source)",
            422,
        )


def _cell(name: str, cell: str) -> Any:
    return typed(cell) if name in ("value", "row", "time") else cell


def typed(text: str) -> str | int | float | bool:
    """Read what somebody typed: a number, true or false, or else the text itself.

    >>> typed("7"), typed("0.5"), typed("true"), typed("snow"), typed('"7"')
    (7, 0.5, True, 'snow', '7')
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if isinstance(value, str | int | float | bool) else text


def _plain(cell: Any) -> Any:
    """What Parquet knows more kinds of: a moment."""
    return cell.isoformat() if isinstance(cell, date) else cell

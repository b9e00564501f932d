"""Questions about many predictions: rows of the inference table, newest first.

With the extra `parquet` they are asked of DuckDB, over what is sealed and what is not. Without it the log is walked: it
answers the same for a model and a time, and knows no condition.
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from monitors.log.columns import COLUMNS, Columns, plain
from monitors.log.projection import NotInstalled
from monitors.log.question import QueryRefused, Question
from monitors.log.reader import LogReader
from monitors.log.record import Record


def query() -> ModuleType:
    """Return the module that asks DuckDB. Raises NotInstalled."""
    try:
        from monitors.log import query as module  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise NotInstalled(f"a condition needs an extra, pip install 'snowgate[parquet]' ({error})") from error
    return module


def rows(directory: Path, question: Question, bytes_max: int) -> list[dict[str, Any]]:
    """Answer a question as JSON knows it; a row has only those columns of tensors and signals that it has values for.

    Raises:
        QueryRefused: the condition, or an answer of more than `bytes_max` bytes.
        NotInstalled: there is a condition, and DuckDB is not installed.
        LogCorrupt: a segment is damaged.
    """
    try:
        asking = query()
    except NotInstalled:
        if question.where is not None:
            raise
        return list(_walked(directory, question))
    found = asking.ask(directory, question)
    if found.nbytes > bytes_max:
        msg = (
            f"{found.num_rows} rows take {found.nbytes} bytes, at most {bytes_max} are answered; ask for fewer with "
            "--limit, or write a file: -o parquet"
        )
        raise QueryRefused(msg)
    return [_row(one) for one in found.to_pylist()]


def _row(values: dict[str, Any]) -> dict[str, Any]:
    """Put a row in order: the record's columns, then those of tensors and signals that it has values for."""
    others = sorted(name for name, value in values.items() if name not in COLUMNS and value is not None)
    return {name: plain(values[name]) for name in (*COLUMNS, *others)}


def _walked(directory: Path, question: Question) -> Iterator[dict[str, Any]]:
    newest: deque[Record] = deque(maxlen=question.limit)
    for record in LogReader(directory).records(since=question.since, with_payload=True):
        if question.takes(record):
            newest.append(record)
    left = question.limit
    for record in sorted(newest, key=lambda one: (one.time, one.id), reverse=True):
        columns = Columns()
        columns.add(record)
        yield from map(_row, list(columns.rows())[:left])
        left -= len(columns.fixed)
        if left <= 0:
            return

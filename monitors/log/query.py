"""Questions in SQL over the inference table: what is sealed, from Parquet, and what is not yet, from the segments.

Needs the extra `parquet`; only who has it imports this. Each record is read from one of the two places, by the manifest
as it was when the question was asked. DuckDB may open the files of the projection and nothing else; its settings are
locked before the condition is looked at, and a condition is an expression: it can't write, and it ends nothing.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from monitors.log import parquet
from monitors.log.columns import Columns
from monitors.log.manifest import Manifest, ParquetFile
from monitors.log.question import QueryRefused, Question
from monitors.log.reader import LogReader
from monitors.log.segment import PARQUET

SECONDS_MAX = 60.0
MEMORY = "2GB"
THREADS = 2
TRIES = 3
"""Retention or `log forget` may take a file away between the look at the manifest and the reading; then all is new."""


def ask(directory: Path, question: Question, seconds_max: float = SECONDS_MAX) -> pa.Table:
    """Answer a question. Raises QueryRefused, LogCorrupt."""
    for attempt in range(TRIES):
        try:
            return _ask(directory, question, seconds_max)
        except duckdb.IOException:
            if attempt == TRIES - 1:
                raise
    raise AssertionError("the last try returns or raises")


def _ask(directory: Path, question: Question, seconds_max: float) -> pa.Table:
    with Manifest(directory) as manifest:
        segments, files = manifest.projected(int(question.since * 1e3), question.model)
    live = live_table(directory, question, segments)
    with _database(directory, files, live) as database, _deadline(database, seconds_max):
        try:
            found = database.sql("SELECT * FROM predictions").filter(_bounds(question))
            if question.where is not None:
                found = found.filter(question.where)
            return found.order("time DESC, prediction_id DESC, row").limit(question.limit).to_arrow_table()
        except duckdb.InterruptException as error:
            raise QueryRefused(
                f"took more than {seconds_max:g} s; ask for less time with --since and --until"
            ) from error
        except duckdb.IOException:
            raise
        except duckdb.Error as error:
            raise QueryRefused(f"--where {str(question.where)[:200]!r}: {error}") from error


def write(found: pa.Table, file: BinaryIO) -> None:
    """Write an answer as a Parquet file."""
    pq.write_table(found, file, compression="zstd")


def _bounds(question: Question) -> duckdb.Expression:
    time, moment = duckdb.ColumnExpression("time"), duckdb.ConstantExpression
    found = time >= moment(datetime.fromtimestamp(question.since, UTC))
    if question.until is not None:
        found &= time < moment(datetime.fromtimestamp(question.until, UTC))
    if question.model is not None:
        found &= duckdb.ColumnExpression("model") == duckdb.ConstantExpression(question.model)
    return found


def live_table(directory: Path, question: Question, sealed: set[tuple[str, int]]) -> pa.Table:
    """Read the rows of the segments that are not in Parquet."""
    columns = Columns()
    for record in LogReader(directory).records(since=question.since, with_payload=True, without=sealed):
        if question.takes(record):
            columns.add(record)
    return parquet.table(columns)


@contextmanager
def _database(directory: Path, files: list[ParquetFile], live: pa.Table) -> Iterator[duckdb.DuckDBPyConnection]:
    database = duckdb.connect(":memory:", config={"memory_limit": MEMORY, "threads": THREADS, "temp_directory": ""})
    try:
        database.register("live", live)
        paths = [str(directory / PARQUET / one.path) for one in files]
        sealed = ""
        if paths:
            database.execute("SET allowed_paths = $1", [paths])
            listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
            files_read = f"read_parquet([{listed}], hive_partitioning = true, union_by_name = true)"
            sealed = f"SELECT * FROM {files_read} UNION ALL BY NAME "  # noqa: S608 - names of our own
        database.execute("SET enable_external_access = false")
        database.execute("SET python_enable_replacements = false")
        database.execute(f"CREATE VIEW predictions AS {sealed} SELECT * FROM live")  # noqa: S608 - as above
        database.execute("SET lock_configuration = true")
        yield database
    finally:
        database.close()


@contextmanager
def _deadline(database: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, database.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

"""`snowgate prediction list`."""

import csv
import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from gateway.commands.moments import moment
from gateway.commands.options import existing_home, home_option, operations, server_option
from gateway.output import show
from gateway.prediction import LISTED_SECONDS
from monitors.log.listing import query
from monitors.log.question import Question

FORMS = ("table", "json", "yaml", "name", "csv", "parquet")
COLUMNS = (
    ("id", lambda row: row["id"]),
    ("time", lambda row: row["time"]),
    ("model", lambda row: row["model"]),
    ("version", lambda row: row["version"]),
    ("variant", lambda row: row["variant"]),
    ("kind", lambda row: row["kind"]),
    ("status", lambda row: row["status"]),
    ("ms", lambda row: row["total_ms"]),
)


@click.command("list")
@home_option
@server_option
@click.option("--model", help="Only this model's.")
@click.option("--since", callback=moment, help="From when on: a time, or an age such as 2h.  [default: 24h]")
@click.option("--until", callback=moment, help="Up to when: a time, or an age.")
@click.option("--where", metavar="SQL", help="A condition over the columns of the inference table.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many rows.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(FORMS),
    default="table",
    show_default=True,
    help="Form of the result on standard output.",
)
def list_(
    home: Path,
    server: str | None,
    model: str | None,
    since: float | None,
    until: float | None,
    where: str | None,
    limit: int,
    output: str,
) -> None:
    """List rows of the inference table, newest first: what is sealed and what is not yet.

    The columns are in docs/log.md. A condition needs DuckDB: pip install 'snowgate[parquet]'.

    \b
    Examples:
      snowgate prediction list --model signs --since 2h
      snowgate prediction list --model signs --where "signal_confidence < 0.5 AND status = 200" -o json
      snowgate prediction list --since 7d --where "total_ms>100" --limit 100000 -o parquet > slow.parquet
    """
    begin = time.time() - LISTED_SECONDS if since is None else since
    question = Question(model, begin, until, where, limit)
    if output == "parquet":
        if server is not None:
            raise click.UsageError("-o parquet reads the log's own files: give --home, or another form with --server")
        _parquet(existing_home(home).log, question)
        return
    with operations(home, server) as work:
        found = work.predictions(question)
    if output == "csv":
        click.echo(_csv(found), nl=False)
    else:
        show(found, output, columns=COLUMNS)


def _parquet(directory: Path, question: Question) -> None:
    if sys.stdout.isatty():
        raise click.UsageError("-o parquet is for a file or a program: > predictions.parquet")
    asking = query()
    asking.write(asking.ask(directory, question), sys.stdout.buffer)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """Write rows as CSV; lists are JSON in their cell, and what is null is empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(one) if isinstance(one, list | dict) else one for name, one in row.items()})
    return text.getvalue()

"""`snowgate log cursors`."""

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gateway.audit import rfc3339
from gateway.commands.options import existing_home, home_option, output_option, progress
from gateway.output import show
from monitors.log.cursors import Standing, drop, lag, standings, take_name
from monitors.log.errors import LogBusy

COLUMNS = [
    ("name", lambda row: row["name"]),
    ("read", lambda row: row["records"]),
    ("behind", lambda row: row["lag"]["records"]),
    ("bytes", lambda row: row["lag"]["bytes"]),
    ("seconds", lambda row: round(row["lag"]["seconds"], 1)),
    ("lost", lambda row: row["lost"]),
    ("committed", lambda row: row["committed"]),
    ("in use", lambda row: "yes" if row["in_use"] else "no"),
]


@click.command("cursors")
@home_option
@output_option
@click.option("--drop", "dropped", metavar="NAME", help="Forget this cursor; nobody may be using it.")
def cursors(home: Path, output: str, dropped: str | None) -> None:
    """List who follows the log, how far each is behind, and what it could not read.

    What a cursor has yet to read is kept, as far as the limits allow: drop one that is not used any more.

    \b
    Examples:
      snowgate log cursors
      snowgate log cursors --drop export
    """
    directory = existing_home(home).log
    if dropped is not None:
        drop(directory, dropped)
        progress(f"cursor {dropped} is forgotten")
    rows = [_row(directory, name, standing) for name, standing in standings(directory).items()]
    show(rows, output, columns=COLUMNS, name="name")


def _row(directory: Path, name: str, standing: Standing) -> dict[str, Any]:
    return {
        "name": name,
        "in_use": _in_use(directory, name),
        "committed": rfc3339(standing.time),
        "records": standing.records,
        "lag": asdict(lag(directory, standing, time.time())),
        "lost": standing.lost,
        "gap_count": standing.gap_count,
        "gaps": [
            {
                "writer": one.writer,
                "first_seq": one.first_seq,
                "last_seq": one.last_seq,
                "reason": one.reason,
                "time": rfc3339(one.time),
            }
            for one in standing.gaps
        ],
        "writers": {
            writer: {"segment": place[0], "offset": place[1], "next_seq": standing.next_seqs.get(writer, 0)}
            for writer, place in standing.places.items()
        },
    }


def _in_use(directory: Path, name: str) -> bool:
    try:
        os.close(take_name(directory, name))
    except LogBusy:
        return True
    return False

"""`snowgate prediction export`."""

import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

import click
import orjson

from gateway.audit import rfc3339
from gateway.commands.moments import moment
from gateway.commands.options import existing_home, home_option, progress
from gateway.export.delivery import Delivery, Receiver, read_headers
from gateway.export.events import FORMATS
from monitors.log.reader import LogReader
from monitors.log.record import Record

CHUNK_RECORDS = 256
GIVE_UP_SECONDS = 60.0


@click.command("export")
@home_option
@click.option("--to", "target", required=True, help="A URL, a file of JSON lines, or - for standard output.")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="cloudevents",
    show_default=True,
    help="As the loggers of KServe or Seldon send them, or the whole record.",
)
@click.option("--since", callback=moment, help="Only what came since then: a time, or an age such as 24h or 7d.")
@click.option("--until", callback=moment, help="Only what came before then.")
@click.option("--model", "models", multiple=True, help="Only this model; may be given several times.")
@click.option("--environment", default="production", show_default=True, help="What events say they come from.")
@click.option("--header-file", type=click.Path(path_type=Path), help="A file with headers for the URL, one a line.")
def export(
    home: Path,
    target: str,
    form: str,
    since: float | None,
    until: float | None,
    models: tuple[str, ...],
    environment: str,
    header_file: Path | None,
) -> int:
    """Send predictions as CloudEvents, once; `[export]` in snowgate.toml sends all that come, for ever.

    Each event has the same id as when the gateway sends it. A file holds one event a line, in the JSON format.

    \b
    Examples:
      snowgate prediction export --since 7d --model signs --to signs.jsonl
      snowgate prediction export --format kserve --to http://trustyai.example/ --header-file token.txt
    """
    records = _chosen(LogReader(existing_home(home).log), since, until, models)
    if re.match(r"https?://", target):
        read_headers(header_file)
        file = None if header_file is None else str(header_file)
        return _send(records, Receiver(target, form, header_file=file), environment)
    count = 0
    with _lines(target) as lines:
        for record in records:
            for event in FORMATS[form](record, environment):
                lines.write(orjson.dumps(event.structured(), option=orjson.OPT_APPEND_NEWLINE))
                count += 1
    progress(f"{count} events")
    return 0


def _chosen(reader: LogReader, since: float | None, until: float | None, models: tuple[str, ...]) -> Iterator[Record]:
    for record in reader.records(since=since, with_payload=True):
        if (until is None or record.time < until) and (not models or record.model in models):
            yield record


def _send(records: Iterable[Record], receiver: Receiver, environment: str) -> int:
    delivery = Delivery(receiver, threading.Event(), give_up_seconds=GIVE_UP_SECONDS)
    counts, series = delivery.counts, iter(records)
    try:
        while chunk := list(islice(series, CHUNK_RECORDS)):
            if not delivery.deliver([FORMATS[receiver.format](one, environment) for one in chunk]):
                progress(f"{counts.sent} events arrived; {counts.last_error}")
                progress(f"nothing arrived for {GIVE_UP_SECONDS:.0f} s; go on with --since {rfc3339(chunk[0].time)}")
                return 1
    finally:
        delivery.close()
    progress(f"{counts.sent} events arrived, {counts.set_aside} were refused")
    return 1 if counts.set_aside else 0


@contextmanager
def _lines(target: str) -> Iterator[IO[bytes]]:
    """Open a file that appears when it is whole, or standard output."""
    if target == "-":
        yield sys.stdout.buffer
        return
    making = Path(f"{target}.part")
    with making.open("wb") as file:
        yield file
    making.rename(target)

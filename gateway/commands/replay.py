"""`snowgate prediction replay`."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from bundles.bundle import open_bundle
from bundles.home import Home
from gateway.commands.moments import moment
from gateway.commands.options import existing_home, home_option, output_option, progress
from gateway.operations import OperationError
from gateway.output import facts, show, table
from gateway.replay import Replayer
from gateway.replay_verdicts import Verdict, summary
from gateway.settings import find_file, load_settings, read_environment
from monitors.log.label_join import LATE_SECONDS
from monitors.log.reader import LogReader
from monitors.log.record import Record
from state.sqlite import SqliteState

LIMIT_MAX = 100_000
"""Verdicts of one replay: 40 MB of JSON."""
PROGRESS_EVERY = 1_000
SHOWN_MAX = 20


@click.command("replay")
@home_option
@output_option
@click.option("--since", callback=moment, help="All that were answered since: 2026-11-24T12:00:00Z, 24h, 7d.")
@click.option("--until", callback=moment, help="Only those before.  [default: now]")
@click.option("--model", help="Only those of one model.")
@click.option(
    "--limit",
    type=click.IntRange(1, LIMIT_MAX),
    default=1_000,
    show_default=True,
    help="The first so many.",
)
@click.option("--bundle", help="Ask this bundle, such as signs@8, and not the one that answered.")
@click.argument("ids", metavar="[ID]...", nargs=-1)
def replay_(
    home: Path,
    output: str,
    since: float | None,
    until: float | None,
    model: str | None,
    limit: int,
    bundle: str | None,
    ids: tuple[str, ...],
) -> int:
    """Ask logged predictions again, and say whether the answers are still the same.

    Each goes through the bundle that answered it, by the engine that it was answered by, and is bitwise the same,
    within the bundle's tolerance, different, or not replayable, with the reason. Exit code 1 when something differs.

    With --bundle another bundle answers: which decisions would it change? Exit code 1 when there are any.

    \b
    Examples:
      snowgate prediction replay 0192f3a4-7c11-7d2e-9f60-3a1b5c8d2e4f
      snowgate prediction replay --since 7d --model signs --bundle signs@8
    """
    if bool(ids) == (since is not None):
        raise click.UsageError("expected the ids of predictions, or --since")
    opened = existing_home(home)
    settings, _origins = load_settings(find_file(home), read_environment(), {})
    other = None if bundle is None else opened.refs().resolve(bundle)[0]
    if other is not None and model is None:
        model = open_bundle(opened.store(), other).model
    reader, state = LogReader(opened.log), SqliteState(opened.state)
    try:
        with Replayer(opened, state, settings, progress, other) as replayer:
            if ids:
                records: Iterable[Record] = _named(ids, reader, opened)
            else:
                records = islice(_answered(reader, since or 0.0, until, model), limit)
            verdicts = sorted(_watched(replayer.replay(records)), key=lambda one: one.id)
            done = {"bundle": other, **summary(verdicts), "runners": replayer.runners}
    finally:
        reader.close()
        state.close()
    done["verdicts"] = [one.to_json() for one in verdicts]
    show(done if output != "name" else done["verdicts"], output, tell=_teller(bool(ids)))
    if other is not None and done["decisions"]:
        return 1 if done["decisions_changed"] else 0
    return 1 if done["differs"] or done["decisions_changed"] else 0


def _named(ids: Iterable[str], reader: LogReader, home: Home) -> Iterator[Record]:
    for one in ids:
        try:
            record = reader.find(one)
        except ValueError as error:
            raise OperationError(str(error), 422) from error
        if record is None:
            raise OperationError(
                f"prediction {one}: not in the log of home {home.path}; is it another's (--home)?", 404
            )
        yield record


def _answered(reader: LogReader, since: float, until: float | None, model: str | None) -> Iterator[Record]:
    """Walk what was answered; a record is written a while after its time, so the first one behind is not the end."""
    for record in reader.records(since=since, with_payload=True):
        if until is not None and record.time > until + LATE_SECONDS:
            return
        if record.kind == "answered" and (until is None or record.time < until) and model in (None, record.model):
            yield record


def _watched(verdicts: Iterator[Verdict]) -> Iterator[Verdict]:
    for number, verdict in enumerate(verdicts, 1):
        if number % PROGRESS_EVERY == 0:
            progress(f"{number:,} predictions")
        yield verdict


def _teller(by_id: bool) -> Callable[[dict[str, Any]], None]:
    def tell(done: dict[str, Any]) -> None:
        shown = [one for one in done["verdicts"] if by_id or one["verdict"] in ("differs", "not replayable")]
        if shown:
            table(
                shown[:SHOWN_MAX],
                [
                    ("prediction", lambda one: one["id"]),
                    ("verdict", lambda one: one["verdict"]),
                    ("difference", lambda one: one["difference"]),
                    ("output", lambda one: one["output"]),
                    ("classes", lambda one: [f"row {each['row']}: {_change(each)}" for each in one["changed"]] or None),
                    ("why", lambda one: one["reason"]),
                ],
            )
            if len(shown) > SHOWN_MAX:
                click.echo(f"… and {len(shown) - SHOWN_MAX:,} more; -o json has all", err=True)
            click.echo()
        _tell_sums(done)

    return tell


def _change(one: dict[str, Any]) -> str:
    return f"{one['from']} → {one['to']}"


def _tell_sums(done: dict[str, Any]) -> None:
    changed = f"{done['decisions_changed']:,} of {done['decisions']:,}" if done["decisions"] else None
    facts(
        [
            *(
                ("asked", f"{one['model']} {one['bundle'][:19]}, engine {one['engine']}: {one['golden']}")
                for one in done["runners"]
            ),
            ("predictions", f"{done['predictions']:,}"),
            ("bitwise the same", f"{done['bitwise']:,}" if done["bitwise"] else None),
            ("within tolerance", f"{done['within_tolerance']:,}" if done["within_tolerance"] else None),
            ("different", f"{done['differs']:,}" if done["differs"] else None),
            ("not replayable", f"{done['not_replayable']:,}" if done["not_replayable"] else None),
            ("largest difference", done["largest_difference"]),
            ("classes changed", changed),
        ]
    )

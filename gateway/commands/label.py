"""`snowgate prediction label`."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from gateway.commands.options import actor, operations, operator_options, progress
from gateway.label_files import Line, read_labels, typed
from gateway.labels import label_of
from gateway.operations import Operations
from gateway.output import facts, show
from gateway.remote import RemoteOperations

CALL_LABELS = 1_000
"""Labels of one call: with the longest ids and texts they stay below the control port's 4 MiB."""
SORTED_LABELS = 200_000
"""Labels of a file that are brought into the order of their predictions, so that one walk finds them; some 100 MB."""
INDEX_SECONDS = 2.0
PROGRESS_LABELS = 20_000
PROBLEMS_SHOWN_MAX = 100

Work = Operations | RemoteOperations


@click.command("label")
@operator_options
@click.option("--file", type=click.Path(path_type=Path), help="Labels from a CSV or Parquet file.")
@click.option("--client-id", help="Label by the client's own id of its request (the protocol's `id`).")
@click.option("--name", help="What is labelled: an output's name, where a model has several.  [default: label]")
@click.option("--time", help="When it was found out, such as 2026-11-24T12:00:00Z.  [default: now]")
@click.option("--source", help="Who says so.  [default: you]")
@click.argument("words", metavar="[ID] [VALUE]", nargs=-1)
def label_(
    home: Path,
    server: str | None,
    output: str,
    file: Path | None,
    client_id: str | None,
    name: str | None,
    time: str | None,
    source: str | None,
    words: tuple[str, ...],
) -> int:
    """Say what turned out to be true: of one prediction, or of those in a file.

    ID is a prediction's id, or ID.row for a row of a request with several. What was said before is kept, and what is
    said last holds. A file has the columns prediction_id or client_id, value, and where wanted row, name, time and
    source; a line that can't be read is named and stops no other. Exit code 1 when there was one.

    \b
    Examples:
      snowgate prediction label 0192f3a4-7c11-7d2e-9f60-3a1b5c8d2e4f 7
      snowgate prediction label 0192f3a4-7c11-7d2e-9f60-3a1b5c8d2e4f.3 snow --source inspection
      snowgate prediction label --client-id order-77 0.5
      snowgate prediction label --file labels.csv
    """
    shared = {"name": name, "time": None if time is None else typed(time), "source": source or actor()}
    shared = {field: value for field, value in shared.items() if value is not None}
    if file is None:
        lines: Iterable[Line] = [(1, _one(client_id, words) | shared)]
    elif words or client_id:
        raise click.UsageError("--file takes no ID, VALUE or --client-id beside it: the file has them")
    else:
        lines = ((number, shared | document) for number, document in read_labels(file))
    with operations(home, server) as work:
        done = _send(work, lines, "" if file is None else f"{file} line ")
    show(done, output, name="accepted", tell=_tell)
    return 1 if done["refused"] else 0


def _one(client_id: str | None, words: tuple[str, ...]) -> dict[str, Any]:
    expected = 2 if client_id is None else 1
    if len(words) != expected:
        wanted = "ID and VALUE, or --file FILE" if client_id is None else "VALUE beside --client-id"
        raise click.UsageError(f"{len(words)} words, expected {wanted}")
    target = {"prediction_id": words[0]} if client_id is None else {"client_id": client_id}
    return target | {"value": typed(words[-1])}


def _send(work: Work, lines: Iterable[Line], place: str) -> dict[str, Any]:
    """Send labels in parts, name what was not taken as meant, and count."""
    counts = Counter({"accepted": 0, "duplicate": 0, "unmatched": 0, "refused": 0})
    problems: list[dict[str, Any]] = []
    told, indexed = 0, False
    for part, wrong in _parts(lines):
        if not indexed and isinstance(work, Operations) and any("client_id" in document for _line, document in part):
            indexed = _index(work)
        answer = work.label([document for _line, document in part], actor=actor()) if part else {"problems": []}
        found = wrong + [{**one, "line": part[one.pop("index")][0]} for one in answer.pop("problems")]
        problems += found[: PROBLEMS_SHOWN_MAX - len(problems)]
        counts.update(answer)
        counts["refused"] += len(wrong)
        if counts.total() >= told + PROGRESS_LABELS:
            told = counts.total()
            progress(f"{told:,} labels: {counts['accepted']:,} accepted, {counts['unmatched']:,} unmatched")
    for one in problems:
        click.echo(f"  {place}{one['line']}: {one['problem']}" if place else f"  {one['problem']}", err=True)
    unnamed = counts["refused"] + counts["unmatched"] - len(problems)
    if unnamed:
        click.echo(f"  … and {unnamed:,} more", err=True)
    return {**counts, "problems": problems}


def _parts(lines: Iterable[Line]) -> Iterator[tuple[list[Line], list[dict[str, Any]]]]:
    """Check the labels, and cut them into calls, in the order of their predictions as far as that can be kept.

    Yields the labels of a call, and before the first of some what is wrong among them.
    """
    remaining = iter(lines)
    while some := list(islice(remaining, SORTED_LABELS)):
        good: list[Line] = []
        wrong: list[dict[str, Any]] = []
        for line, document in some:
            try:
                label_of(document, "file")
            except ValueError as error:
                wrong.append({"line": line, "outcome": "refused", "problem": str(error)})
            else:
                good.append((line, document))
        yield [], wrong
        # What is said later of the same stays behind: sorting keeps the order among equals.
        good.sort(key=lambda one: one[1].get("prediction_id", "").partition(".")[0])
        for first in range(0, len(good), CALL_LABELS):
            yield good[first : first + CALL_LABELS], []


def _index(work: Operations) -> bool:
    while not work.labels.index_clients(INDEX_SECONDS):
        progress("reading the log for the clients' own ids")
    return True


def _tell(done: dict[str, Any]) -> None:
    unmatched = f"{done['unmatched']:,} (kept; no prediction is known for them)" if done["unmatched"] else None
    facts(
        [
            ("accepted", f"{done['accepted']:,}"),
            ("said before", f"{done['duplicate']:,}" if done["duplicate"] else None),
            ("unmatched", unmatched),
            ("refused", f"{done['refused']:,}" if done["refused"] else None),
        ]
    )

"""Labels in Parquet, beside the inference table: for each labelled row of it one row, under the same key.

    labels/model=NAME/date=YYYY-MM-DD/labels.parquet

What is sealed stays as it is, and labels come late and are corrected; so they have files of their own, and whoever
reads both joins them by `prediction_id` and `row`. There is one file for each model and day (UTC, of the prediction's
id). It has what holds by now, is written beside and renamed, and is made anew when something in it changes. A label of
a whole request stands in each of its rows that has none of its own.

How far they were read is kept with the labels; when that is gone (`log forget`, `log seal --rebuild`), all is made
again.
"""

from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from monitors.log.columns import column
from monitors.log.label_columns import LABEL_FILE_COLUMNS
from monitors.log.labels import FILE, LABEL, PROJECTED, Held, LabelStore, id_at
from monitors.log.projection import publish, remove_files
from monitors.log.segment import LABELS

NAMES_MAX = 64
"""Names of labels that get a column in a file; a model has as many as it has outputs."""


def project_labels(directory: Path, parquet: ModuleType) -> int:
    """Write the files in which something has changed, and return how many; the sealing lock must be held.

    Raises OSError, apsw.Error.
    """
    if not (directory / FILE).exists():
        return 0
    with closing(LabelStore(directory)) as store:
        after = store.place(PROJECTED)
        last, days = store.changed(after or 0)
        names = {_write(directory, store, model, day, parquet) for model, day in days}
        if after is None:
            _remove(directory, names)
        if last != after:
            store.move(PROJECTED, last)
    return len(names)


def withdraw_labels(directory: Path) -> None:
    """Remove all files; the next projection makes them anew. The sealing lock must be held."""
    if (directory / FILE).exists():
        with closing(LabelStore(directory)) as store:
            store.move(PROJECTED, None)
    _remove(directory, set())


def _remove(directory: Path, kept: set[str]) -> None:
    found = (path for path in (directory / LABELS).glob("model=*/date=*/*") if path.is_file())
    names = {str(path.relative_to(directory / LABELS)) for path in found}
    remove_files(directory / LABELS, names - kept)


def _write(directory: Path, store: LabelStore, model: str, day: str, parquet: ModuleType) -> str:
    name = f"model={quote(model, safe='')}/date={day}/labels.parquet"
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
    first, behind = (id_at(one.timestamp()) for one in (begin, begin + timedelta(days=1)))
    table = parquet.label_table(cells(store.holding(model, first, behind)))
    publish(directory, LABELS, name, lambda path: parquet.write(table, path))
    return name


def cells(held: Iterable[Held]) -> dict[str, list[Any]]:
    """Return the columns of a file; labels of whole requests must come first."""
    places: dict[tuple[str, int], int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in LABEL_FILE_COLUMNS}
    called: dict[str, str] = {}
    for one in held:
        if one.name == LABEL:
            told = {
                "label": one.value,
                "label_time": round(one.time * 1e6),
                "label_source": one.source,
                "label_correct": one.correct,
                "label_loss": one.loss,
            }
        else:
            named = _called(one.name, called, columns)
            told = {} if named is None else {named: one.value}
        for row in range(one.rows) if one.row is None else (one.row,):
            place = places.setdefault((one.prediction, row), len(places))
            if place == len(columns["row"]):
                for values in columns.values():
                    values.append(None)
                columns["prediction_id"][place], columns["row"][place] = one.prediction, row
            for name, value in told.items():
                columns[name][place] = value
    return columns


def _called(name: str, called: dict[str, str], columns: dict[str, list[Any]]) -> str | None:
    """Return the column of a label's name, made when it is new; None when there are too many."""
    if name not in called:
        if len(called) >= NAMES_MAX:
            return None
        wanted = made = column("label", name)
        taken, number = {one.lower() for one in columns}, 1
        while made.lower() in taken:
            number += 1
            made = f"{wanted}_{number}"
        called[name] = made
        columns[made] = [None] * len(columns["row"])
    return called[name]

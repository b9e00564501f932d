"""Labels in Parquet: what others read, in the very lines of docs/log.md, is what we answer ourselves."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset
import pytest

from bundles.home import Home
from monitors.log.label_files import withdraw_labels
from monitors.log.labels import Label, LabelStore, Target
from monitors.log.listing import rows
from monitors.log.question import Question
from tests.monitors.log.archive import seal_all, sealer, write
from tests.monitors.log.logbook import record

BYTES_MAX = 1 << 26
START = 1_790_000_000
PAGE = Path(__file__).parents[3] / "docs" / "log.md"
LABELLED = ("prediction_id", "row", "label", "label_source", "label_time")
Told = list[tuple[Any, ...]]


@pytest.fixture
def ids(home: Home) -> list[str]:
    """The ids of sealed predictions: of three rows each, two days apart."""
    made = []
    for place in range(6):
        one = record(now_ns=(START + place % 2 * 2 * 86_400) * 10**9 + place * 10**6)
        one.rows, one.signals = 3, {"class": [1, 2, 3]}
        one.model = "speed" if place == 5 else "signs"
        made.append(one)
    found = write(home.log, [made])
    seal_all(sealer(home))
    return found


def say(home: Home, prediction: str, row: int | None, value: Any, name: str = "label", *, correct: bool = True) -> None:
    """Say something of a row, or of all three."""
    store = LabelStore(home.log)
    target = Target(prediction, row, "signs", "1", correct=correct, rows=3)
    label = Label(value, prediction=prediction, row=row, name=name, time=float(START), source="ada")
    assert store.add([(label, target)], START) == ["accepted"]
    store.close()


def asked(home: Home) -> Told:
    """Return the labels as `prediction list` answers them."""
    found = rows(home.log, Question(limit=1_000), BYTES_MAX)
    return sorted(tuple(one[name] for name in LABELLED) for one in found if one.get("label") is not None)


def code(language: str) -> str:
    """Return the lines of the page that join labels, in a language."""
    section = PAGE.read_text().partition("### Labels beside it")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return str(found)


def test_the_lines_of_the_page_give_what_we_answer(home: Home, ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB, pandas and polars join the files as the page says: a row's own label, else that of its whole request."""
    say(home, ids[0], None, "snow")
    say(home, ids[0], 1, "sun", correct=False)
    say(home, ids[1], 2, 7)
    say(home, ids[1], 2, 8)
    say(home, ids[1], 0, "dry", name="road.state")
    assert sealer(home).project_labels() == 2
    expected = asked(home)
    assert [one[2] for one in expected] == ["snow", "sun", "snow", "8"]
    monkeypatch.chdir(home.path)
    joined = duckdb.sql(code("sql"))
    assert joined is not None
    columns = joined.to_arrow_table().to_pylist()
    assert told(columns) == expected
    found: dict[str, Any] = {"pandas": pd, "polars": pl}
    exec(code("python"), found)  # noqa: S102 - the page's own lines
    for frame in (found["by_pandas"].to_dict("records"), found["by_polars"].to_dicts()):
        assert len(frame) == len(ids) * 3, "every row, labelled or not"
        assert told(frame) == expected
    every = pyarrow.dataset.dataset("log/labels", partitioning="hive").to_table().to_pylist()
    assert {(one["label"], one["label_correct"]) for one in every if one["label"] in ("snow", "sun")} == {
        ("snow", True),
        ("sun", False),
    }
    assert [one["label_road_state"] for one in columns if one["label_road_state"] is not None] == ["dry"]


def told(found: list[dict[str, Any]]) -> Told:
    """Return the rows with a label as `asked` does."""
    chosen = [one for one in found if isinstance(one["label"], str)]
    moment = "%Y-%m-%dT%H:%M:%S.%fZ"
    return sorted(
        (
            one["prediction_id"],
            one["row"],
            one["label"],
            one["label_source"],
            one["label_time"].astimezone(UTC).strftime(moment),
        )
        for one in chosen
    )


def test_only_what_has_changed_is_written_again(home: Home, ids: list[str]) -> None:
    """A label touches the file of its model and day; those of others, and what is sealed, stay as they are."""
    say(home, ids[0], 0, 1)
    say(home, ids[1], 0, 1)
    work = sealer(home)
    assert [work.project_labels(), work.project_labels()] == [2, 0]
    files = sorted(home.log.rglob("*.parquet"))
    before = {path: path.stat().st_ino for path in files}
    say(home, ids[0], 1, 2)
    assert work.project_labels() == 1
    day = datetime.fromtimestamp(START, UTC).date()
    changed = [path for path in files if path.stat().st_ino != before[path]]
    assert changed == [home.log / f"labels/model=signs/date={day}/labels.parquet"]


def test_what_is_forgotten_is_not_in_the_files(home: Home, ids: list[str]) -> None:
    """Files go when something in them is erased, and come again without it; one that is empty then does not."""
    say(home, ids[0], 0, "gone")
    say(home, ids[1], 0, "stays")
    work = sealer(home)
    work.project_labels()
    store = LabelStore(home.log)
    assert store.forget([ids[0]]) == 1
    store.close()
    assert work.project_labels() == 1
    table = pyarrow.dataset.dataset(home.log / "labels", partitioning="hive").to_table()
    assert table.column("label").to_pylist() == ["stays"]
    withdraw_labels(home.log)
    assert not list((home.log / "labels").rglob("*.parquet"))
    assert work.project_labels() == 1
    assert len(list((home.log / "labels").rglob("*.parquet"))) == 1


def test_a_label_of_a_row_with_many_costs_what_the_first_did(tmp_path: Path) -> None:
    """The steps that SQLite takes for one more label do not grow with those that were said of the row before."""
    store = LabelStore(tmp_path)
    target = Target("p", 0, "signs", "1")
    costs, steps = [], [0]

    def step() -> bool:
        steps[0] += 1
        return False

    def add(number: int, about: Target | str) -> None:
        label = Label(number, prediction="p", row=0, time=float(number), source="ada")
        assert store.add([(label, about)], 1.0) in (["accepted"], ["unmatched"])

    connection: apsw.Connection = store._connection
    for about in ("not there", target):
        for number in range(600):
            if number in (10, 599):
                steps[0] = 0
                connection.set_progress_handler(step, 1)
            add(number, about)
            if number in (10, 599):
                connection.set_progress_handler(None)
                costs.append(steps[0])
        assert costs[-1] < 2 * costs[-2], (about, costs)
    store.close()

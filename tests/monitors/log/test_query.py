"""Questions over what is sealed and what is not: each record once, whoever seals, and nothing else is read."""

import json
import time
from pathlib import Path

import pytest

from bundles.home import Home
from monitors.log.listing import rows
from monitors.log.query import ask
from monitors.log.question import QueryRefused, Question
from monitors.log.reader import LogReader
from monitors.log.record import Record
from tests.monitors.log.archive import seal_all, sealer, write
from tests.monitors.log.logbook import Logbook, record

BYTES_MAX = 1 << 26
START = 1_790_000_000


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home."""
    return Home(tmp_path / "home").make()


def made(place: int, model: str = "signs") -> Record:
    """A record with a time of its own."""
    one = record(now_ns=(START + place) * 10**9)
    one.model, one.signals = model, {"confidence": [place / 100]}
    return one


def half_sealed(home: Home) -> Logbook:
    """A log of two models: a part is sealed, a part is closed, a part is open."""
    write(home.log, [[made(place, ("signs", "speed")[place % 2])] for place in range(60)])
    work = sealer(home)
    work.start()
    work.turn()
    book = Logbook(home.log, "w1")
    book.write([made(place) for place in range(60, 80)])
    return book


def test_rows_are_those_that_a_walk_finds(home: Home) -> None:
    """Sealed, closed and open together: every record once, the newest first, with equal values in either way."""
    book = half_sealed(home)
    found = rows(home.log, Question(limit=1_000), BYTES_MAX)
    walked = sorted(LogReader(home.log).records(with_payload=True), key=lambda one: one.time, reverse=True)
    assert [one["prediction_id"] for one in found] == [one.id for one in walked]
    assert [(one["writer"], one["seq"]) for one in found] == [(one.writer, one.seq) for one in walked]
    payload = walked[0].payload
    assert payload is not None
    assert found[0]["input_x"] == list(payload.inputs[0].data)
    seal_all(sealer(home))
    assert rows(home.log, Question(limit=1_000), BYTES_MAX) == found
    book.close()
    seal_all(sealer(home))
    assert rows(home.log, Question(limit=1_000), BYTES_MAX) == found


def test_without_duckdb_the_same_is_listed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model and a time need no extra, and give the same rows; a condition says what to install."""
    half_sealed(home).close()
    question = Question(model="signs", since=START + 10, until=START + 70, limit=25)
    expected = rows(home.log, question, BYTES_MAX)
    assert len(expected) == 25
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    monkeypatch.delitem(__import__("sys").modules, "monitors.log.query")
    monkeypatch.delattr("monitors.log.query", raising=False)
    assert json.dumps(rows(home.log, question, BYTES_MAX)) == json.dumps(expected)
    with pytest.raises(Exception, match=r"pip install 'snowgate\[parquet\]'"):
        rows(home.log, Question(where="row = 0"), BYTES_MAX)


def test_a_condition_is_sql_over_the_columns(home: Home) -> None:
    """Columns of the record, of signals and of tensors, in what is sealed and what is not."""
    half_sealed(home).close()
    found = rows(home.log, Question(model="signs", where="signal_confidence >= 0.5 AND input_x[2] = 1"), BYTES_MAX)
    assert [one["signal_confidence"] for one in found] == [
        place / 100 for place in reversed(range(50, 80)) if place >= 60 or place % 2 == 0
    ]
    assert rows(home.log, Question(where="model = 'speed' AND date = DATE '2020-01-01'"), BYTES_MAX) == []


@pytest.mark.parametrize(
    "where",
    [
        "1=1) UNION ALL SELECT * FROM live --",
        "1=1; DROP VIEW predictions",
        "nonsense = 1",
        "EXISTS (SELECT * FROM read_text('/etc/passwd'))",
        "EXISTS (SELECT * FROM glob('/etc/*'))",
        "EXISTS (SELECT * FROM read_parquet('{log}/parquet/model=speed/*/*.parquet'))",
        "EXISTS (SELECT * FROM question)",
        "id IN (COPY (SELECT 1) TO '{log}/out.csv')",
    ],
)
def test_a_condition_reaches_nothing_else(home: Home, where: str) -> None:
    """No other file, no variable of ours, no second statement, nothing written."""
    half_sealed(home).close()
    before = sorted(home.log.rglob("*"))
    with pytest.raises(QueryRefused):
        rows(home.log, Question(model="signs", where=where.replace("{log}", str(home.log))), BYTES_MAX)
    assert sorted(home.log.rglob("*")) == before


def test_limits_of_time_and_size(home: Home) -> None:
    """What takes too long is ended, and what is too much for an answer is refused with a word about a way."""
    half_sealed(home).close()
    began = time.monotonic()
    with pytest.raises(QueryRefused, match="took more than"):
        ask(home.log, Question(where="row IN (SELECT count(*) FROM range(10000000000))"), seconds_max=0.2)
    assert time.monotonic() - began < 60
    with pytest.raises(QueryRefused, match="-o parquet"):
        rows(home.log, Question(limit=50), 1_000)


def test_one_tensor_with_other_datatypes_over_time(home: Home) -> None:
    """Files with FP32, FP64 and text under one name are asked together."""
    for kind, data in (("FP32", b"\0\0\x80\x3f"), ("FP64", b"\0\0\0\0\0\0\0\x40"), ("BYTES", b"\x01\0\0\0a")):
        one = record()
        assert one.payload is not None
        one.payload.inputs[0].datatype, one.payload.inputs[0].data, one.payload.inputs[0].shape = kind, data, [1]
        write(home.log, [[one]], name=kind)
    seal_all(sealer(home))
    found = rows(home.log, Question(), BYTES_MAX)
    assert sorted(str(one["input_x"]) for one in found) == ["['1.0']", "['2.0']", "['a']"]

"""One version's stream: how batches are cut, how units count, how the promise is divided, how it goes on."""

import json

import numpy as np
import pytest

from bundles.baseline import measure
from monitors.log.record import Record, new_id
from monitors.signals import Watching
from monitors.streams import SECONDS_A_DAY, Stream

CHANCE = np.random.default_rng(4)
BASELINE = measure({"class": CHANCE.integers(0, 4, 1_000), "energy": CHANCE.normal(size=1_000)}, "holdout")


def stream(**watching: float) -> Stream:
    """A stream of version 1, alone in its home."""
    made = Stream("signs", "1", "sha256:1", BASELINE, Watching(**watching))  # type: ignore[arg-type]
    made.set_limits(1)
    return made


def record(time: float, rows: int = 1, group: int | None = None, label: int = 0) -> Record:
    """One record of `rows` equal rows."""
    return Record(
        id=new_id(int(time * 1e9)),
        kind="answered",
        time=time,
        model="signs",
        version="1",
        bundle="sha256:1",
        status=200,
        rows=rows,
        group=group,
        signals={"class": [label] * rows, "energy": [0.0] * rows},
    )


def test_batches_end_by_count_or_by_time() -> None:
    """64 rows end a batch at once; fewer wait until a record comes that lies a second later."""
    made = stream()
    for number in range(63):
        made.add(record(100 + number / 1_000))
    assert made.rows == 0
    made.add(record(100.625))
    assert made.rows == 64
    made.add(record(100.75))
    made.add(record(101.625))
    assert made.rows == 64
    made.add(record(101.75))
    assert made.rows == 66


def test_rows_that_come_fast_are_judged_together() -> None:
    """A batch spans half a second however many rows come in them, up to a number that ends it all the same."""
    made = stream()
    for number in range(1_000):
        made.add(record(100 + number / 100_000))
    assert made.rows == 0
    made.add(record(100.625))
    assert made.rows == 1_001
    for _number in range(8_192):
        made.add(record(100.13))
    assert made.rows == 1_001 + 8_192


def test_a_batch_that_waits_is_overdue_after_its_time_and_some_grace() -> None:
    """Low traffic: the caller ends a batch when its time and the grace for late records are over."""
    made = stream()
    assert not made.overdue(200)
    made.add(record(100))
    assert not made.overdue(101.9)
    assert made.overdue(102.1)
    made.flush()
    assert not made.overdue(200)
    assert made.rows == 1


def test_rows_of_one_request_and_of_one_unit_are_averaged() -> None:
    """A request of 64 equal rows, or 64 requests of one unit, say as much as one row; 64 strangers say more."""
    evidence = []
    for rows, group in ((64, None), (1, 7), (1, None)):
        made = stream()
        for number in range(64 // rows):
            made.add(record(100 + number / 1_000, rows, group, label=9))
        if made.pending:
            made.flush()
        assert made.rows == 64
        evidence.append(made.watches[0].detector.evidence)
    assert evidence[0] == pytest.approx(evidence[1])
    assert evidence[2] > 1e6 * evidence[0]


def test_the_promise_is_divided_over_versions_and_signals() -> None:
    """The rates of false pages of all pagers of all versions add up to one in 90 days."""
    versions = [stream() for _ in range(3)]
    for one in versions:
        one.set_limits(3)
    pagers = [watch for one in versions for watch in one.watches if watch.tier == "page"]
    assert len(pagers) == 6
    assert sum(1 / watch.detector.limit for watch in pagers) == pytest.approx(1 / (90 * SECONDS_A_DAY))


def test_the_clock_of_the_promise_is_record_time() -> None:
    """Evidence of a stationary stream cannot exceed, on average, the seconds that have passed, whatever the traffic."""
    chance = np.random.default_rng(5)
    evidence = []
    for _ in range(40):
        made = stream(tolerance=0.0)
        for number in range(320):
            made.add(record(100 + number / 100, label=int(chance.integers(0, 4))))
        evidence.append(made.watches[0].detector.evidence)
    assert np.mean(evidence) < 4.2


def test_it_goes_on_from_a_checkpoint_to_the_last_bit() -> None:
    """Through JSON in the middle of a batch: the same evidence afterwards. Against another baseline it refuses."""
    straight, broken = stream(), stream()
    for number in range(1_000):
        for one in (straight, broken):
            one.add(record(100 + number / 50, label=number % 5))
        if number % 37 == 0:
            saved = json.loads(json.dumps(broken.to_json()))
            broken = stream()
            broken.restore(saved)
    assert [one.detector.evidence for one in straight.watches] == [one.detector.evidence for one in broken.watches]
    other = Stream("signs", "1", "sha256:1", measure({"class": np.arange(4)}, "other"), Watching())
    with pytest.raises(ValueError, match="baseline is another one"):
        other.restore(saved)


def test_a_model_that_answers_nan_is_seen() -> None:
    """NaN energies (in the log, null) fall into the bin of what is not a number, and page."""
    made = stream()
    shifts = []
    for number in range(128):
        one = record(100 + number / 100, label=number % 4)
        one.signals["energy"] = [None]
        shifts += made.add(one) or []
    assert {(one.signal, one.tier, one.observed) for one in shifts if one.tier == "page"} == {("energy", "page", None)}

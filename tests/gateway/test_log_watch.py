"""What control makes of its workers' words about the log: one incident, sums, and nothing lost with a worker."""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.log_watch import LogWatch
from gateway.settings import LogSettings
from monitors.incidents import Incidents
from monitors.outages import Outages
from state.sqlite import SqliteState

TIME = "2026-11-24T09:30:12.000000Z"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[SqliteState]:
    """An empty store."""
    made = SqliteState(tmp_path / "state.db")
    yield made
    made.close()


@pytest.fixture
def watch(state: SqliteState) -> LogWatch:
    """Control's view, before any worker has said a word."""
    return LogWatch(LogSettings(), Outages(state, "http://127.0.0.1:8082", "production", lambda: TIME))


def incidents(state: SqliteState) -> list[tuple[str, str]]:
    """Return state and summary of all incidents."""
    return [(one["state"], one["summary"]) for one in Incidents(state, lambda: TIME).list()]


def word(*, in_flight: int = 0, records: int = 0, seconds: float = 0.0, failing: str | None = None) -> dict[str, Any]:
    """What a worker sends."""
    return {"in_flight": in_flight, "undurable": [records, seconds], "failing": failing}


def figures(watch: LogWatch) -> dict[str, float]:
    """Return the metrics."""
    return {sample.name: sample.value for family in watch.families() for sample in family.samples}


def test_a_failing_log_is_one_incident(state: SqliteState, watch: LogWatch) -> None:
    """Two workers can't write, again and again: one incident, over when the last of them can."""
    watch.update("w0", word())
    assert incidents(state) == []
    for _ in range(3):
        watch.update("w0", word(failing="No space left on device"))
        watch.update("w1", word(failing="No space left on device"))
    (incident,) = incidents(state)
    assert incident == ("open", "the prediction log can't be written: No space left on device (worker w0)")
    assert figures(watch)["snowgate_log_failing_workers"] == 2
    watch.update("w0", word())
    assert incidents(state)[0][0] == "open"
    watch.update("w1", word())
    assert incidents(state)[0][0] == "resolved"
    assert sorted(one.body["page"]["event"] for one in state.list("outbox/")) == ["open", "resolved"]


def test_what_an_earlier_control_told_is_ended(state: SqliteState, watch: LogWatch) -> None:
    """Control died while the log failed; the next one's first good word ends the incident."""
    watch.update("w0", word(failing="Input/output error"))
    again = LogWatch(LogSettings(), Outages(state, "http://127.0.0.1:8082", "production", lambda: TIME))
    again.update("w0", word())
    assert incidents(state)[0][0] == "resolved"


def test_a_failure_is_told_though_live_state_is_on_the_same_disk(state: SqliteState, watch: LogWatch) -> None:
    """The disk is full for the incident too: it is written when there is room, also if the failure is over by then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        watch.update("w0", word(failing="No space left on device"))
        watch.update("w0", word())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert incidents(state) == []
    watch.update("w0", word())
    (incident,) = incidents(state)
    assert incident == ("resolved", "the prediction log can't be written: No space left on device (worker w0)")
    assert sorted(one.body["page"]["event"] for one in state.list("outbox/")) == ["open", "resolved"]


def test_sums_and_the_oldest(watch: LogWatch) -> None:
    """Records and calls are added up, the age is the largest; a dead worker's calls in flight are abandoned."""
    watch.update("w0", word(in_flight=5, records=3, seconds=0.2))
    watch.update("w1", word(in_flight=2, records=1, seconds=0.7))
    found = figures(watch)
    assert found["snowgate_in_flight"] == 7
    assert found["snowgate_log_undurable_records"] == 4
    assert found["snowgate_log_undurable_seconds"] == 0.7
    assert found["snowgate_log_loss_limit_seconds"] == 0, "with commit nothing can be lost"
    assert found["snowgate_abandoned_total"] == 0
    watch.ended("w0")
    watch.ended("w0")
    found = figures(watch)
    assert (found["snowgate_in_flight"], found["snowgate_abandoned_total"]) == (2, 5)


def test_the_limits_are_exported(state: SqliteState) -> None:
    """With async what can be lost is on the page beside what could be lost just now."""
    settings = LogSettings(durability="async", loss_seconds=0.5, loss_records=300)
    found = figures(LogWatch(settings, Outages(state, "http://127.0.0.1:8082", "production", lambda: TIME)))
    assert found["snowgate_log_loss_limit_seconds"] == 0.5
    assert found["snowgate_log_loss_limit_records"] == 300

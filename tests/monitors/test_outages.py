"""Incidents about runners and the log: told once, paged, over when all is well, and apart from those about shifts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from monitors.desk import Desk
from monitors.incidents import IncidentError, Incidents
from monitors.outages import Outages
from state import Change
from state.sqlite import SqliteState

TIME = "2026-11-24T09:30:12.000000Z"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[SqliteState]:
    """An empty store."""
    made = SqliteState(tmp_path / "state.db")
    yield made
    made.close()


@pytest.fixture
def outages(state: SqliteState) -> Outages:
    """Outages at one moment."""
    return Outages(state, "http://127.0.0.1:8082", "production", lambda: TIME)


def park(outages: Outages, bundle: str = "sha256:1") -> None:
    """Tell of a runner that was given up."""
    outages.parked("signs", "1", bundle, "its runner died 10 times in a row", "Traceback …")


def test_an_outage_is_told_once_and_paged_twice(state: SqliteState, outages: Outages) -> None:
    """Control says the same again after a restart: one incident, a page when it opens and one when it is over."""
    park(outages)
    park(outages)
    (incident,) = Incidents(state, lambda: TIME).list()
    assert (incident["state"], incident["cause"], incident["evidence"]["said"]) == ("open", "runner", "Traceback …")
    outages.served("sha256:2")
    outages.served("sha256:1")
    outages.served("sha256:1")
    (incident,) = Incidents(state, lambda: TIME).list()
    assert incident["state"] == "resolved"
    pages = [one.body["page"] for one in state.list("outbox/")]
    assert sorted(one["event"] for one in pages) == ["open", "resolved"]
    assert {one["dedup_key"] for one in pages} == {incident["dedup_key"]}
    assert [one["command"] for one in pages[0]["questions"]] == [
        "snowgate deploy signs@1 --again --reason '…'",
        f"snowgate incident decide {incident['id']} model-broken --reason '…'",
    ]


def test_a_decided_outage_is_the_monitors(state: SqliteState, outages: Outages) -> None:
    """What a human decided is carried out, also when the runner comes up in between."""
    park(outages)
    incidents = Incidents(state, lambda: TIME)
    incidents.decide(incidents.list()[0]["id"], "model-broken", "ada", "it leaks")
    outages.served("sha256:1")
    assert incidents.list()[0]["state"] == "decided"


def test_an_outage_is_no_shift(state: SqliteState, outages: Outages) -> None:
    """The monitor's desk does not take a runner's incident for the one to which a shift's evidence belongs."""
    park(outages)
    desk = Desk(state, None)
    assert [one["cause"] for one in desk.all()] == ["runner"]
    assert desk.active("signs") is None
    shift = desk.all()[0] | {"id": "signs-1", "cause": "shift"}
    state.commit(Change("incidents/signs-1", shift))
    desk.refresh()
    found = desk.active("signs")
    assert found is not None
    assert found["id"] == "signs-1"


def test_a_log_that_fails_is_told_once_and_decided_by_nobody(state: SqliteState, outages: Outages) -> None:
    """It has the disk's word in it, people can say that they look at it, and it ends when the log is written again."""
    outages.log_works("every worker can write its log again")
    outages.log_fails("No space left on device (worker w0)")
    outages.log_fails("No space left on device (worker w1)")
    incidents = Incidents(state, lambda: TIME)
    (incident,) = incidents.list()
    assert (incident["id"], incident["cause"], incident["state"]) == ("log-20261124-093012", "log", "open")
    with pytest.raises(IncidentError, match="about the log, not about a model"):
        incidents.decide(incident["id"], "model-broken", "ada", "it must be somebody's fault")
    incidents.acknowledge(incident["id"], "ada", "I make room")
    park(outages)
    outages.served("sha256:1")
    assert {one["cause"]: one["state"] for one in incidents.list()} == {"log": "acknowledged", "runner": "resolved"}
    outages.log_works("every worker can write its log again")
    assert incidents.get(incident["id"])["state"] == "resolved"
    pages = {one.body["page"]["event"]: one.body["page"] for one in state.list("outbox/log-")}
    assert set(pages) == {"open", "resolved"}
    assert [one["command"] for one in pages["open"]["questions"]] == ["snowgate doctor"]


def test_the_monitor_leaves_the_logs_incident_alone(state: SqliteState, outages: Outages) -> None:
    """It is about no model: the desk gives it to no detector."""
    outages.log_fails("Input/output error (worker w0)")
    desk = Desk(state, None)
    assert [one["cause"] for one in desk.all()] == ["log"]
    assert desk.active("signs") is None

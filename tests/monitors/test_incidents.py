"""The life of an incident: the table, people's part in it, and the desk between monitor and people."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from monitors.desk import Desk
from monitors.incidents import ACTIVE, TRANSITIONS, VERDICTS, Body, IncidentError, Incidents, moved
from monitors.pages import rfc3339
from monitors.signals import Shift
from monitors.story import grown, hinted, opened, promoted
from state import Change
from state.sqlite import SqliteState

TIME = 1_700_000_000.0


@pytest.fixture
def state(tmp_path: Path) -> Iterator[SqliteState]:
    """An empty store."""
    made = SqliteState(tmp_path / "state.db")
    yield made
    made.close()


def shift(signal: str = "class", *, tier: str = "page", version: str = "1", **more: float) -> Shift:
    """A shift of one signal."""
    numbers = {"evidence": 2e7, "limit": 1e7, "time": TIME + 60, "onset": TIME, "rows": 300, **more}
    return Shift(
        version=version,
        signal=signal,
        tier=tier,
        detector="categorical",
        observed={"a": 0.9},
        expected={"a": 0.5},
        sentence=f"{signal} is odd",
        evidence=numbers["evidence"],
        limit=numbers["limit"],
        time=numbers["time"],
        onset=numbers["onset"],
        rows=int(numbers["rows"]),
    )


def incident(*shifts: Shift) -> Body:
    """A new incident of the model `signs`."""
    return opened("signs", "sha256:1", "production", shifts or (shift(),))


def test_the_table_has_no_dead_end_and_no_way_back() -> None:
    """Every active state leads to `resolved` in the end, and nothing leads out of it."""
    assert all(state in ACTIVE for state, _event in TRANSITIONS)
    reached = {"resolved"}
    for _ in ACTIVE:
        reached |= {before for (before, _event), after in TRANSITIONS.items() if after in reached}
    assert reached >= set(ACTIVE)


def test_a_way_that_is_not_there_is_refused_in_words(state: SqliteState) -> None:
    """A resolved incident can't be decided, an unknown one can't be found, and the error says what can be done."""
    body = moved(incident(), "quiet", actor="monitor", reason="gone", time=rfc3339(TIME))
    state.commit(Change(f"incidents/{body['id']}", body))
    desk = Incidents(state, lambda: rfc3339(TIME))
    with pytest.raises(IncidentError, match="is resolved, and can't decide; nothing changes it any more"):
        desk.decide(body["id"], "false-alarm", "kim", "because")
    with pytest.raises(IncidentError, match="snowgate incident list"):
        desk.acknowledge("nothing", "kim", "looking")
    with pytest.raises(IncidentError, match="expected one of world-changed, model-broken"):
        desk.decide(body["id"], "dunno", "kim", "because")
    with pytest.raises(IncidentError, match="--reason"):
        desk.decide(body["id"], "false-alarm", "kim", "  ")


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_decision_is_kept_with_who_when_and_why(state: SqliteState, verdict: str) -> None:
    """Acknowledged, decided, thought over again: the history has all of it, the last decision counts."""
    body = incident()
    state.commit(Change(f"incidents/{body['id']}", body))
    desk = Incidents(state, lambda: rfc3339(TIME))
    desk.acknowledge(body["id"], "kim", "looking")
    desk.decide(body["id"], "expected-event", "kim", "holiday")
    decided = desk.decide(body["id"], verdict, "lee", "no holiday")
    assert decided["decision"] == {
        "verdict": verdict,
        "reason": "no holiday",
        "actor": "lee",
        "time": rfc3339(TIME),
    }
    assert [one["state"] for one in decided["history"]] == ["open", "acknowledged", "decided", "decided"]
    assert desk.get(body["id"]) == decided


def test_a_suspicion_becomes_a_page_under_the_same_id() -> None:
    """A warning opens a suspicion; a page of another version makes it open, with that version as the incident's."""
    body = incident(shift("image.mean", tier="warning"))
    assert body["state"] == "suspected"
    after = promoted(body, [shift(version="2")], "sha256:2")
    assert (after["id"], after["state"], after["version"], after["bundle"]) == (body["id"], "open", "2", "sha256:2")
    assert after["versions"] == ["2"]
    assert {one["name"] for one in after["signals"]} == {"class", "image.mean"}


def test_more_evidence_keeps_the_first_onset_and_the_strongest_number() -> None:
    """After an alarm a detector begins anew; its next warning must not make the incident look younger or weaker."""
    body = incident(shift(evidence=5e7))
    after = grown(body, [shift(tier="warning", evidence=1e5, onset=TIME + 500, time=TIME + 600, rows=20)])
    (signal,) = after["signals"]
    assert (signal["onset"], signal["evidence"], signal["since_rows"]) == (rfc3339(TIME), 5e7, 300)
    assert signal["tier"] == "page"
    assert after["updated"] == rfc3339(TIME + 600)
    assert after["summary"].startswith("signs version 1: class is odd")


@pytest.mark.parametrize(
    ("shifts", "judged", "likely"),
    [
        ([shift(), shift("image.mean", tier="ticket")], ["1", "2"], "world"),
        ([shift()], ["1", "2"], "model"),
        ([shift(), shift(version="2")], ["1", "2"], "world"),
        ([shift()], ["1"], None),
    ],
)
def test_the_hint(shifts: list[Shift], judged: list[str], likely: str | None) -> None:
    """Inputs moved or all versions shifted: the world; one alone: the model; nothing to compare with: no word."""
    body = hinted(incident(*shifts), judged=judged)
    assert body["likely"] == likely
    assert body["likely_because"]


class TestDesk:
    """The monitor's side."""

    def test_nothing_is_durable_before_the_commit(self, state: SqliteState) -> None:
        """An opened incident is on the desk only; the commit writes it, its page and what goes with it at once."""
        desk = Desk(state, None)
        body = desk.open(incident())
        assert desk.active("signs") == body
        assert state.list("incidents/") == []
        assert desk.urgent
        desk.commit(Change("monitor/checkpoint", {"cursor": {}}))
        assert not desk.urgent
        assert [one.key for one in state.list("")] == [
            f"incidents/{body['id']}",
            "monitor/checkpoint",
            f"outbox/{body['id']}/open",
        ]

    def test_a_person_who_is_faster_is_not_overwritten(self, state: SqliteState) -> None:
        """An acknowledgement that the desk has not seen survives its commit, and so does the desk's own change."""
        desk = Desk(state, None)
        body = desk.open(incident())
        desk.commit()
        Incidents(state, lambda: rfc3339(TIME)).acknowledge(body["id"], "kim", "looking")
        desk.change(body["id"], lambda newest: grown(newest, [shift("energy")]))
        desk.commit()
        document = state.get(f"incidents/{body['id']}")
        assert document is not None
        assert document.body["state"] == "acknowledged"
        assert [one["name"] for one in document.body["signals"]] == ["class", "energy"]

    def test_silent_updates_send_no_page(self, state: SqliteState) -> None:
        """More evidence is written, and nobody is woken again; the end is told once."""
        desk = Desk(state, None)
        body = desk.open(incident())
        desk.commit()
        state.commit(Change(f"outbox/{body['id']}/open", None))
        desk.change(body["id"], lambda newest: grown(newest, [shift("energy")]))
        assert desk.waiting
        assert not desk.urgent
        desk.commit()
        assert state.list("outbox/") == []
        desk.change(body["id"], lambda one: moved(one, "quiet", actor="monitor", reason="gone", time=rfc3339(TIME)))
        desk.commit()
        desk.commit()
        assert [one.key for one in state.list("outbox/")] == [f"outbox/{body['id']}/resolved"]

    def test_a_suspicion_comes_and_goes_without_a_page(self, state: SqliteState) -> None:
        """What never was open has no end that anybody must hear of."""
        desk = Desk(state, None)
        body = desk.open(incident(shift(tier="warning")))
        desk.commit()
        desk.change(body["id"], lambda one: moved(one, "quiet", actor="monitor", reason="gone", time=rfc3339(TIME)))
        desk.commit()
        assert state.list("outbox/") == []
        assert desk.active("signs") is None

    def test_two_incidents_of_one_second_have_two_names(self, state: SqliteState) -> None:
        """A name is never given twice, nor a dedup key."""
        desk = Desk(state, None)
        first = desk.open(incident())
        second = desk.open(incident())
        assert first["id"] != second["id"]
        assert first["dedup_key"] != second["dedup_key"]

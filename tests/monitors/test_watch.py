"""The monitor on a real log and real state: from shifted predictions to incidents, pages, decisions and back."""

from pathlib import Path

import numpy as np
import pytest

from monitors.incidents import Incidents
from monitors.pages import wall_clock
from monitors.watch import STATUS, Monitor, MonitorSettings
from state import Change
from tests.monitors.conftest import World, facts, follow

SETTINGS = MonitorSettings(console_url="http://127.0.0.1:8082")


def watch(world: World, settings: MonitorSettings = SETTINGS, *, flush: bool = False) -> Monitor:
    """A monitor that has read all there is; `flush`: and then waited for more until the last batch was over."""
    monitor = Monitor(world.home, world.state, settings)
    follow(monitor, world, flush=flush)
    return monitor


def decide(world: World, verdict: str) -> None:
    """Decide about the one active incident, as a human does."""
    (body,) = [one for one in world.incidents() if one["state"] != "resolved"]
    Incidents(world.state, wall_clock).decide(body["id"], verdict, "kim", "because")


def test_stationary_predictions_wake_nobody(world: World) -> None:
    """20,000 predictions as expected: no incident that pages, and the status says quiet."""
    world.predict("1", 20_000)
    monitor = watch(world)
    assert [one for one in world.incidents() if one["state"] != "suspected"] == []
    assert world.outbox() == []
    monitor.status(world.time, {})
    document = world.state.get(STATUS)
    assert document is not None
    (stream,) = document.body["streams"]
    assert stream["rows"] >= 20_000 - 64
    states = {one["name"]: (one["tier"], one["state"]) for one in stream["signals"]}
    assert states == {"class": ("page", "quiet"), "energy": ("page", "quiet"), "image.mean": ("ticket", "quiet")}


def test_a_shift_becomes_one_incident_and_one_page(world: World) -> None:
    """A lasting shift of two signals: one incident, one page, an onset within a second or two, all evidence in it."""
    world.predict("1", 2_000)
    began = world.time
    world.predict("1", 3_000, shift=0.5)
    watch(world)
    (incident,) = world.incidents()
    assert incident["state"] == "open"
    assert world.outbox() == ["open"]
    document = world.state.get(f"outbox/{incident['id']}/open")
    assert document is not None
    page = document.body["page"]
    assert {one["name"] for one in incident["signals"] if one["tier"] == "page"} == {"class", "energy"}
    onset = np.datetime64(incident["onset"].removesuffix("Z")).astype("datetime64[us]").astype(float) / 1e6
    assert abs(onset - began) < 2.0
    assert page["questions"][0]["command"].startswith(f"snowgate incident decide {incident['id']} world-changed")
    assert page["links"]["console"].startswith("http://127.0.0.1:8082/")
    by_name = {one["name"]: one for one in incident["signals"]}
    assert by_name["class"]["observed"]["3"] > 0.4
    assert by_name["class"]["expected"]["3"] == pytest.approx(0.1, abs=0.05)
    assert by_name["energy"]["observed"] == pytest.approx(8.5, abs=0.3)


def test_low_traffic_pages_too(world: World) -> None:
    """One prediction every ten seconds: the wall clock ends the batches, and a shift pages within 150 predictions."""
    monitor = Monitor(world.home, world.state, SETTINGS)
    for _ in range(150):
        world.predict("1", 1, rate=0.1, shift=0.9)
        follow(monitor, world)
        if world.outbox():
            break
    assert world.outbox() == ["open"]
    assert world.incidents()[0]["rows_since_onset"] >= 30


def test_inputs_alone_do_not_page(world: World) -> None:
    """Brighter images with the same predictions: a suspicion at most, for nobody's sleep."""
    world.predict("1", 4_000, inputs=0.2)
    watch(world)
    assert [one["state"] for one in world.incidents()] == ["suspected"]
    assert world.outbox() == []


@pytest.mark.parametrize(("inputs", "likely"), [(0.2, "world"), (0.0, "model")])
def test_the_likely_cause_is_named(world: World, inputs: float, likely: str) -> None:
    """Inputs moved too: the world. Inputs quiet and another version steady: the model."""
    world.version("2")
    world.predict("1", 1_000)
    world.predict("2", 1_000)
    world.predict("2", 1_000, shift=0.5, inputs=inputs)
    watch(world)
    (incident,) = world.incidents()
    assert (incident["state"], incident["version"], incident["likely"]) == ("open", "2", likely)
    assert incident["likely_because"]


def test_both_versions_shifting_are_one_incident(world: World) -> None:
    """Stable and canary shift together: one incident with both versions, one page."""
    world.version("2")
    for _ in range(40):
        world.predict("1", 50, shift=0.5)
        world.predict("2", 50, shift=0.5)
    watch(world)
    (incident,) = world.incidents()
    assert incident["versions"] == ["1", "2"]
    assert world.outbox() == ["open"]


def test_one_client_that_repeats_itself_does_not_page(world: World) -> None:
    """A sticky client sends a thousand rows of one class in requests of 25: rows of one unit are averaged."""
    monitor = Monitor(world.home, world.state, SETTINGS)
    chance = np.random.default_rng(3)
    for _ in range(100):
        world.predict("1", 100)
        same = {"class": [int(chance.choice(4, p=[0.4, 0.3, 0.2, 0.1]))] * 25, "energy": [10.0] * 25}
        world.write([world.record("1", same, 25, 77)])
        follow(monitor, world)
    assert world.outbox() == []


def test_world_changed_makes_a_new_baseline(world: World) -> None:
    """What was seen since the onset becomes the baseline; the incident is resolved, and the same traffic is quiet."""
    world.predict("1", 1_000)
    world.predict("1", 2_000, shift=0.5)
    monitor = watch(world)
    decide(world, "world-changed")
    follow(monitor, world)
    (incident,) = world.incidents()
    assert incident["state"] == "resolved"
    assert world.outbox() == ["open", "resolved"]
    document = world.state.get("baselines/signs/1")
    assert document is not None
    assert (document.body["incident"], document.body["actor"]) == (incident["id"], "kim")
    assert document.body["baseline"]["rows"] > 1_500
    world.predict("1", 10_000, shift=0.5)
    follow(monitor, world)
    assert [one["state"] for one in world.incidents() if one["id"] != incident["id"]] in ([], ["suspected"])
    assert world.outbox() == ["open", "resolved"]
    # And what was normal before is not normal now.
    world.predict("1", 3_000)
    follow(monitor, world)
    assert world.outbox() == ["open", "resolved", "open"]


def test_a_new_baseline_has_nothing_of_the_old_world(world: World) -> None:
    """An onset is known to a batch: what came with it, and may be of before, is no part of the new baseline."""
    world.predict("1", 1_250, rate=1_000)
    world.predict("1", 1_500, shift=0.5, rate=1_000)
    monitor = watch(world)
    decide(world, "world-changed")
    follow(monitor, world)
    assert world.outbox() == ["open", "resolved"]
    document = world.state.get("baselines/signs/1")
    assert document is not None
    assert document.body["baseline"]["signals"]["energy"]["mean"] == pytest.approx(8.5, abs=0.1)
    world.predict("1", 20_000, shift=0.5, rate=1_000)
    follow(monitor, world)
    assert world.outbox() == ["open", "resolved"]


def test_world_changed_waits_for_enough_rows(world: World) -> None:
    """With 100 rows since the onset the decision waits and says so; when the rows are there it is carried out."""
    world.predict("1", 1_000)
    world.predict("1", 100, shift=0.9)
    monitor = watch(world, flush=True)
    assert world.incidents()[0]["state"] == "open"
    decide(world, "world-changed")
    monitor.turn(world.time)
    monitor.checkpoint()
    (incident,) = world.incidents()
    assert incident["state"] == "decided"
    assert "200 rows since the onset; version 1 has" in incident["evidence"]["waiting"]
    world.predict("1", 300, shift=0.9)
    world.time += 2
    follow(monitor, world)
    assert world.incidents()[0]["state"] == "resolved"


def test_model_broken_ends_when_control_has_acted(world: World) -> None:
    """The incident stays decided until the version is rejected and has left the route."""
    world.predict("1", 1_000)
    world.predict("1", 1_000, shift=0.5)
    digest = world.digest("1")
    route = {"model": "signs", "variants": [{"variant": "stable", "version": "1", "digest": digest, "weight": 10_000}]}
    world.state.commit(Change("routes/signs", route))
    monitor = watch(world)
    decide(world, "model-broken")
    follow(monitor, world)
    assert world.incidents()[0]["state"] == "decided"
    world.state.commit(Change(f"rejected/production/{digest.removeprefix('sha256:')}", {"digest": digest}))
    follow(monitor, world)
    assert world.incidents()[0]["state"] == "decided"
    world.state.commit(Change("routes/signs", route | {"variants": []}))
    follow(monitor, world)
    assert world.incidents()[0]["state"] == "resolved"
    assert world.outbox() == ["open", "resolved"]


def test_a_false_alarm_ends_and_a_lasting_shift_comes_back(world: World) -> None:
    """After `false-alarm` the incident is over; the shift lasts, so a new incident with a new id opens."""
    world.predict("1", 1_000)
    world.predict("1", 1_000, shift=0.5)
    monitor = watch(world)
    decide(world, "false-alarm")
    follow(monitor, world)
    assert [one["state"] for one in world.incidents()] == ["resolved"]
    world.predict("1", 1_000, shift=0.5)
    follow(monitor, world)
    first, second = world.incidents()
    assert (first["state"], second["state"]) == ("resolved", "open")
    assert first["dedup_key"] != second["dedup_key"]


def test_a_shift_that_goes_away_is_resolved(world: World) -> None:
    """Normal predictions for long enough end an incident by themselves, and its history is kept."""
    world.predict("1", 1_000)
    world.predict("1", 200, shift=0.7)
    world.predict("1", 8_000)
    watch(world)
    (incident, *_more) = [one for one in world.incidents() if len(one["history"]) > 1 or one["state"] == "resolved"]
    assert incident["history"][-1]["state"] == "resolved"
    assert "no evidence of a shift" in incident["history"][-1]["reason"]
    assert world.outbox() == ["open", "resolved"]


def test_a_version_that_left_the_route_needs_no_decision(world: World) -> None:
    """Somebody deployed another version instead of deciding: after a minute of silence the incident is over."""
    world.predict("1", 1_000)
    world.predict("1", 1_000, shift=0.5)
    monitor = watch(world)
    world.state.commit(Change("routes/signs", {"model": "signs", "variants": []}))
    monitor.turn(world.time + 30)
    assert world.incidents()[0]["state"] == "open"
    monitor.turn(world.time + 90)
    assert world.incidents()[0]["state"] == "resolved"


def test_people_and_monitor_write_at_the_same_time(world: World) -> None:
    """An acknowledgement between two of the monitor's commits is kept, and so is what the monitor found meanwhile."""
    world.predict("1", 1_000)
    world.predict("1", 500, shift=0.5)
    monitor = watch(world)
    before = world.incidents()[0]
    world.predict("1", 500, shift=0.5)
    monitor._desk.refresh()
    Incidents(world.state, wall_clock).acknowledge(before["id"], "kim", "looking")
    monitor._seen_version = world.state.version()  # It has not noticed, as if the acknowledgement came during its turn.
    follow(monitor, world)
    monitor.checkpoint()
    (after,) = world.incidents()
    assert after["state"] == "acknowledged"
    assert after["updated"] > before["updated"]


def test_a_version_that_cannot_be_read_does_not_stop_the_others(world: World) -> None:
    """Version 9 has no bundle: the status says so, and version 1 pages as ever."""
    world.predict("9", 100)
    world.predict("1", 1_000, shift=0.5)
    monitor = watch(world)
    assert world.outbox() == ["open"]
    monitor.status(world.time, {})
    document = world.state.get(STATUS)
    assert document is not None
    (unreadable,) = document.body["unreadable"]
    assert unreadable["version"] == "9"


def test_a_record_without_signals_blinds_nobody(world: World) -> None:
    """Records without signals, or with some of them, leave the others of their batch to be judged."""
    for _ in range(100):
        world.predict("1", 10, shift=0.5)
        world.write([world.record("1", {}, 1, None), world.record("1", {"energy": [7.0]}, 1, None)])
    watch(world)
    names = {one["name"] for one in world.incidents()[0]["signals"]}
    assert {"class", "energy"} <= names


def test_damage_in_the_log_is_said_and_passed(world: World) -> None:
    """A flipped byte in a durable frame: what lies before and behind it is read, and the status names the place."""
    world.predict("1", 500)
    segment = max((one for one in world.home.log.rglob("*") if one.is_file()), key=lambda one: one.stat().st_size)
    size = segment.stat().st_size
    world.predict("1", 500)
    world.predict("1", 500, shift=0.7)
    content = bytearray(segment.read_bytes())
    assert 0 < size < len(content)
    content[size + 400] ^= 0xFF
    segment.write_bytes(content)
    monitor = watch(world)
    assert world.outbox() == ["open"]
    monitor.status(world.time, {})
    document = world.state.get(STATUS)
    assert document is not None
    assert "damaged frame" in document.body["damage"]
    assert document.body["processed"] >= 900


def test_a_monitor_that_dies_between_any_two_turns_decides_the_same(tmp_path: Path) -> None:
    """The same log, once in one go and once with a new monitor after every turn or two, nothing said at the end."""
    found = []
    for name, deadly in (("whole", False), ("deadly", True)):
        world = World(tmp_path / name, seed=5)
        world.version("1")
        monitor = Monitor(world.home, world.state, SETTINGS)
        for turn, shift in enumerate([0.0] * 12 + [0.6] * 8 + [0.0] * 40):
            world.predict("1", 170, shift=shift)
            if deadly and turn % 2:
                monitor = Monitor(world.home, world.state, SETTINGS)
            follow(monitor, world)
        found.append((facts(world), world.outbox()))
        world.close()
    assert found[0] == found[1]
    assert found[0][1] == ["open", "resolved"]

"""Several runners of one version: more and fewer of them, their deaths, hangs and leaks, while clients go on."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bundles.home import Home
from bundles.packing import Packed, pack
from monitors.log.reader import LogReader
from tests.conftest import Gateway, snowgate, wait_until, write_model
from tests.end_to_end.load import Load

Start = Callable[..., Gateway]
RUNNER = "bundles/runner"


def test_more_and_fewer_replicas_under_load(home: Home, packed: Packed, tmp_path: Path, start: Start) -> None:
    """From one runner to three and back to one, under continuous load, without one failed call or a restart."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    (first,) = gateway.children(RUNNER)
    (worker,) = gateway.children("gateway.worker")
    load = Load(f"{gateway.url}/v2/models/signs/infer")
    scaled = gateway.snowgate("rollout", "scale", "signs", "--replicas", "3", "--wait", "--reason", "a busy day")
    (loaded,) = scaled["runners"]
    assert (loaded["version"], loaded["replicas"], loaded["ready"]) == ("1", 3, 3)
    assert len(gateway.children(RUNNER)) == 3
    count = len(load.answered)
    wait_until(lambda: len(load.answered) > count + 300, what="traffic on three")
    gateway.snowgate("rollout", "scale", "signs", "--replicas", "1", "--wait")
    wait_until(lambda: gateway.children(RUNNER) == [first], what="the end of two, of which none is the oldest")
    count = len(load.answered)
    wait_until(lambda: len(load.answered) > count + 100, what="traffic on one")
    load.stop()
    assert (load.broken, set(load.statuses)) == (0, {200})
    assert gateway.children("gateway.worker") == [worker]
    assert set(load.answered) <= {one.id for one in LogReader(home.log).records()}


def test_a_replica_is_killed_and_nobody_notices(home: Home, packed: Packed, tmp_path: Path, start: Start) -> None:
    """SIGKILL of one of two runners under load, again and again: its calls move to the other one, no call fails."""
    snowgate(home.path, "deploy", "signs@1")
    config = tmp_path / "snowgate.toml"
    config.write_text("[models.signs]\nreplicas = 2\n")
    gateway = start(home.path, "--config", str(config))
    wait_until(lambda: len(gateway.children(RUNNER)) == 2, what="two runners")
    load = Load(f"{gateway.url}/v2/models/signs/infer")
    for _turn in range(3):
        wait_until(lambda: _ready(gateway) == 2, what="two that are ready")
        count = len(load.answered)
        wait_until(partial(_answered_more, load, count + 100), what="traffic")
        victim, other = gateway.children(RUNNER)
        os.kill(victim, signal.SIGKILL)
        wait_until(partial(_gone, gateway, victim), what="its end")
        assert other in gateway.children(RUNNER)
        assert gateway.get("/readyz")[0] == 200
    load.stop()
    assert (load.broken, set(load.statuses)) == (0, {200})


def _answered_more(load: Load, count: int) -> bool:
    return len(load.answered) > count


def _gone(gateway: Gateway, pid: int) -> bool:
    return pid not in gateway.children(RUNNER)


def _ready(gateway: Gateway) -> int:
    return sum(ready for _wanted, ready in _replicas(gateway).values())


def _replicas(gateway: Gateway) -> dict[str, tuple[int, int]]:
    """By version, the runners that are wanted and those that are ready."""
    answer = gateway.http.request("GET", f"{gateway.control}/api/v1/environments/production/rollouts/signs")
    return {one["version"]: (one["replicas"], one["ready"]) for one in answer.json()["runners"]}


def test_the_version_that_is_kept_warm_has_one_runner(home: Home, packed: Packed, tmp_path: Path, start: Start) -> None:
    """Scaled to two, a version has two; when another takes over, that one has two and the one before is kept with one.

    The scale outlives a restart, until it is reset.
    """
    pack(home, write_model(tmp_path / "two", sign=2.0), model="signs")
    snowgate(home.path, "deploy", "signs@1")
    snowgate(home.path, "rollout", "scale", "signs", "--replicas", "2")
    gateway = start(home.path)
    gateway.snowgate("deploy", "signs@2", "--wait")
    wait_until(lambda: _replicas(gateway) == {"1": (1, 1), "2": (2, 2)}, what="one of the old, two of the new")
    wait_until(lambda: len(gateway.children(RUNNER)) == 3, what="three processes")
    gateway.snowgate("rollout", "scale", "signs", "--reset")
    wait_until(lambda: _replicas(gateway) == {"1": (1, 1), "2": (1, 1)}, what="one of each")
    entries = [one.name for one in (home.run).iterdir()]
    assert len(entries) == 2, f"what was unpacked for others is gone: {entries}"

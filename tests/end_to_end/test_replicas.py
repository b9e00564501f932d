"""Several runners of one version: more and fewer of them, their deaths, hangs and leaks, while clients go on."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bundles.home import Home
from bundles.packing import Packed, pack
from bundles.runner import confine
from monitors.log.reader import LogReader
from tests.conftest import Gateway, Webhook, snowgate, wait_until, write_model
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
    assert (loaded["confined"], loaded["devices"]) == (confine.offered(), ["cpu"] * 3)
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
    assert _restarts(gateway) == 3


def _restarts(gateway: Gateway) -> float:
    """How often runners were started again, as the metrics say."""
    lines = gateway.http.request("GET", f"{gateway.control}/metrics").data.decode().splitlines()
    return sum(float(one.split()[-1]) for one in lines if one.startswith("snowgate_runner_restarts_total"))


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


MISBEHAVING = """
import os, time
import numpy as np

class Model:
    kept = []

    def load(self, directory):
        pass

    def predict(self, inputs):
        x = inputs["x"]
        if (x == 13).any():
            os.write(2, b"an unlucky number\\n")
            os.abort()
        if (x == 14).any():
            time.sleep(3600)
        if (x == 15).any():
            self.kept.append(np.ones(100 * 2**20, dtype=np.uint8))
        return {"y": np.stack([x.sum(axis=1), -x.sum(axis=1)], axis=1)}
"""


def _pack_misbehaving(home: Home, folder: Path) -> None:
    write_model(folder)
    (folder / "model.py").write_text(MISBEHAVING)
    recipe = (folder / "bundle.toml").read_text().replace("parameters = { sign = 1.0 }\n", "")
    (folder / "bundle.toml").write_text(recipe)
    pack(home, folder, model="signs")
    snowgate(home.path, "deploy", "signs@1")


def _configured(folder: Path, text: str) -> list[str]:
    (folder / "snowgate.toml").write_text(text)
    return ["--config", str(folder / "snowgate.toml")]


def test_a_call_that_kills_its_runner_takes_no_other_along(home: Home, tmp_path: Path, start: Start) -> None:
    """It is tried on a second replica and fails with 503; every other call, under load, is answered."""
    _pack_misbehaving(home, tmp_path / "model")
    gateway = start(home.path, *_configured(tmp_path, "[runner]\nreplicas = 3\n"))
    wait_until(lambda: _ready(gateway) == 3, what="three that are ready")
    load = Load(f"{gateway.url}/v2/models/signs/infer")
    wait_until(lambda: len(load.answered) > 100, what="traffic")
    status, answer, _headers = gateway.call(values=[13, 0, 0])
    assert (status, "its runner ended" in answer["error"]) == (503, True)
    wait_until(lambda: _ready(gateway) == 3, what="three again")
    load.stop()
    assert (load.broken, set(load.statuses)) == (0, {200})


def test_a_hanging_and_a_growing_runner_are_replaced(home: Home, tmp_path: Path, start: Start) -> None:
    """A batch that does not end and a model that grows cost their runner its life, and others serve on meanwhile."""
    _pack_misbehaving(home, tmp_path / "model")
    text = "[runner]\nreplicas = 2\nhang_seconds = 4\n[models.signs]\nmemory_bytes = 90_000_000\n"
    gateway = start(home.path, *_configured(tmp_path, text))
    wait_until(lambda: _ready(gateway) == 2, what="two that are ready")
    for value, words in ((15, "MiB of memory, 86 MiB at most"), (14, "a batch took longer than 4 s")):
        before = gateway.children(RUNNER)
        gateway.call(values=[value, 0, 0])
        wait_until(partial(_replaced, gateway, before), what="another runner")
        assert gateway.call()[0] == 200
        wait_until(lambda: _ready(gateway) == 2, what="two again")
        assert words in gateway.log.read_text()


def _replaced(gateway: Gateway, before: list[int]) -> bool:
    now = gateway.children(RUNNER)
    return len(now) == len(before) and set(now) != set(before)


def test_a_runner_that_always_dies_is_parked_and_paged(
    home: Home, tmp_path: Path, start: Start, webhook: Webhook
) -> None:
    """After so many deaths in a row it is not started again: a page says why, with what it said last.

    A new deployment tries again; the incident is over when the version serves.
    """
    _pack_misbehaving(home, tmp_path / "model")
    variables = {"SNOWGATE_PAGE__WEBHOOK__URL": webhook.url}
    gateway = start(home.path, *_configured(tmp_path, "[runner]\ndeaths_max = 2\n"), variables=variables)
    for _turn in range(2):
        wait_until(lambda: gateway.get("/readyz")[0] == 200, what="a runner")
        assert gateway.call(values=[13, 0, 0])[0] == 503
        wait_until(lambda: gateway.get("/readyz")[0] == 503, what="its end")
    wait_until(lambda: webhook.pages, what="the page")
    assert gateway.children(RUNNER) == []
    (page,) = webhook.pages
    assert "died 2 times in a row, the last time: killed by SIGABRT; the last that it said: an unl" in page["summary"]
    assert "an unlucky number" in page["evidence"]["said"]
    deployment = gateway.snowgate("rollout", "get", "signs")
    assert (deployment["phase"], "died 2 times" in deployment["message"]) == ("Degraded", True)
    (incident,) = gateway.snowgate("incident", "list")
    assert (incident["state"], incident["cause"], incident["version"]) == ("open", "runner", "1")
    assert gateway.http.request("GET", f"{gateway.control}/incidents/{incident['id']}").status == 200
    again = gateway.snowgate("deploy", "signs@1", "--again", "--reason", "nobody sends 13 any more", "--wait")
    assert again["phase"] == "Healthy"
    wait_until(lambda: len(webhook.pages) == 2, what="the page that it is over")
    assert (webhook.pages[1]["event"], webhook.pages[1]["dedup_key"]) == ("resolved", page["dedup_key"])
    assert gateway.call()[0] == 200


def test_a_runner_that_is_killed_during_its_check_is_not_failed(home: Home, packed: Packed, start: Start) -> None:
    """SIGKILL of runners before they are ready, some times: the next one is checked, and serves."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    killed = 0
    while killed < 4:
        for victim in wait_until(lambda: gateway.children(RUNNER), what="a runner"):
            os.kill(victim, signal.SIGKILL)
            wait_until(partial(_gone, gateway, victim), what="its end")
            killed += 1
    wait_until(lambda: _ready(gateway) == 1, what="one that is ready")
    assert gateway.call()[0] == 200

"""A real gateway: deployments, deaths, decisions. Nothing here is simulated."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from bundles.home import Home
from bundles.packing import Packed, pack
from monitors.log.reader import LogReader
from tests.conftest import Gateway, Webhook, snowgate, wait_until, write_model
from tests.end_to_end.load import Load

Start = Callable[..., Gateway]


def test_deploy_canary_promote_under_load(home: Home, packed: Packed, tmp_path: Path, start: Start) -> None:
    """From one version to the next, under continuous load, without one failed call."""
    pack(home, write_model(tmp_path / "two", sign=2.0), model="signs")
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    load = Load(f"{gateway.url}/v2/models/signs/infer")
    deployed = gateway.snowgate("deploy", "signs@2", "--canary", "25", "--wait")
    assert deployed["phase"] == "Paused"
    wait_until(lambda: len(load.answered) > 600, what="some traffic")
    promoted = gateway.snowgate("rollout", "promote", "signs", "--reason", "it is better")
    assert promoted["desired"]["canary"] is None
    assert gateway.snowgate("rollout", "status", "signs", "--timeout", "20")["phase"] == "Healthy"
    count = len(load.answered)
    wait_until(lambda: len(load.answered) > count + 100, what="more traffic")
    load.stop()
    assert (load.broken, set(load.statuses)) == (0, {200})
    status, answer, headers = gateway.call()
    assert (status, answer["model_version"], headers["Snowgate-Variant"]) == (200, "2", "stable")
    body = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]})
    assert gateway.post("/v2/models/signs/versions/1/infer", body)[1]["model_version"] == "1"
    records = {one.id: one for one in LogReader(home.log).records()}
    assert set(load.answered) <= set(records)
    canary = [one for one in records.values() if one.variant == "canary" and one.reason == "split"]
    assert canary
    assert {one.version for one in canary} == {"2"}


def test_a_killed_runner_comes_back(home: Home, packed: Packed, start: Start) -> None:
    """SIGKILL of the runner under load: each answered id is in the log, and it serves on."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    load = Load(f"{gateway.url}/v2/models/signs/infer")
    wait_until(lambda: len(load.answered) > 200, what="traffic")
    (victim,) = gateway.children("bundles/runner")
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: gateway.children("bundles/runner") not in ([victim], []), what="another runner")
    count = len(load.answered)
    wait_until(lambda: len(load.answered) > count + 200, what="traffic again")
    load.stop()
    assert set(load.statuses) <= {200, 503}
    assert gateway.stop() == 0
    logged = {one.id for one in LogReader(home.log).records()}
    assert set(load.answered) <= logged


def test_sigterm_answers_what_was_accepted(home: Home, packed: Packed, start: Start) -> None:
    """SIGTERM under load: no answer is cut off, the exit status is 0, and every answered id is in the log."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    load = Load(f"{gateway.url}/v2/models/signs/infer")
    wait_until(lambda: len(load.answered) > 300, what="traffic")
    assert gateway.stop() == 0
    load.stop()
    logged = {one.id for one in LogReader(home.log).records()}
    assert set(load.answered) <= logged
    assert set(load.statuses) <= {200}


def test_a_broken_bundle_leaves_the_stable_version_serving(
    home: Home, packed: Packed, tmp_path: Path, start: Start
) -> None:
    """A canary whose weights were altered is refused with the file's name, and version 1 keeps all traffic."""
    second = pack(home, write_model(tmp_path / "two", sign=2.0), model="signs")
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    files = gateway.snowgate("bundle", "show", "signs@2")["files"]
    code = next(one for one in files if one["path"] == "model/model.py")
    mine = {one["digest"] for one in gateway.snowgate("bundle", "show", "signs@1")["files"]}
    holdout = next(one for one in files if one["path"] == "model/bundle.toml")
    assert code["digest"] in mine
    blob = home.path / "bundles" / "blobs" / "sha256" / holdout["digest"].removeprefix("sha256:")
    blob.write_bytes(blob.read_bytes() + b"#")
    deployed = gateway.snowgate("deploy", f"{second.digest}", "--canary", "50", "--wait", status=3)
    assert deployed["phase"] == "Degraded"
    assert "model/bundle.toml" in deployed["message"]
    assert "version 1 keeps all traffic" in deployed["message"]
    assert {gateway.call(Snowgate_Unit=f"u{number}")[1]["model_version"] for number in range(20)} == {"1"}
    blob.write_bytes(blob.read_bytes()[:-1])
    assert gateway.snowgate("deploy", second.digest, "--canary", "50", "--wait")["phase"] == "Paused"


def test_nothing_that_can_be_served_is_not_ready(home: Home, packed: Packed, start: Start) -> None:
    """The only version can't be loaded: the server lives, and says that it is not ready."""
    blob = (
        home.path
        / "bundles"
        / "blobs"
        / "sha256"
        / home.store().manifest(packed.digest).files()["model/model.py"].digest[7:]
    )
    blob.write_bytes(b"#" + blob.read_bytes())
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    assert gateway.get("/readyz")[0] == 503
    assert gateway.get("/livez")[0] == 200
    assert gateway.call()[0] == 404


def _send(gateway: Gateway, count: int, shift: float, seed: int) -> None:
    """Send rows, many in one call to be quick; each call is a unit of its own."""
    chance = np.random.default_rng(seed)
    for _ in range(count):
        row = (chance.normal(size=3) + shift).tolist()
        status, _answer, _headers = gateway.call(values=row)
        assert status == 200


def _open_incident(gateway: Gateway, webhook: Webhook) -> dict[str, Any]:
    """Shift the traffic until the page arrives."""
    _send(gateway, 300, 0.0, 1)
    assert webhook.pages == []
    for turn in range(20):
        _send(gateway, 100, 1.5, 2 + turn)
        if webhook.pages:
            return webhook.pages[0]
    found: dict[str, Any] = wait_until(lambda: webhook.pages and webhook.pages[0], 10, "the page")
    return found


def test_model_broken_rolls_back_and_rejects(
    home: Home, packed: Packed, tmp_path: Path, start: Start, webhook: Webhook
) -> None:
    """A shift pages once; `model-broken` brings the version before back; the rejected one stays out, also after a
    restart, until somebody says --again with a reason.
    """
    pack(home, write_model(tmp_path / "two", sign=2.0), model="signs")
    snowgate(home.path, "deploy", "signs@1")
    variables = {"SNOWGATE_PAGE__WEBHOOK__URL": webhook.url}
    gateway = start(home.path, variables=variables)
    gateway.snowgate("deploy", "signs@2", "--wait")
    page = _open_incident(gateway, webhook)
    wanted = {
        "incident",
        "dedup_key",
        "event",
        "model",
        "version",
        "onset",
        "signals",
        "evidence",
        "links",
        "questions",
    }
    assert wanted <= set(page)
    assert (page["event"], page["model"], page["version"]) == ("open", "signs", "2")
    assert {"name", "observed", "expected"} <= set(page["signals"][0])
    (incident,) = gateway.snowgate("incident", "list")
    assert (incident["id"], incident["state"]) == (page["incident"], "open")
    decided = gateway.snowgate("incident", "decide", page["incident"], "model-broken", "--reason", "it sees no signs")
    assert decided["state"] == "decided"
    wait_until(lambda: gateway.call()[1]["model_version"] == "1", what="version 1 answering")
    wait_until(lambda: len(webhook.pages) == 2, what="the second page")
    assert webhook.pages[1]["event"] == "resolved"
    assert webhook.pages[1]["dedup_key"] == page["dedup_key"]
    assert gateway.snowgate("incident", "show", page["incident"])["state"] == "resolved"
    refusal = gateway.snowgate("deploy", "signs@2", status=1)
    assert "rejected" in refusal
    assert "--again" in refusal
    assert gateway.stop() == 0
    again = start(home.path, variables=variables)
    assert again.call()[1]["model_version"] == "1"
    assert again.snowgate("deploy", "signs@2", "--again", "--reason", "trained anew", "--wait")["phase"] == "Healthy"
    assert again.call()[1]["model_version"] == "2"


def test_world_changed_makes_a_new_baseline(home: Home, packed: Packed, start: Start, webhook: Webhook) -> None:
    """`world-changed`: the same shifted traffic goes on, the incident is resolved, and nobody is paged again."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path, variables={"SNOWGATE_PAGE__WEBHOOK__URL": webhook.url})
    page = _open_incident(gateway, webhook)
    _send(gateway, 500, 1.5, 77)
    gateway.snowgate("incident", "ack", page["incident"], "--reason", "looking")
    gateway.snowgate("incident", "decide", page["incident"], "world-changed", "--reason", "winter")
    turns = iter(range(100, 10_000))

    def resolved() -> bool:
        # The new baseline is made of what comes after the batch in which it began.
        _send(gateway, 20, 1.5, next(turns))
        return len(webhook.pages) == 2

    wait_until(resolved, what="the page that it is resolved")
    _send(gateway, 800, 1.5, 78)
    time.sleep(2.5)  # Longer than a batch may wait: whatever would page has paged by now.
    assert [one["event"] for one in webhook.pages] == ["open", "resolved"], webhook.pages
    (incident,) = [one for one in gateway.snowgate("incident", "list") if one["id"] == page["incident"]]
    assert [one["state"] for one in incident["history"]][-3:] == ["acknowledged", "decided", "resolved"]


def test_the_page_survives_a_dead_receiver_and_a_killed_monitor(
    home: Home, packed: Packed, start: Start, webhook: Webhook
) -> None:
    """The receiver fails and the monitor is killed before delivery: the page still arrives, with one key."""
    webhook.answers = 500
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path, variables={"SNOWGATE_PAGE__WEBHOOK__URL": webhook.url})
    _send(gateway, 300, 0.0, 1)
    _send(gateway, 400, 1.5, 2)
    wait_until(lambda: [one for one in gateway.snowgate("incident", "list") if one["state"] == "open"], what="incident")
    (victim,) = gateway.children("monitors.watch")
    os.kill(victim, signal.SIGKILL)
    webhook.answers = 200
    wait_until(lambda: webhook.pages, what="the page")
    assert {one["dedup_key"] for one in webhook.pages} == {webhook.pages[0]["dedup_key"]}
    assert len([one for one in gateway.snowgate("incident", "list") if one["state"] == "open"]) == 1


def test_a_home_is_served_once(home: Home, packed: Packed, start: Start) -> None:
    """A second gateway on the same home refuses, says who has it, and leaves it alone; so does one on a taken port."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    with pytest.raises(pytest.fail.Exception, match=f"already served by pid {gateway.process.pid}; stop it first"):
        start(home.path)
    assert gateway.call()[0] == 200
    report = gateway.snowgate("log", "verify")
    assert (report["records"], report["first_bad"]) == (1, None)
    other = Home(home.path.parent / "other").make()
    port = gateway.url.rpartition(":")[2]
    with pytest.raises(pytest.fail.Exception, match="give another with --port"):
        start(other.path, "--port", port)


def test_another_address_asks_for_keys(home: Home, packed: Packed, tmp_path: Path, start: Start) -> None:
    """Beyond loopback nobody serves without keys; with a key file, only its keys get in."""
    with pytest.raises(pytest.fail.Exception, match="--api-keys-file"):
        start(home.path, "--host", "0.0.0.0")
    snowgate(home.path, "deploy", "signs@1")
    keys = tmp_path / "keys"
    keys.write_text("# clients\nflake-7f3a\n")
    gateway = start(home.path, "--api-keys-file", str(keys))
    assert gateway.call()[0] == 401
    assert gateway.call(X_API_Key="wrong")[0] == 401
    assert gateway.call(X_API_Key="flake-7f3a")[0] == 200
    assert gateway.call(Authorization="Bearer flake-7f3a")[0] == 200
    assert gateway.get("/v2/models")[0] == 401
    assert gateway.get("/readyz")[0] == 200

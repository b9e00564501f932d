"""What is promised, under real load on a disk that fails: the law to the last call, and the limits of what is lost."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import orjson
import pytest
import urllib3
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from bundles.home import Home
from bundles.packing import Packed, pack
from monitors.log.reader import LogReader
from monitors.log.record import UNKNOWN, id_milliseconds
from tests.conftest import Gateway, snowgate, wait_until, write_model
from tests.gateway.grpc.peer import INFER, InferRequest, InferResponse

Start = Callable[..., Gateway]
FATES = ("answered_durable", "answered_unlogged", "refused_durable", "refused_uncounted")
LOSS_RECORDS = 60


class Witness:
    """Clients that call without a pause; of each answer they keep id, status, and whether it said to be logged."""

    def __init__(self, *urls: str, clients: int = 4) -> None:
        self.heard: dict[str, tuple[int, bool]] = {}
        self.broken = 0
        self._ending = threading.Event()
        each = [url for url in urls for _ in range(clients)]
        self._threads = [threading.Thread(target=self._run, args=(url,), daemon=True) for url in each]
        for thread in self._threads:
            thread.start()

    def _run(self, url: str) -> None:
        http = urllib3.PoolManager(retries=False, timeout=30)
        good = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]})
        wrong = good.replace(b"FP32", b"INT8")
        count = 0
        while not self._ending.is_set():
            count += 1
            try:
                answer = http.request("POST", url, body=wrong if count % 5 == 0 else good)
            except urllib3.exceptions.HTTPError:
                self.broken += 1
                self._ending.wait(0.02)
                continue
            if answer.status == 503:
                self._ending.wait(0.005)
            logged = "Snowgate-Logged" not in answer.headers
            assert logged or answer.headers["Snowgate-Logged"] == "false"
            self.heard[answer.headers["Snowgate-Prediction-Id"]] = (answer.status, logged)

    def ids(self, true: Callable[[int, bool], bool]) -> set[str]:
        """Return the ids of the answers of which something is true."""
        return {one for one, (status, logged) in self.heard.copy().items() if true(status, logged)}

    def stop(self) -> None:
        """End the clients."""
        self._ending.set()
        for thread in self._threads:
            thread.join()


def figures(gateway: Gateway) -> dict[str, float]:
    """Scrape `/metrics`; check that the law holds in what was scraped, and return the figures about it."""
    page = gateway.http.request("GET", f"{gateway.control}/metrics").data.decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            name = sample.labels["fate"] if sample.name == "snowgate_settled_total" else sample.name
            found[name] = found.get(name, 0.0) + sample.value
    if not found.keys() >= set(FATES):
        return {}  # No worker has said anything yet.
    settled = sum(found[fate] for fate in FATES)
    assert found["snowgate_received_total"] == settled + found["snowgate_in_flight"] + found["snowgate_abandoned_total"]
    return found


def figure(gateway: Gateway, name: str) -> float:
    """Return one of the figures; 0 while no worker has said anything."""
    return figures(gateway).get(name, 0.0)


def at_rest(gateway: Gateway, calls: int) -> dict[str, float]:
    """Wait until all calls are counted and none is in flight, and return the figures."""
    found: dict[str, float] = {}

    def rests() -> bool:
        found.update(figures(gateway))
        return bool(found) and found["snowgate_received_total"] >= calls and found["snowgate_in_flight"] == 0

    wait_until(rests, what="the end of all calls")
    return found


@pytest.fixture
def failing_disk(preloaded: Callable[[str], Path]) -> Path:
    """The library that makes syncs and writes fail."""
    return preloaded("failing_disk")


@pytest.fixture
def two_models(home: Home, packed: Packed, tmp_path: Path) -> Home:
    """`signs` refuses while the log can't be written, `plain` is served unlogged."""
    pack(home, write_model(tmp_path / "plain", sign=3.0), model="plain")
    for model in ("signs", "plain"):
        snowgate(home.path, "deploy", f"{model}@1")
    (home.path / "snowgate.toml").write_text('[models.plain.log]\non_failure = "serve"\n')
    return home


def ready(gateway: Gateway) -> bool:
    """Ask `/readyz`."""
    return gateway.get("/readyz")[0] == 200


def told(gateway: Gateway) -> list[str]:
    """Return the states of all incidents about the log."""
    return [one["state"] for one in gateway.snowgate("incident", "list") if one.get("cause") == "log"]


@pytest.mark.parametrize(("durability", "fault"), [("commit", "broken"), ("async", "full")])
def test_the_law_holds_while_the_disk_fails(
    two_models: Home, failing_disk: Path, tmp_path: Path, start: Start, durability: str, fault: str
) -> None:
    """Under load of two models on two workers the disk fails and is mended: every call is where the law has it.

    All that were answered as logged are found again, none of those that said `Snowgate-Logged: false` are, the log's
    counts are the metrics', readiness falls and comes back without a call, and one incident tells of it.
    """
    order = tmp_path / "fault"
    variables = {"LD_PRELOAD": str(failing_disk), "FAULT_FILE": str(order), "SNOWGATE_LOG__DURABILITY": durability}
    gateway = start(two_models.path, "--workers", "2", variables=variables)
    witness = Witness(*(f"{gateway.url}/v2/models/{model}/infer" for model in ("signs", "plain")))
    wait_until(lambda: len(witness.heard) > 300 and figures(gateway), what="traffic")
    assert not witness.ids(lambda _status, logged: not logged)
    order.write_text(fault)
    wait_until(lambda: figure(gateway, "snowgate_log_failing_workers") == 2, what="both workers to see it")
    wait_until(lambda: len(witness.ids(lambda status, logged: not logged and status == 503)) > 50, what="refusals")
    wait_until(lambda: len(witness.ids(lambda status, logged: not logged and status == 200)) > 50, what="unlogged ones")
    wait_until(lambda: witness.ids(lambda status, logged: not logged and status == 400), what="an unlogged refusal")
    witness.stop()
    assert not ready(gateway)
    assert "can't be written" in gateway.get("/v2/models/signs/ready")[1]["error"]
    assert gateway.get("/v2/models/plain/ready")[0] == 200
    grpc_says_so(gateway)
    assert [gateway.call("nobody")[0] for _ in range(3)] == [404] * 3
    wait_until(lambda: told(gateway) == ["open"], what="the incident")
    order.unlink()
    wait_until(lambda: all(ready(gateway) for _ in range(8)), what="both workers to be ready again")
    wait_until(lambda: told(gateway) == ["resolved"], what="the incident's end")
    more = Witness(*(f"{gateway.url}/v2/models/{model}/infer" for model in ("signs", "plain")))
    wait_until(lambda: len(more.heard) > 200, what="traffic again")
    more.stop()
    assert not more.ids(lambda _status, logged: not logged)
    heard = witness.heard | more.heard
    found = at_rest(gateway, len(heard) + 5)  # and the two over gRPC, and the three of a model that nobody serves
    counted = {fate: int(found[fate]) for fate in FATES}
    kinds = {(status == 200, logged): 0 for status in (200, 400) for logged in (True, False)}
    for status, logged in heard.values():
        kinds[status == 200, logged] += 1
    assert counted == {
        "answered_durable": kinds[True, True],
        "answered_unlogged": kinds[True, False] + 1,
        "refused_durable": kinds[False, True] + 3,
        "refused_uncounted": kinds[False, False] + 1,
    }
    assert gateway.stop() == 0
    records = list(LogReader(two_models.log).records())
    counts = [one.calls for one in records if one.model == UNKNOWN]
    assert sum(counts) == 3
    assert {one.id for one in records if one.model != UNKNOWN} == {
        one for one, (_status, logged) in heard.items() if logged
    }
    report = snowgate(two_models.path, "log", "verify")
    assert (report["first_bad"], report["answered"], report["refused"]) == (
        None,
        counted["answered_durable"],
        counted["refused_durable"] - 3 + len(counts),
    )


def grpc_says_so(gateway: Gateway) -> None:
    """While the log fails: one answer without a record, one refusal, and health, all in gRPC's words."""
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        infer = channel.unary_unary(
            INFER, request_serializer=InferRequest.SerializeToString, response_deserializer=InferResponse.FromString
        )
        call = InferRequest(model_name="plain", raw_input_contents=[np.array([1, 2, 3], "<f4").tobytes()])
        call.inputs.add(name="x", datatype="FP32", shape=[1, 3])
        _answer, made = infer.with_call(call)
        assert dict(made.initial_metadata())["snowgate-logged"] == "false"
        call.model_name = "signs"
        with pytest.raises(grpc.RpcError) as refused:
            infer(call)
        error: Any = refused.value
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert dict(error.initial_metadata())["snowgate-logged"] == "false"
        health = health_pb2_grpc.HealthStub(channel)
        states = [health.Check(health_pb2.HealthCheckRequest(service=name)).status for name in ("", "signs", "plain")]
        assert states == [2, 2, 1]


def test_a_worker_that_starts_on_a_full_disk_serves_what_may_be(home: Home, packed: Packed, start: Start) -> None:
    """The log's file system is full when the worker is killed: the next one answers unlogged, and logs once it can."""
    snowgate(home.path, "deploy", "signs@1")
    (home.path / "snowgate.toml").write_text('[log]\non_failure = "serve"\n')
    home.log.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(home.log)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("not run: mounting a tmpfs is not permitted here")
    try:
        gateway = start(home.path)
        assert "Snowgate-Logged" not in gateway.call()[2]
        ballast = home.log / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(512)):
                pass
        unlogged = wait_until(lambda: find_unlogged(gateway), what="the end of the last page")
        (victim,) = gateway.children("gateway.worker")
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: gateway.children("gateway.worker") not in ([victim], []), what="another worker")
        unlogged += wait_until(lambda: find_unlogged(gateway), what="an answer")
        assert ready(gateway)
        ballast.unlink()
        wait_until(lambda: not find_unlogged(gateway), what="room")
        assert gateway.stop() == 0
        assert not set(unlogged) & {one.id for one in LogReader(home.log).records()}
        assert snowgate(home.path, "log", "verify")["first_bad"] is None
    finally:
        subprocess.run(["umount", "--lazy", str(home.log)], check=True)


def find_unlogged(gateway: Gateway) -> list[str]:
    """Call once; return the id if the answer says that it is not logged. No worker may be there yet."""
    try:
        status, _answer, headers = gateway.call()
    except urllib3.exceptions.HTTPError:
        return []
    assert status in (200, 503)
    return [headers["Snowgate-Prediction-Id"]] if status == 200 and "Snowgate-Logged" in headers else []


@pytest.mark.parametrize("stalled", [False, True])
def test_after_kill_9_async_has_lost_no_more_than_it_says(
    home: Home, packed: Packed, failing_disk: Path, tmp_path: Path, start: Start, *, stalled: bool
) -> None:
    """A worker is killed under load, on a good disk and on one that stands still: what is lost is within the limit.

    On the one that stands still the limit is reached, so that answers wait; the metrics said how much was at stake.
    """
    snowgate(home.path, "deploy", "signs@1")
    order = tmp_path / "fault"
    variables = {
        "LD_PRELOAD": str(failing_disk),
        "FAULT_FILE": str(order),
        "SNOWGATE_LOG__DURABILITY": "async",
        "SNOWGATE_LOG__LOSS_RECORDS": str(LOSS_RECORDS),
        "SNOWGATE_LOG__LOSS_SECONDS": "60",
    }
    gateway = start(home.path, variables=variables)
    witness = Witness(f"{gateway.url}/v2/models/signs/infer")
    wait_until(lambda: len(witness.heard) > 300, what="traffic")
    if stalled:
        order.write_text("stall")
        wait_until(lambda: figure(gateway, "snowgate_log_undurable_records") == LOSS_RECORDS, what="the limit")
        assert figures(gateway)["snowgate_log_loss_limit_records"] == LOSS_RECORDS
        wait_until(lambda: figure(gateway, "snowgate_log_undurable_seconds") > 1, what="the oldest to grow old")
    (victim,) = gateway.children("gateway.worker")
    before = set(witness.heard)
    os.kill(victim, signal.SIGKILL)
    order.unlink(missing_ok=True)
    wait_until(lambda: len(witness.heard) > len(before) + 100, what="traffic again")
    witness.stop()
    figures(gateway)
    assert gateway.stop() == 0
    lost = set(witness.heard) - {one.id for one in LogReader(home.log).records()}
    assert len(lost) <= LOSS_RECORDS
    assert not stalled or lost
    assert snowgate(home.path, "log", "verify")["first_bad"] is None


def test_the_limit_in_seconds_holds(
    home: Home, packed: Packed, failing_disk: Path, tmp_path: Path, start: Start
) -> None:
    """The disk stands still: calls are answered for so long and no longer, and go on once it moves again."""
    snowgate(home.path, "deploy", "signs@1")
    order = tmp_path / "fault"
    variables = {
        "LD_PRELOAD": str(failing_disk),
        "FAULT_FILE": str(order),
        "SNOWGATE_LOG__DURABILITY": "async",
        "SNOWGATE_LOG__LOSS_SECONDS": "0.5",
    }
    gateway = start(home.path, variables=variables)
    witness = Witness(f"{gateway.url}/v2/models/signs/infer")
    wait_until(lambda: len(witness.heard) > 100, what="traffic")
    order.write_text("stall")
    wait_until((tmp_path / "fault.met").exists, what="a sync that waits")
    wait_until(lambda: figure(gateway, "snowgate_log_undurable_seconds") > 2, what="the limit to be passed")
    before = dict(witness.heard)
    stuck = time.time()
    (victim,) = gateway.children("gateway.worker")
    os.kill(victim, signal.SIGKILL)
    order.unlink()
    wait_until(lambda: len(witness.heard) > len(before) + 50, what="traffic again")
    witness.stop()
    assert gateway.stop() == 0
    lost = sorted(map(id_milliseconds, set(before) - {one.id for one in LogReader(home.log).records()}))
    assert lost, "the window was open when the disk stood still"
    assert lost[-1] < stuck * 1e3 - 1_000, "for more than a second nobody was answered"

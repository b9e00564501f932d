"""A real home with a story in it: two packed versions, a canary, predictions in the log, and an incident."""

import asyncio
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import time, time_ns
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Metric

from bundles.home import Home
from bundles.packing import pack
from gateway.admin import create_app
from gateway.audit import now, rfc3339
from gateway.operations import Operations
from monitors.incidents import Incidents
from monitors.log.record import Payload, Record, Tensor, new_id
from monitors.log.writer import SegmentWriter
from state import Change
from state.sqlite import SqliteState
from tests.conftest import wait_until, write_model

INCIDENT = "signs-20261124-010203"
EXPECTED = {str(number): share / 100 for number, share in enumerate((10, 11, 10, 10, 9, 9, 10, 11, 10, 10))}
OBSERVED = EXPECTED | {"1": 0.06, "5": 0.07, "7": 0.02, "8": 0.29}
DAYS = 86_400.0


@dataclass
class Story:
    """A home, what is open of it, and the ids of two predictions: one answered, one refused."""

    home: Home
    state: SqliteState
    operations: Operations
    answered: str
    refused: str
    counted: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        labels = ("model", "version", "variant", "outcome")
        self.requests = Counter(
            "snowgate_requests", "Inference calls finished, by outcome.", labels, registry=self.counted
        )
        self.requests.labels("signs", "1", "stable", "ok").inc(700)

    def families(self) -> Iterable[Metric]:
        """Return what workers would have counted."""
        return self.counted.collect()


@pytest.fixture(scope="session")
def packed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with signs@1 and signs@2, packed and signed for real; copied by every test that writes."""
    folder = tmp_path_factory.mktemp("packed")
    home = Home(folder / "home").make()
    pack(home, write_model(folder / "one"), model="signs")
    pack(home, write_model(folder / "two", sign=2.0), model="signs", parents=["signs@1"])
    return home.path


@pytest.fixture
def story(packed_home: Path, tmp_path: Path) -> Iterator[Story]:
    """A home of one's own, in the middle of its story. What control and monitor would write is written here."""
    home = Home(Path(shutil.copytree(packed_home, tmp_path / "home")))
    state = SqliteState(home.state)
    operations = Operations(home, state, Incidents(state, now))
    operations.deploy("signs@1", "production", actor="ada", reason="the first one")
    take_up(operations)
    operations.deploy("signs@2", "production", canary=20, actor="grace", reason="trained on twice the data")
    take_up(operations)
    digest = home.refs().resolve("signs@2")[0]
    answered, refused = write_log(home, digest)
    state.commit(Change("monitor/status", status(digest)), Change(f"incidents/{INCIDENT}", incident(digest)))
    yield Story(home, state, operations, answered, refused)
    state.close()


def take_up(operations: Operations) -> None:
    """Do what control does when all goes well: the route follows the ref."""
    deployment = operations.deployment("signs", "production")
    desired, actual = deployment["desired"], deployment["actual"]
    stable = [] if actual is None else [one for one in actual["variants"] if one["variant"] == "stable"]
    wanted = {"version": desired["version"], "digest": desired["digest"]}
    canary = desired["canary"]
    if canary is None or not stable:
        variants = [{"variant": "stable", "weight": 10_000, **wanted}]
    else:
        variants = [
            stable[0] | {"weight": 10_000 - canary * 100},
            {"variant": "canary", "weight": canary * 100, **wanted},
        ]
    route = {"model": "signs", "rollout": "r1", "environment": "production", "variants": variants, "previous": []}
    words = f"version {desired['version']} has {'all traffic' if canary is None else f'{canary} % as canary'}"
    status = {"model": "signs", "environment": "production", "weight_set": 0, "time": now(), "message": words}
    status |= {"phase": "Healthy" if canary is None else "Paused", "desired": wanted | {"change": desired["change"]}}
    operations.state.commit(
        Change("routes/signs", route | {"time": now(), "reason": words}), Change("deployments/production/signs", status)
    )


def write_log(home: Home, digest: str) -> tuple[str, str]:
    """Write one answered and one refused prediction to the log, durably."""
    durable: list[Any] = []
    writer = SegmentWriter(home.log, "w0", lambda tokens, _error: durable.extend(tokens))
    row = np.array([[1.5, float("nan"), -2.0]], dtype="<f4")
    answer = np.array([[0.25, -0.25]], dtype="<f4")
    answered = Record(
        id=new_id(time_ns()),
        kind="answered",
        time=time() + 1,
        model="signs",
        version="2",
        bundle=digest,
        variant="canary",
        reason="split",
        probability=0.2,
        rollout="r1",
        status=200,
        signals={"class": [0], "energy": [0.97], "confidence": [0.62]},
        timings={"decode": 0.1, "queue": 0.4, "compute": 1.25, "total": 2.0},
        batch_size=4,
        engine="python",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        payload=Payload(
            unit="camera-7",
            inputs=[Tensor("x", "FP32", [1, 3], row.tobytes()), Tensor("tag", "BYTES", [1], b"\x02\x00\x00\x00ok")],
            outputs=[Tensor("y", "FP32", [1, 2], answer.tobytes())],
        ),
    )
    refused = Record(
        id=new_id(time_ns()),
        kind="refused",
        time=time(),
        model="signs",
        status=400,
        error_type="bad_call",
        payload=Payload(error="input 'x': shape [1, 2], expected [-1, 3]"),
    )
    for record in (answered, refused):
        writer.append(record, record.id)
    wait_until(lambda: len(durable) == 2, what="the log's sync")
    writer.close()
    return answered.id, refused.id


def status(digest: str) -> dict[str, Any]:
    """Return a monitor/status document, as the monitor writes it."""

    def signal(
        name: str, state: str, evidence: float | None, observed: Any, expected: Any, tier: str
    ) -> dict[str, Any]:
        return {
            "name": name,
            "detector": "categorical" if isinstance(observed, dict) else "binned",
            "tier": tier,
            "state": state,
            "evidence": evidence,
            "limit": 144 * DAYS,
            "observed": observed,
            "expected": expected,
            "baseline_rows": 1_000,
            "rows": 1_000,
        }

    quiet = [
        signal("class", "quiet", 40.0, EXPECTED | {"0": 0.11, "1": 0.10}, EXPECTED, "page"),
        signal("energy", "quiet", 1_900.0, 8.31, 8.4, "page"),
        signal("image.mean", "quiet", 12.0, 0.131, 0.1307, "ticket"),
    ]
    shifted = [
        signal("class", "drift", 9e9, OBSERVED, EXPECTED, "page"),
        signal("energy", "warning", 3.1 * DAYS, 6.9, 8.2, "page"),
        signal("image.mean", "quiet", 300.0, 0.134, 0.1307, "ticket"),
        signal("image.missing", "not-enough-data", 0.0, None, 0.0, "ticket"),
    ]
    return {
        "time": now(),
        "lag_seconds": 0.012,
        "processed": 51_234,
        "damage": [],
        "unreadable": [],
        "pages": {"sent": 1, "failed": 0, "last_success": now(), "last_error": None},
        "streams": [
            {"model": "signs", "version": "1", "bundle": "sha256:1", "rows": 41_000, "signals": quiet},
            {"model": "signs", "version": "2", "bundle": digest, "rows": 10_234, "signals": shifted},
        ],
    }


def incident(digest: str) -> dict[str, Any]:
    """Return an open incident, as the monitor writes it."""
    opened = rfc3339(time() - 300)
    shifted = {
        "name": "class",
        "version": "2",
        "observed": OBSERVED,
        "expected": EXPECTED,
        "detector": "categorical",
        "tier": "page",
        "evidence": 9e9,
        "limit": 144 * DAYS,
        "onset": opened,
        "since_rows": 1_240,
        "sentence": "8 is predicted for 29.0 % of rows, expected 10.0 %",
    }
    return {
        "id": INCIDENT,
        "dedup_key": f"snowgate/production/{INCIDENT}",
        "model": "signs",
        "version": "2",
        "versions": ["2"],
        "bundle": digest,
        "state": "open",
        "onset": opened,
        "opened": opened,
        "updated": opened,
        "signals": [shifted],
        "summary": "signs version 2: 8 is predicted for 29.0 % of rows, expected 10.0 % (1240 rows)",
        "evidence": {"value": 9e9, "limit": 144 * DAYS, "unit": "seconds"},
        "rows_since_onset": 1_240,
        "likely": "model",
        "likely_because": "the inputs are quiet, and 1 of 2 versions shifted",
        "decision": None,
        "history": [{"time": opened, "state": "open", "actor": "monitor", "reason": "the class distribution left"}],
    }


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve an application with uvicorn on a loopback socket, on a thread; give its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=5, ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    wait_until(lambda: server.started, what="uvicorn")
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    loop = server.servers[0].get_loop()
    try:
        yield f"http://{host}:{port}"
    finally:
        loop.call_soon_threadsafe(app.state.live.end)
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server does not end"


@pytest.fixture
def admin(story: Story) -> Iterator[str]:
    """The control port of the story's home; its URL."""
    app = create_app(
        story.operations,
        families=story.families,
        ready=lambda: True,
        allowed_hosts=["127.0.0.1", "localhost"],
        key_digests=None,
    )
    with serving(app) as url:
        yield url

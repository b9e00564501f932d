"""Statistics and configuration: what was counted is what was asked, over all workers, in Triton's form."""

from collections.abc import Callable
from typing import Any

import tritonclient.http
from prometheus_client import CollectorRegistry

from bundles.home import Home
from bundles.packing import Packed
from gateway.metrics import WorkerMetrics
from gateway.statistics import statistics_json
from gateway.totals import Totals
from monitors.log.record import Record
from tests.conftest import Gateway, wait_until


def record(**changes: Any) -> Record:
    """An answered call of one row, alone in its batch."""
    fields: dict[str, Any] = {
        "id": "p",
        "kind": "answered",
        "time": 1000.0,
        "model": "signs",
        "version": "1",
        "variant": "stable",
        "status": 200,
        "rows": 1,
        "batch_size": 1,
        "timings": {"decode": 1.0, "queue": 2.0, "compute": 4.0, "total": 8.0},
    }
    return Record(**(fields | changes))


def test_workers_add_up() -> None:
    """Calls of two workers, a dead one among them: counts, times and batches are sums, the newest time the newest."""
    totals = Totals()
    one, two = WorkerMetrics(CollectorRegistry()), WorkerMetrics(CollectorRegistry())
    one.done(record(), 200, 0.010)
    one.done(record(status=500), 500, 0.5)
    # Two calls that shared a batch of 3 rows, and one of 200 rows: beyond what is counted exactly.
    two.done(record(rows=1, batch_size=3, variant="canary", time=2000.0), 200, 0.010)
    two.done(record(rows=2, batch_size=3, time=2000.0), 200, 0.010)
    two.done(record(rows=200, batch_size=200, time=3000.0), 200, 0.010)
    two.done(Record(id="x", kind="refused", time=1.0, model="nobody", status=404), 404, 0.1)
    for name, metrics in (("w0", one), ("w1", two)):
        totals.update(name, metrics.families())
    before = statistics_json(totals.families())
    totals.ended("w1")
    assert statistics_json(totals.families()) == before
    (row,) = before
    assert (row["name"], row["version"], row["last_inference"]) == ("signs", "1", 3_000_000)
    assert (row["inference_count"], row["execution_count"]) == (204, 3)
    stats = row["inference_stats"]
    assert stats["success"] == {"count": 4, "ns": 40_000_000}
    assert stats["fail"] == {"count": 1, "ns": 500_000_000}
    assert stats["queue"] == {"count": 4, "ns": 8_000_000}
    assert stats["compute_input"] == {"count": 4, "ns": 4_000_000}
    assert stats["compute_infer"] == {"count": 4, "ns": 16_000_000}
    assert stats["compute_output"] == {"count": 4, "ns": 12_000_000}
    sizes = {one["batch_size"]: one["compute_infer"] for one in row["batch_stats"]}
    # A batch of several calls counts once, with its time once.
    assert sizes == {size: {"count": 1, "ns": 4_000_000} for size in (1, 3, 256)}


def test_all_workers_are_counted(home: Home, packed: Packed, start: Callable[..., Gateway]) -> None:
    """Calls that two workers answered are all in the figures of whichever worker is asked, within a second or two."""
    gateway = start(home.path, variables={"SNOWGATE_SERVER__WORKERS": "2"})
    gateway.snowgate("deploy", "signs@1", "--wait")
    client = tritonclient.http.InferenceServerClient(gateway.url.removeprefix("http://"))
    (row,) = client.get_inference_statistics("signs", "1")["model_stats"]
    assert (row["inference_count"], row["inference_stats"]["success"]) == (0, {"count": 0, "ns": 0})
    for _ in range(30):
        assert gateway.call(Connection="close")[0] == 200
    assert gateway.call(values=[5000.0, 0.0, 0.0])[0] == 500

    def counted() -> Any:
        answer = gateway.http.request("GET", gateway.url + "/v2/models/signs/stats", headers={"Connection": "close"})
        (row,) = answer.json()["model_stats"]
        stats = row["inference_stats"]
        return row if (stats["success"]["count"], stats["fail"]["count"]) == (30, 1) else None

    row = wait_until(counted, 10, "the figures of both workers")
    assert (row["name"], row["version"], row["inference_count"]) == ("signs", "1", 30)
    assert 1 <= row["execution_count"] <= 30
    assert sum(one["compute_infer"]["count"] for one in row["batch_stats"]) == row["execution_count"]
    stats = row["inference_stats"]
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert abs(stats["success"]["ns"] - sum(stats[part]["ns"] for part in parts)) <= len(parts)
    assert gateway.get("/v2/models/stats")[1]["model_stats"][0]["name"] == "signs"
    client.close()


def test_a_worker_knows_its_own_at_once(gateway: Gateway) -> None:
    """With one worker no call is missing in the figures that are asked for behind it."""
    before = gateway.get("/v2/models/signs/versions/1/stats")[1]["model_stats"][0]["inference_count"]
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2,3],"data":[1,2,3,4,5,6]}]}'
    assert gateway.post("/v2/models/signs/versions/1/infer", body)[0] == 200
    assert gateway.get("/v2/models/signs/versions/1/stats")[1]["model_stats"][0]["inference_count"] == before + 2


def test_versions_and_unknown_names(gateway: Gateway) -> None:
    """Without a version all loaded ones are listed; what is not loaded is 404, as everywhere."""
    rows = gateway.get("/v2/models/signs/stats")[1]["model_stats"]
    assert [one["version"] for one in rows] == ["1", "2"]
    for path in ("nope/stats", "signs/versions/9/stats", "nope/config", "signs/versions/9/config"):
        status, answer = gateway.get(f"/v2/models/{path}")
        assert (status, set(answer)) == (404, {"error"})
        assert answer["error"].startswith("Request for unknown model: ")


def test_configuration(gateway: Gateway) -> None:
    """The reference client reads the configuration; the batch axis is not among the dims."""
    client = tritonclient.http.InferenceServerClient(gateway.url.removeprefix("http://"))
    config = client.get_model_config("signs")
    assert config == client.get_model_config("signs", "1")
    assert config["name"] == "signs"
    assert config["max_batch_size"] >= 1
    assert config["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [3], "format": "FORMAT_NONE", "optional": False}
    ]
    assert config["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}]
    assert config["version_policy"] == {"specific": {"versions": [1]}}
    assert {"statistics", "model_configuration"} <= set(client.get_server_metadata()["extensions"])
    client.close()

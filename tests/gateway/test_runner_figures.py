"""Runners as metrics, and the console's rows that are made of them."""

from prometheus_client.parser import text_string_to_metric_families

from gateway.runner_figures import Replica, Replicas, runner_families, runner_rows
from tests.conftest import Gateway, wait_until


def test_rows_are_what_the_metrics_say() -> None:
    """Each version has its own runners by their numbers, with all that is known; other families do not matter."""
    one = Replica(1, "ready", "onnxruntime", "cpu", 0, 80_000_000, 90_000_000)
    two = Replica(2, "parked", "", "cuda:0", 7, 0, None)
    families = runner_families([Replicas("signs", "1", 2, (two, one)), Replicas("signs", "2", 1)])
    rows = runner_rows(families)
    assert list(rows) == [("signs", "1")]
    first, second = rows["signs", "1"]
    assert first == {
        "replica": 1,
        "state": "ready",
        "engine": "onnxruntime",
        "device": "cpu",
        "restarts": 0,
        "memory_bytes": 80_000_000,
        "memory_bytes_max": 90_000_000,
    }
    assert (second["state"], second["restarts"], second["memory_bytes_max"]) == ("parked", 7, None)


def test_a_gateway_tells_of_its_runners(gateway: Gateway) -> None:
    """Both versions have one runner that is ready, takes memory and runs on the processor; the console's JSON too."""

    def scraped() -> dict[tuple[str, str], float]:
        text = gateway.http.request("GET", f"{gateway.control}/metrics").data.decode()
        return {
            (sample.name, sample.labels["version"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("snowgate_runner_") and sample.labels.get("state", "ready") == "ready"
        }

    wait_until(lambda: min(scraped()["snowgate_runner_memory_bytes", one] for one in "12") > 2**20, what="memory")
    found = scraped()
    for version in ("1", "2"):
        assert found["snowgate_runner_replicas", version] == found["snowgate_runner_replicas_ready", version] == 1
        assert found["snowgate_runner_state", version] == found["snowgate_runner_info", version] == 1
        assert found["snowgate_runner_restarts_total", version] >= 0

    def shown() -> list[dict[str, object]]:
        document = gateway.http.request("GET", f"{gateway.control}/api/v1/overview").json()
        return [one for version in document["models"][0]["versions"] for one in version["runners"]["replicas"]]

    rows = wait_until(lambda: len(shown()) == 2 and shown(), what="the first sample")
    assert {(one["replica"], one["state"], one["device"]) for one in rows} == {(1, "ready", "cpu")}
    page = gateway.http.request("GET", gateway.control).data.decode()
    assert "1 of 1 ready" in page
    assert "MiB</td>" in page

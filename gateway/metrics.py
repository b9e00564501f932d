"""What a worker counts. Labels come from what is served, never from what a client asked for.

Children are looked up once per version and kept: a lookup by labels costs more than the increment.
"""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from gateway.statistics import Sums
from monitors.log.record import Record

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
OUTCOMES = {200: "ok", 499: "client_gone", 503: "unavailable", 504: "timed_out"}


class WorkerMetrics:
    """All metrics of one worker, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        served = ("model", "version", "variant")
        self.registry = registry
        self.received = Counter("snowgate_received", "Inference calls received.", registry=registry)
        self._requests = Counter(
            "snowgate_requests",
            "Inference calls finished, by outcome.",
            (*served, "outcome"),
            registry=registry,
        )
        self._rows = Counter("snowgate_rows", "Rows predicted; a call with n rows counts n.", served, registry=registry)
        self._seconds = Histogram(
            "snowgate_request_duration_seconds",
            "From the first byte of a call to its durable answer.",
            served,
            registry=registry,
            buckets=SECONDS,
        )
        self._batch_rows = Histogram(
            "snowgate_batch_rows",
            "Rows in a frame to a runner.",
            ("model", "version"),
            registry=registry,
            buckets=ROWS,
        )
        self._sums = Sums()
        registry.register(self._sums)
        self._children: dict[tuple[str, str, str, int], tuple[Any, Any, Any, Any]] = {}

    def done(self, record: Record, status: int, seconds: float) -> None:
        """Count one finished call."""
        # A call refused before a version was chosen has no labels of its own; the client's words are no label.
        model = record.model if record.version is not None else "_unknown"
        key = (model, record.version or "", record.variant or "", status)
        children = self._children.get(key)
        if children is None:
            outcome = OUTCOMES.get(status, "client_error" if status < 500 else "model_error")
            labels = key[:3]
            sums: Any = self._sums.of(model, key[1]) if status == 200 else None
            children = self._children[key] = (
                self._requests.labels(*labels, outcome),
                self._rows.labels(*labels),
                self._seconds.labels(*labels),
                sums,
            )
        requests, rows, duration, sums = children
        requests.inc()
        if status == 200:
            rows.inc(record.rows)
            sums.add(record, seconds)
        duration.observe(seconds)

    def batch_counter(self, model: str, version: str) -> Callable[[int], None]:
        """Return the function that a version's queue calls with the rows of each frame."""
        return self._batch_rows.labels(model, version).observe

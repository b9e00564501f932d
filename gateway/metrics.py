"""What a worker counts. Labels come from what is served, never from what a client asked for.

The counts are plain numbers, which the registry reads when it is collected: prometheus_client's own counters take a
lock for each increment, and the four that a call needs would cost more than its routing.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from time import time
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily

from gateway.statistics import VersionSums, sums_families
from monitors.log.record import Record

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
OUTCOMES = {200: "ok", 499: "client_gone", 503: "unavailable", 504: "timed_out"}
SERVED = ("model", "version", "variant")

Served = tuple[str, str, str]
UNKNOWN: Served = ("_unknown", "", "")


class Distribution:
    """Values counted in buckets, each up to and with its bound."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}
        """The newest call of each bucket that can be looked up as a trace."""

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def point_at(self, value: float, labels: dict[str, str]) -> None:
        """Keep a value that was counted as the exemplar of its bucket."""
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar(labels, value, time())

    def buckets(self) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        """Return what Prometheus wants: the bounds as text, how many values lie below each, and an exemplar."""
        names = [*map(str, self.bounds), "+Inf"]
        counts = map(float, accumulate(self.counts))
        return [
            (name, count, self.exemplars[place]) if place in self.exemplars else (name, count)
            for place, (name, count) in enumerate(zip(names, counts, strict=True))
        ]


class Tally:
    """What is counted of one version in one part: found by one look, and then only added to."""

    __slots__ = ("outcomes", "rows", "seconds", "sums")

    def __init__(self, sums: VersionSums) -> None:
        self.outcomes: dict[int, int] = {}
        self.rows = 0
        self.seconds = Distribution(SECONDS)
        self.sums = sums
        """Of the version, whichever part it has."""


class WorkerMetrics:
    """All metrics of one worker; `registry` collects them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.received = 0
        """Inference calls that came; the one who takes them counts."""
        self.unlogged = {"answered": 0, "refused": 0}
        """Calls whose record is not in the log and will not be, by what their client heard."""
        self.undurable = {"answered": 0, "refused": 0}
        """Calls whose client has heard, and whose record is not on disk yet."""
        self._tallies: dict[Served, Tally] = {}
        self._batch_rows: dict[tuple[str, str], Distribution] = {}
        self.spans_exported = 0
        self.spans_dropped = {"queue_full": 0, "export_failed": 0, "shutdown": 0}
        self.traces_over_limit = 0
        self._sums: dict[tuple[str, str], VersionSums] = {}
        registry.register(self)

    def done(self, record: Record, status: int, seconds: float) -> None:
        """Count one finished call."""
        # A call refused before a version was chosen has no labels of its own; the client's words are no label.
        served = UNKNOWN if record.version is None else (record.model, record.version, record.variant or "")
        tally = self._tallies.get(served)
        if tally is None:
            tally = self._tallies[served] = Tally(self._sums.setdefault(served[:2], VersionSums()))
        outcomes = tally.outcomes
        outcomes[status] = outcomes.get(status, 0) + 1
        tally.seconds.observe(seconds)
        if status == 200:
            tally.rows += record.rows
            tally.sums.add(record, seconds)

    def point_at(self, record: Record, seconds: float) -> None:
        """Make a call that was counted, and is traced, the exemplar of its bucket."""
        if record.version is not None and record.trace_id is not None:
            labels = {"trace_id": record.trace_id, "prediction_id": record.id}
            tally = self._tallies[record.model, record.version, record.variant or ""]
            tally.seconds.point_at(seconds, labels)

    def batch_counter(self, model: str, version: str) -> Callable[[int], None]:
        """Return the function that a version's queue calls with the rows of each frame."""
        return self._batch_rows.setdefault((model, version), Distribution(ROWS)).observe

    def families(self) -> list[list[Any]]:
        """Return all that is counted, as plain lists: what `Totals.update` takes."""
        return [
            [
                one.name,
                one.type,
                one.documentation,
                [[s.name, s.labels, s.value, None if s.exemplar is None else list(s.exemplar)] for s in one.samples],
            ]
            for one in self.registry.collect()
        ]

    def collect(self) -> Iterable[Metric]:
        """Return all families, as a collector of prometheus_client does."""
        received = CounterMetricFamily("snowgate_received", "Inference calls received.")
        received.add_metric([], self.received)
        requests = CounterMetricFamily(
            "snowgate_requests", "Inference calls finished, by outcome.", labels=(*SERVED, "outcome")
        )
        rows = CounterMetricFamily("snowgate_rows", "Rows predicted; a call with n rows counts n.", labels=SERVED)
        seconds = HistogramMetricFamily(
            "snowgate_request_duration_seconds", "From the first byte of a call to its durable answer.", labels=SERVED
        )
        for served, tally in self._tallies.items():
            counts: dict[str, int] = {}
            for status, count in tally.outcomes.items():
                outcome = OUTCOMES.get(status, "client_error" if status < 500 else "model_error")
                counts[outcome] = counts.get(outcome, 0) + count
            for outcome, count in counts.items():
                requests.add_metric([*served, outcome], count)
            rows.add_metric(served, tally.rows)
            seconds.add_metric(served, tally.seconds.buckets(), tally.seconds.total)
        batch_rows = HistogramMetricFamily(
            "snowgate_batch_rows", "Rows in a frame to a runner.", labels=("model", "version")
        )
        for batched, distribution in self._batch_rows.items():
            batch_rows.add_metric(batched, distribution.buckets(), distribution.total)
        counted = [received, self._settled(), requests, rows, seconds, batch_rows]
        return [*counted, *sums_families(self._sums), *self._tracing()]

    def _settled(self) -> Metric:
        """Say what became of the calls of which it is known: with those in flight they are all that came (`law`)."""
        finished = {"answered": 0, "refused": 0}
        for tally in self._tallies.values():
            for status, count in tally.outcomes.items():
                finished["answered" if status == 200 else "refused"] += count
        family = CounterMetricFamily(
            "snowgate_settled",
            "Calls that are over, by what the client heard and whether it is logged.",
            labels=["fate"],
        )
        for heard, without in (("answered", "answered_unlogged"), ("refused", "refused_uncounted")):
            durable = finished[heard] - self.unlogged[heard] - self.undurable[heard]
            family.add_metric([f"{heard}_durable"], durable)
            family.add_metric([without], self.unlogged[heard])
        return family

    def _tracing(self) -> Iterable[Metric]:
        exported = CounterMetricFamily("snowgate_spans_exported", "Spans that the collector took.")
        exported.add_metric([], self.spans_exported)
        dropped = CounterMetricFamily(
            "snowgate_spans_dropped", "Spans that nobody will see, by why.", labels=["reason"]
        )
        for reason, count in self.spans_dropped.items():
            dropped.add_metric([reason], count)
        over = CounterMetricFamily(
            "snowgate_traces_over_limit", "Calls that were not traced because the second had its traces already."
        )
        over.add_metric([], self.traces_over_limit)
        return [exported, dropped, over]

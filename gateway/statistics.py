"""The statistics extension: what became of each version's calls, and where their time went.

A worker keeps the sums of each version as plain numbers, which costs a call half a microsecond, and gives them to
Prometheus when it is asked. Control adds up all workers, the dead ones included (`totals`), and `statistics_json`
writes the sums in Triton's form; so the figures are those of the whole gateway and at most a second old.

Source: Triton's `extension_statistics.md`. A call's whole time is from its first byte to its durable record;
`compute_input` is decoding and checking, `compute_output` all that comes after the model: its answer's way back,
encoding, the log. A call counts in `batch_stats` with its share of the batch's rows, so that a batch counts once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from monitors.log.record import Record

EXACT_ROWS = 128
"""Batches up to this size are counted by it; larger ones, which a client may choose, by the next power of two."""
STAGES = ("decode", "queue", "compute", "rest")

Version = tuple[str, str]


class VersionSums:
    """The sums of one version in one worker; times in milliseconds, as in a record."""

    __slots__ = ("batches", "compute", "decode", "last", "queue", "rest")

    def __init__(self) -> None:
        self.decode = self.queue = self.compute = self.rest = self.last = 0.0
        self.batches: dict[int, list[float]] = {}

    def add(self, record: Record, seconds: float) -> None:
        """Count one answered call that took `seconds` as a whole."""
        timings, size = record.timings, record.batch_size
        decode, queue, compute = timings["decode"], timings["queue"], timings["compute"]
        self.decode += decode
        self.queue += queue
        self.compute += compute
        self.rest += seconds * 1e3 - decode - queue - compute
        self.last = record.time
        share = record.rows / size
        if size > EXACT_ROWS:
            size = 1 << (size - 1).bit_length()
        batch = self.batches.get(size)
        if batch is None:
            batch = self.batches[size] = [0.0, 0.0]
        batch[0] += share
        batch[1] += compute * share


def sums_families(versions: Mapping[Version, VersionSums]) -> list[Metric]:
    """Give a worker's sums as Prometheus metric families."""
    served = ["model", "version"]
    stages = CounterMetricFamily(
        "snowgate_stage_seconds", "Where the time of answered calls went.", labels=[*served, "stage"]
    )
    batches = CounterMetricFamily("snowgate_batches", "Batches, by their rows.", labels=[*served, "rows"])
    compute = CounterMetricFamily(
        "snowgate_batch_compute_seconds", "Time in the model, by the batch's rows.", labels=[*served, "rows"]
    )
    last = GaugeMetricFamily(
        "snowgate_last_answer_timestamp_seconds", "When the newest answered call came.", labels=served
    )
    for version, sums in versions.items():
        for stage in STAGES:
            stages.add_metric([*version, stage], getattr(sums, stage) / 1e3)
        for size, (count, milliseconds) in sums.batches.items():
            batches.add_metric([*version, str(size)], count)
            compute.add_metric([*version, str(size)], milliseconds / 1e3)
        last.add_metric(version, sums.last)
    return [stages, batches, compute, last]


@dataclass
class Figures:
    """One version's figures, over all workers."""

    counts: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    batches: dict[int, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add to a figure: variants and outcomes of a version are one to the extension."""
        self.counts[name] = self.counts.get(name, 0.0) + value


def statistics_json(families: Iterable[Metric]) -> list[dict[str, Any]]:
    """Return `model_stats` of every version that has counted anything, from the sums over all workers."""
    rows: dict[Version, Figures] = {}
    for family in families:
        for sample in family.samples:
            labels = sample.labels
            if not labels.get("version"):
                continue
            row = rows.setdefault((labels["model"], labels["version"]), Figures())
            match sample.name:
                case "snowgate_requests_total":
                    row.add("ok" if labels["outcome"] == "ok" else "failed", sample.value)
                case "snowgate_stage_seconds_total":
                    row.stages[labels["stage"]] = sample.value
                case "snowgate_batches_total":
                    row.batches.setdefault(int(labels["rows"]), [0.0, 0.0])[0] = sample.value
                case "snowgate_batch_compute_seconds_total":
                    row.batches.setdefault(int(labels["rows"]), [0.0, 0.0])[1] = sample.value
                case (
                    "snowgate_rows_total"
                    | "snowgate_request_duration_seconds_sum"
                    | "snowgate_last_answer_timestamp_seconds"
                ):
                    row.add(sample.name, sample.value)
    return [version_json(*version, row) for version, row in sorted(rows.items())]


def version_json(model: str, version: str, row: Figures | None = None) -> dict[str, Any]:
    """Write one version's figures in the extension's form; zeros for one that has counted nothing."""
    row = row or Figures()
    counts, stages = row.counts, row.stages
    ok, success = counts.get("ok", 0.0), sum(stages.values())
    failure = max(0.0, counts.get("snowgate_request_duration_seconds_sum", 0.0) - success)
    batches = sorted(row.batches.items())
    return {
        "name": model,
        "version": version,
        "last_inference": round(counts.get("snowgate_last_answer_timestamp_seconds", 0.0) * 1e3),
        "inference_count": round(counts.get("snowgate_rows_total", 0.0)),
        "execution_count": round(sum(count for _rows, (count, _seconds) in batches)),
        "inference_stats": {
            "success": _duration(ok, success),
            "fail": _duration(counts.get("failed", 0.0), failure if counts.get("failed") else 0.0),
            "queue": _duration(ok, stages.get("queue", 0.0)),
            "compute_input": _duration(ok, stages.get("decode", 0.0)),
            "compute_infer": _duration(ok, stages.get("compute", 0.0)),
            "compute_output": _duration(ok, stages.get("rest", 0.0)),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _duration(count, 0.0),
                "compute_infer": _duration(count, seconds),
                "compute_output": _duration(count, 0.0),
            }
            for size, (count, seconds) in batches
        ],
        "memory_usage": [],
    }


def _duration(count: float, seconds: float) -> dict[str, int]:
    return {"count": round(count), "ns": round(seconds * 1e9)}

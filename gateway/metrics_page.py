"""`/metrics`: what the workers have counted, and beside it what live state says, as Prometheus metrics.

Everything here is read when it is scraped. Labels are names that an operator has given (models, versions, signals,
classes of a bundle), never a client's words.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder

from gateway.routing import BUCKETS
from state import State

DETECTOR_STATES = {"quiet": 0, "warning": 1, "drift": 2, "not-enough-data": 3}
INCIDENT_STATES = ("suspected", "open", "acknowledged", "decided", "resolved")
PHASES = ("Idle", "Progressing", "Paused", "Healthy", "Degraded", "Aborted")


def render(workers: Iterable[Metric], state: State, accept: str) -> tuple[bytes, str]:
    """Return the page and its media type, in the format that the scraper accepts."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*workers, *state_families(state)]))
    encoder, media_type = choose_encoder(accept)
    return encoder(registry), media_type


def state_families(state: State) -> list[Metric]:
    """Return what live state says."""
    status, exported = state.get("monitor/status"), state.get("export/status")
    sealed = state.get("sealer/status")
    incidents = [one.body for one in state.list("incidents/")]
    return [
        *_routes(state),
        *_incidents(incidents),
        *_checkpoint(state),
        *([] if status is None else [*_monitor(status.body), *_detectors(status.body["streams"])]),
        *([] if exported is None else _export(exported.body)),
        *([] if sealed is None else _sealer(sealed.body)),
    ]


class _Families:
    """Families that are there already, in the shape of a collector."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _routes(state: State) -> list[Metric]:
    weight = GaugeMetricFamily(
        "snowgate_route_weight_ratio",
        "Share of a model's traffic that a version is given.",
        labels=["model", "version", "variant"],
    )
    bundle = InfoMetricFamily("snowgate_bundle", "Which bundle a version is.", labels=["model", "version"])
    for route in state.list("routes/"):
        for one in route.body["variants"]:
            model = route.body["model"]
            weight.add_metric([model, one["version"], one["variant"]], one["weight"] / BUCKETS)
            bundle.add_metric([model, one["version"]], {"digest": one["digest"]})
    phase = GaugeMetricFamily(
        "snowgate_deployment_phase",
        "1 for the phase that a deployment is in.",
        labels=["environment", "model", "phase"],
    )
    for one in state.list("deployments/"):
        for name in PHASES:
            phase.add_metric([one.body["environment"], one.body["model"], name], float(one.body["phase"] == name))
    rejected = GaugeMetricFamily(
        "snowgate_rejected_bundles", "Bundles that an environment does not start again.", labels=["environment"]
    )
    counts: dict[str, int] = {}
    for one in state.list("rejected/"):
        environment = one.body["environment"]
        counts[environment] = counts.get(environment, 0) + 1
    for environment, count in counts.items():
        rejected.add_metric([environment], count)
    return [weight, bundle, phase, rejected]


def _incidents(incidents: list[dict[str, Any]]) -> list[Metric]:
    family = GaugeMetricFamily("snowgate_incidents", "Incidents, by their state now.", labels=["model", "state"])
    counts: dict[tuple[str, str], int] = {}
    for one in incidents:
        key = (one["model"], one["state"])
        counts[key] = counts.get(key, 0) + 1
    for model in sorted({model for model, _state in counts}):
        for state in INCIDENT_STATES:
            family.add_metric([model, state], counts.get((model, state), 0))
    return [family]


def _checkpoint(state: State) -> list[Metric]:
    newest = state.get("log/checkpoint")
    if newest is None:
        return []
    return [
        GaugeMetricFamily(
            "snowgate_log_checkpoint_timestamp_seconds",
            "When it was last signed how far the log has come.",
            _seconds(newest.body["time"]),
        ),
        GaugeMetricFamily(
            "snowgate_log_checkpoint_lost",
            "Places of the log that were signed once and were not on the disk any more at the last checkpoint.",
            newest.body["lost"],
        ),
    ]


def _monitor(status: dict[str, Any]) -> list[Metric]:
    pages = status["pages"]
    processed = CounterMetricFamily("snowgate_monitor_records", "Records that the monitor has read.")
    processed.add_metric([], status["processed"])
    sent = CounterMetricFamily("snowgate_pages", "Attempts to deliver a page.", labels=["outcome"])
    sent.add_metric(["sent"], pages["sent"])
    sent.add_metric(["failed"], pages["failed"])
    gauges = {
        "snowgate_monitor_lag_seconds": ("How old the newest record that was read is.", status["lag_seconds"]),
        "snowgate_monitor_last_update_timestamp_seconds": ("When the monitor last said so.", _seconds(status["time"])),
    }
    if pages["last_success"] is not None:
        said = ("When a page last arrived.", _seconds(pages["last_success"]))
        gauges["snowgate_page_last_success_timestamp_seconds"] = said
    return [processed, sent, *(GaugeMetricFamily(name, text, value) for name, (text, value) in gauges.items())]


def _export(status: dict[str, Any]) -> list[Metric]:
    events = CounterMetricFamily(
        "snowgate_export_events", "Events that arrived, tries that failed, events set aside.", labels=["outcome"]
    )
    for outcome in ("sent", "failed", "set_aside"):
        events.add_metric([outcome], status[outcome])
    lost = CounterMetricFamily("snowgate_export_lost_records", "Records that were gone before they were exported.")
    lost.add_metric([], status["lost"])
    age = "How old the oldest record is that has yet to be exported."
    behind = "Records that have yet to be exported."
    return [
        events,
        lost,
        GaugeMetricFamily("snowgate_export_lag_seconds", age, status["lag"]["seconds"]),
        GaugeMetricFamily("snowgate_export_lag_records", behind, status["lag"]["records"]),
    ]


def _sealer(status: dict[str, Any]) -> list[Metric]:
    counters = {
        "snowgate_log_removed_segments": ("Segments that retention has removed.", status["removed_segments"]),
        "snowgate_log_removed_records": ("Records in them.", status["removed_records"]),
        "snowgate_log_gap_records": (
            "Records that were removed before a follower had read them.",
            status["gap_records"],
        ),
    }
    gauges = {
        "snowgate_log_sealed_segments": ("Sealed segments.", status["segments"]),
        "snowgate_log_sealed_bytes": ("What they take.", status["segment_bytes"]),
        "snowgate_log_parquet_files": ("Parquet files of the inference table.", status["files"]),
        "snowgate_log_parquet_bytes": ("What they take.", status["file_bytes"]),
        "snowgate_log_lagging_followers": ("Followers that are behind what was removed.", len(status["lagging"])),
    }
    counted = []
    for name, (text, value) in counters.items():
        counted.append(CounterMetricFamily(name, text))
        counted[-1].add_metric([], value)
    return [*counted, *(GaugeMetricFamily(name, text, value) for name, (text, value) in gauges.items())]


def _detectors(streams: list[dict[str, Any]]) -> list[Metric]:
    labels = ["model", "version", "signal", "detector"]
    state = GaugeMetricFamily(
        "snowgate_detector_state", "0 quiet, 1 warning, 2 drift, 3 not enough data.", labels=labels
    )
    evidence = GaugeMetricFamily("snowgate_detector_evidence", "Evidence that a signal has shifted.", labels=labels)
    limit = GaugeMetricFamily("snowgate_detector_limit", "Evidence at which the detector fires.", labels=labels)
    share = GaugeMetricFamily(
        "snowgate_signal_share_ratio",
        "Share of a category among the newest rows, and in the baseline.",
        labels=["model", "version", "signal", "category", "kind"],
    )
    rows = CounterMetricFamily("snowgate_monitor_rows", "Rows that were watched.", labels=["model", "version"])
    for stream in streams:
        served = [stream["model"], stream["version"]]
        rows.add_metric(served, stream["rows"])
        for one in stream["signals"]:
            names = [*served, one["name"], one["detector"]]
            state.add_metric(names, DETECTOR_STATES[one["state"]])
            # JSON has no infinity: what was one is null.
            evidence.add_metric(names, float("inf") if one["evidence"] is None else one["evidence"])
            limit.add_metric(names, one["limit"])
            for kind in ("observed", "expected"):
                if isinstance(one[kind], dict):
                    for category, value in one[kind].items():
                        share.add_metric([*served, one["name"], category, kind], value)
    return [state, evidence, limit, share, rows]


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()

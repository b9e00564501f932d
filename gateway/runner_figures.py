"""Runners as figures: Prometheus metrics for whoever scrapes, and rows made of them for the console.

Labels are a model, a version and the number of a replica, which stays when its process is started again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

STATES = ("starting", "ready", "failed", "parked")


@dataclass(frozen=True, slots=True)
class Replica:
    """What is known of one runner."""

    number: int
    state: str
    engine: str
    device: str
    restarts: int
    memory_bytes: int
    memory_bytes_max: int | None


@dataclass(frozen=True, slots=True)
class Replicas:
    """The runners of one version, and how many it is to have."""

    model: str
    version: str
    wanted: int
    replicas: tuple[Replica, ...] = field(default=())


def runner_families(versions: Iterable[Replicas]) -> list[Metric]:
    """Return the metrics of all runners."""
    served, one = ["model", "version"], ["model", "version", "replica"]
    engine = InfoMetricFamily("snowgate_engine", "Which engine runs a version.", labels=served)
    wanted = GaugeMetricFamily("snowgate_runner_replicas", "Runners that a version is to have.", labels=served)
    ready = GaugeMetricFamily("snowgate_runner_replicas_ready", "Runners that answer.", labels=served)
    state = GaugeMetricFamily("snowgate_runner_state", "1 for the state that a runner is in.", labels=[*one, "state"])
    info = InfoMetricFamily("snowgate_runner", "What a runner runs with.", labels=one)
    restarts = CounterMetricFamily("snowgate_runner_restarts", "Times that a runner was started again.", labels=one)
    memory = GaugeMetricFamily(
        "snowgate_runner_memory_bytes", "Memory of a runner and of all that it has started.", labels=one
    )
    limit = GaugeMetricFamily(
        "snowgate_runner_memory_limit_bytes", "Memory above which a runner is killed.", labels=one
    )
    for version in versions:
        names = [version.model, version.version]
        wanted.add_metric(names, version.wanted)
        up = [each for each in version.replicas if each.state == "ready"]
        ready.add_metric(names, len(up))
        if up:
            engine.add_metric(names, {"engine": up[0].engine})
        for each in version.replicas:
            labels = [*names, str(each.number)]
            for name in STATES:
                state.add_metric([*labels, name], float(each.state == name))
            info.add_metric(labels, {"engine": each.engine, "device": each.device})
            restarts.add_metric(labels, each.restarts)
            memory.add_metric(labels, each.memory_bytes)
            if each.memory_bytes_max is not None:
                limit.add_metric(labels, each.memory_bytes_max)
    return [engine, wanted, ready, state, info, restarts, memory, limit]


def runner_rows(families: Iterable[Metric]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the runners of each version by their numbers: what `runner_families` says, read back."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for family in families:
        for sample in family.samples:
            labels = sample.labels
            if not sample.name.startswith("snowgate_runner_") or "replica" not in labels:
                continue
            rows = found.setdefault((labels["model"], labels["version"]), {})
            row = rows.setdefault(labels["replica"], {"replica": int(labels["replica"]), "memory_bytes_max": None})
            match sample.name:
                case "snowgate_runner_state" if sample.value:
                    row["state"] = labels["state"]
                case "snowgate_runner_info":
                    row |= {"engine": labels["engine"], "device": labels["device"]}
                case "snowgate_runner_restarts_total":
                    row["restarts"] = round(sample.value)
                case "snowgate_runner_memory_bytes":
                    row["memory_bytes"] = round(sample.value)
                case "snowgate_runner_memory_limit_bytes":
                    row["memory_bytes_max"] = round(sample.value)
    return {version: sorted(rows.values(), key=lambda row: row["replica"]) for version, rows in found.items()}

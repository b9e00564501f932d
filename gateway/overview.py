"""All that the console shows, as one JSON document: pure, from the documents of live state.

A model's `badness` decides its place: an open incident before a stopped deployment before a detector's warning before
one that still loads. What is unknown is null, and every figure has its sample size beside it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from gateway.routing import BUCKETS
from gateway.traffic import Traffic

STALE_SECONDS = 5.0
"""The monitor writes its status once a second; five without one are not chance."""
CHECKPOINT_SECONDS = 180.0
"""A log in which nothing happens is signed once a minute: a checkpoint that is older was not taken."""
OBSERVED_ROWS = 1_000
"""What the monitor reports as observed is over this many of the newest rows."""
OPEN_STATES = ("open", "acknowledged", "decided")
"""An incident that still asks for something, or whose effect is not seen yet; `suspected` ones wake nobody."""
DETECTOR_ORDER = {"drift": 0, "warning": 1, "not-enough-data": 2, "quiet": 3}


def overview_json(
    time: str,
    rollouts: Sequence[Mapping[str, Any]],
    monitor: Mapping[str, Any] | None,
    incidents: Sequence[Mapping[str, Any]],
    traffic: Traffic | None,
    checkpoint: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the overview at `time`.

    `rollouts` are as `rollout_json` gives them, `monitor` is the body of monitor/status, `checkpoint` that of
    log/checkpoint.
    """
    waiting = [dict(one) for one in incidents if one["state"] in OPEN_STATES]
    suspected = [dict(one) for one in incidents if one["state"] == "suspected"]
    streams = {} if monitor is None else {(one["model"], one["version"]): one for one in monitor["streams"]}
    models = [
        _model(rollout, streams, [one for one in waiting if one["model"] == rollout["model"]], traffic)
        for rollout in rollouts
    ]
    return {
        "time": time,
        "monitor": _monitor(time, monitor),
        "checkpoint": _checkpoint(time, checkpoint),
        "pages": None if monitor is None else monitor.get("pages"),
        "models": sorted(models, key=lambda one: (-one["badness"], one["model"])),
        "incidents": waiting,
        "suspected": suspected,
    }


def _monitor(time: str, monitor: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Say how far behind the monitor is, and how old its own word for that is."""
    if monitor is None:
        return None
    age = _seconds_between(monitor["time"], time)
    return {
        "time": monitor["time"],
        "age_seconds": max(0.0, age),
        "stale": age > STALE_SECONDS,
        "lag_seconds": monitor.get("lag_seconds"),
        "lag_records": monitor.get("lag_records"),
        "processed": monitor.get("processed"),
    }


def _checkpoint(time: str, checkpoint: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Say how old the newest signature of the log is, and what was missing when it was made."""
    if checkpoint is None:
        return None
    age = _seconds_between(checkpoint["time"], time)
    return {
        "time": checkpoint["time"],
        "age_seconds": max(0.0, age),
        "stale": age > CHECKPOINT_SECONDS,
        "lost": checkpoint["lost"],
    }


def _seconds_between(one: str, other: str) -> float:
    return (datetime.fromisoformat(other) - datetime.fromisoformat(one)).total_seconds()


def _model(
    rollout: Mapping[str, Any],
    streams: Mapping[tuple[str, str], Mapping[str, Any]],
    incidents: list[dict[str, Any]],
    traffic: Traffic | None,
) -> dict[str, Any]:
    actual = rollout["actual"]
    variants = [] if actual is None else actual["variants"]
    versions = [_version(rollout, one, streams.get((rollout["model"], one["version"])), traffic) for one in variants]
    rates = [one["traffic"]["rate"] for one in versions if one["traffic"] and one["traffic"]["rate"] is not None]
    return {
        "model": rollout["model"],
        "environment": rollout["environment"],
        "badness": _badness(rollout, versions, incidents),
        "phase": rollout["phase"],
        "message": rollout["message"],
        "rate": sum(rates) if rates else None,
        "versions": versions,
        "incidents": [one["id"] for one in incidents],
        "rollout": dict(rollout),
    }


def _version(
    rollout: Mapping[str, Any], variant: Mapping[str, Any], stream: Mapping[str, Any] | None, traffic: Traffic | None
) -> dict[str, Any]:
    model = rollout["model"]
    detectors = [] if stream is None else [dict(one) for one in stream["signals"]]
    return {
        "variant": variant["variant"],
        "version": variant["version"],
        "digest": variant["digest"],
        "weight": variant["weight"] / BUCKETS,
        "traffic": None if traffic is None else traffic.of(model, variant["version"]),
        "runners": _runners(rollout, variant, traffic),
        "rows": None if stream is None else stream["rows"],
        "classes": [] if stream is None else _classes(detectors, stream["rows"]),
        "detectors": sorted(detectors, key=lambda one: (DETECTOR_ORDER.get(one["state"], 9), one["name"])),
    }


def _runners(rollout: Mapping[str, Any], variant: Mapping[str, Any], traffic: Traffic | None) -> dict[str, Any] | None:
    """Return how many runners a version is to have, how many answer, and what is known of each; None: no status yet."""
    status = next((one for one in rollout["runners"] if one["digest"] == variant["digest"]), None)
    if status is None:
        return None
    known = [] if traffic is None else traffic.runners.get((rollout["model"], variant["version"]), [])
    return {"wanted": status["replicas"], "ready": status["ready"], "replicas": known}


def _classes(detectors: Sequence[Mapping[str, Any]], rows: int) -> list[dict[str, Any]]:
    """Return each categorical signal's shares, observed beside expected; `class` comes first."""
    found: dict[str, dict[str, Any]] = {}
    for one in detectors:
        if isinstance(one.get("observed"), Mapping) and isinstance(one.get("expected"), Mapping):
            observed, expected = one["observed"], one["expected"]
            names = sorted(observed.keys() | expected.keys(), key=_by_number)
            found.setdefault(
                one["name"],
                {
                    "signal": one["name"],
                    "rows": min(rows, OBSERVED_ROWS),
                    "baseline_rows": one.get("baseline_rows"),
                    "shares": [
                        {"class": name, "observed": observed.get(name, 0.0), "expected": expected.get(name, 0.0)}
                        for name in names
                    ],
                },
            )
    return sorted(found.values(), key=lambda one: (one["signal"] != "class", one["signal"]))


def _badness(rollout: Mapping[str, Any], versions: Sequence[Mapping[str, Any]], incidents: Sequence[Any]) -> int:
    states = {one["state"] for version in versions for one in version["detectors"]}
    if any(one["state"] == "open" for one in incidents):
        return 100
    if incidents:
        return 80
    if rollout["phase"] == "Degraded":
        return 60
    if "drift" in states:
        return 50
    if rollout["phase"] == "Aborted":
        return 40
    if "warning" in states:
        return 30
    return 10 if rollout["phase"] in ("Progressing", "Paused") else 0


def _by_number(name: str) -> tuple[int, float, str]:
    """Classes in the order of their numbers, others after them by name."""
    return (0, float(name), "") if name.removeprefix("-").isdigit() else (1, 0.0, name)

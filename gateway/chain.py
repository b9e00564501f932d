"""The chain from one answer to what stands behind it: route, bundle, weights, code, data, environment and people.

It only says what was looked at when it was asked for: whether the bundle's bytes are still whole, whether the training
data still lies where it lay and is still the same, who has signed the bundle with a key that this home trusts, and
what the monitors knew of the model when the answer was given.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bundles.bundle import Bundle, open_bundle
from bundles.data import whereabouts
from bundles.errors import BundleError, CorruptBundle
from bundles.home import Home
from bundles.manifest import WEIGHT_TYPE
from bundles.refs import GitRefs, Ref
from bundles.reproduction.statement import last
from gateway.prediction import bundle_json
from monitors.log.record import Record
from state import State

REF_HISTORY_MAX = 1_000
"""Moves of one environment's ref that are looked through: years of daily deployments, 0.2 ms each."""


def chain(record: Record, home: Home, refs: GitRefs, state: State) -> dict[str, Any] | None:
    """Walk from a record to all that stands behind it; None for one that no bundle answered.

    The keys are in the order of the walk. Of a bundle that can't be read there are those that need none of its bytes.
    """
    if record.bundle is None:
        return None
    known = {"route": _route(record), "deployed": _deployed(record, refs), "monitors": _monitors(record, state)}
    try:
        bundle = open_bundle(home.store(), record.bundle)
    except BundleError as error:
        return known | {"bundle": {"digest": record.bundle}, "intact": False, "problem": str(error)}
    shown = bundle_json(bundle, home, refs)
    run = bundle.run()
    return {
        **known,
        "bundle": shown,
        **_intact(bundle),
        "weights": _weights(bundle),
        "code": shown["code"],
        "data": [one | {"bytes": whereabouts(bundle, one, home.data())} for one in shown["data"]],
        "environment": shown["environment"],
        "trained": {
            "by": shown["authors"],
            "host": (run.get("who") or {}).get("host"),
            "started": run.get("started"),
            "finished": run.get("finished"),
            "command": run.get("command"),
        },
        "reproduced": last(shown["reproductions"]),
        "signed": shown["signatures"],
    }


def _route(record: Record) -> dict[str, Any]:
    """Say why this version answered."""
    return {
        "revision": record.route_revision,
        "rollout": record.rollout,
        "variant": record.variant,
        "reason": record.reason,
        "probability": record.probability,
    }


def _weights(bundle: Bundle) -> list[dict[str, Any]]:
    return [
        {"path": one.path, "digest": one.digest, "size": one.size}
        for one in bundle.manifest.layers
        if one.media_type == WEIGHT_TYPE
    ]


def _monitors(record: Record, state: State) -> dict[str, Any]:
    """Tell what was known of the model when it answered: its incidents that were under way, and its baseline.

    A baseline that somebody decided is told by its incident; one that was decided later is not what was in force then,
    and what was in force before it is no longer known but by the incidents.
    """
    incidents = [one.body for one in state.list("incidents/") if one.body["model"] == record.model]
    then = [(body, _state_at(body, record.time)) for body in incidents]
    return {
        "incidents": [
            {"id": body["id"], "state": found, "summary": body["summary"], "opened": body["opened"]}
            for body, found in then
            if found not in (None, "resolved")
        ],
        "baseline": _baseline(record, state),
    }


def _baseline(record: Record, state: State) -> dict[str, Any]:
    nobody = {"by": None, "reason": None, "time": None}
    decided = state.get(f"baselines/{record.model}/{record.version}")
    if decided is None:
        return {"source": "bundle", **nobody}
    if _seconds(decided.body["time"]) > record.time:
        return {"source": "unknown: another one was decided since", **nobody}
    source = decided.body["baseline"]["source"]
    return {"source": source, "by": decided.body["actor"]} | {name: decided.body[name] for name in ("reason", "time")}


def _state_at(incident: Mapping[str, Any], moment: float) -> str | None:
    """Return the state that an incident was in at a moment (seconds since the epoch); None before it began."""
    before = [one["state"] for one in incident["history"] if _seconds(one["time"]) <= moment]
    return before[-1] if before else None


def _intact(bundle: Bundle) -> dict[str, Any]:
    try:
        bundle.store.verify(bundle.digest)
    except CorruptBundle as error:
        return {"intact": False, "problem": str(error)}
    return {"intact": True, "problem": None}


def _deployed(record: Record, refs: GitRefs) -> list[dict[str, Any]]:
    """Tell who moved an environment's ref to this bundle, newest first."""
    found = []
    for ref in refs.list("refs/environments/"):
        if ref.name.rpartition("/")[2] == record.model:
            history = refs.history(ref.name, REF_HISTORY_MAX)
            found += [_deployment(one, record) for one in history if one.digest == record.bundle]
    return found


def _deployment(ref: Ref, record: Record) -> dict[str, Any]:
    return {
        "environment": ref.name.split("/")[2],
        "by": ref.actor,
        "time": ref.time,
        "reason": ref.reason,
        "canary": ref.details.get("canary"),
        "before_prediction": _seconds(ref.time) <= record.time,
    }


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()

"""Where a deployment stands: what is desired, what is, and why they differ. Pure, from the documents that say so."""

from collections.abc import Mapping, Sequence
from typing import Any

from bundles.refs import Ref
from gateway.routing import BUCKETS
from state import Document

UNSEEN = "no gateway has taken it up yet; if this stays, start one: `snowgate serve`"


def deployment_json(
    model: str,
    environment: str,
    ref: Ref | None,
    route: Document | None,
    status: Document | None,
    rejected: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Put together the ref, the route, and control's status of moving the one to the other.

    `settled` says whether control has gone as far as it will go without another word; `difference` is None when what
    is desired is what is. `runners` are the versions that are loaded, with the replicas that are wanted and ready.
    """
    desired = None
    if ref is not None and ref.digest is not None:
        desired = {
            "version": ref.details.get("version"),
            "digest": ref.digest,
            "canary": ref.details.get("canary"),
            "actor": ref.actor,
            "reason": ref.reason,
            "time": ref.time,
            "change": ref.commit,
        }
    actual = None
    if route is not None:
        body = route.body
        actual = {"rollout": body["rollout"], "revision": route.revision, "time": body.get("time")}
        actual |= {"variants": body["variants"], "previous": body.get("previous", [])}
    phase, message, settled = _stands(desired, status)
    rejected_digests = {one["digest"] for one in rejected}
    if desired is not None and desired["digest"] in rejected_digests and phase in ("Paused", "Healthy"):
        message = f"version {desired['version']} was rejected; control has not taken it off the route yet"
        phase, settled = "Progressing", False
    return {
        "model": model,
        "environment": environment,
        "desired": desired,
        "actual": actual,
        "phase": phase,
        "message": message,
        "settled": settled,
        "difference": None if _same(desired, actual) else message,
        "runners": [] if status is None else status.body.get("runners", []),
        "rejected": [dict(one) for one in rejected],
        "time": None if status is None else status.body.get("time"),
    }


def rollout_json(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deployment with its way as `steps` (done, current, waiting, stopped) and the commands that go on."""
    desired, phase = deployment["desired"], deployment["phase"]
    running = desired is not None and desired["canary"] is not None and phase in ("Paused", "Progressing")
    model, flags = deployment["model"], f" --environment {deployment['environment']}"
    commands = [f"snowgate rollout promote {model}{flags}", f"snowgate rollout abort {model}{flags} --reason …"]
    return {**deployment, "running": running, "steps": _steps(desired, phase), "commands": commands if running else []}


def _stands(desired: Mapping[str, Any] | None, status: Document | None) -> tuple[str, str, bool]:
    if status is None:
        return ("Idle", "nothing is deployed", True) if desired is None else ("Progressing", UNSEEN, False)
    body = status.body
    seen = (body.get("desired") or {}).get("change") == (None if desired is None else desired["change"])
    if not seen and body["phase"] != "Aborted":
        # Control's word is about an earlier commit of the ref. (After an abort control itself moves the ref back.)
        return "Progressing", UNSEEN, False
    return body["phase"], body["message"], body["phase"] != "Progressing"


def _same(desired: Mapping[str, Any] | None, actual: Mapping[str, Any] | None) -> bool:
    weights = {} if actual is None else {one["digest"]: one["weight"] for one in actual["variants"]}
    if desired is None:
        return not weights
    wanted = BUCKETS if desired["canary"] is None else desired["canary"] * BUCKETS // 100
    return weights.get(desired["digest"]) in (wanted, BUCKETS)


def _steps(desired: Mapping[str, Any] | None, phase: str) -> list[dict[str, str]]:
    if desired is None:
        return []
    canary = desired["canary"]
    names = [f"load version {desired['version']}"]
    names += [] if canary is None else [f"canary at {canary} %, until promoted"]
    names += ["all traffic"]
    at = {"Progressing": 0, "Degraded": 0, "Aborted": 0, "Paused": 1, "Healthy": len(names)}.get(phase, 0)
    if phase == "Aborted" and canary is not None:
        at = 1
    states = ["done"] * at + ["stopped" if phase in ("Degraded", "Aborted") else "current"]
    states += ["waiting"] * len(names)
    return [{"name": name, "state": state} for name, state in zip(names, states, strict=False)]

"""What to do next about one model: pure, no clock, no network, no process.

`decide` compares what is desired (the environment's ref) with what is (the route, the runners, the rejections) and
returns the whole next step: which bundles must run, the route if it changes, where the ref must go back to, and one
sentence that says where things stand. It is called again after every change, so each step is small and a crash
between two of them costs nothing: what was not done is decided again.

    desired        runner     route has            →  route                            phase
    none           -          anything             →  empty                            Idle
    D, rejected    -          D as canary          →  stable alone; ref moves back     Aborted
    D, rejected    -          D as stable          →  the version before (once ready)  Aborted
    D              starting   anything             →  as it is                         Progressing
    D              failed     D as stable          →  as it is                         Degraded
    D              failed     anything else        →  without D                        Degraded
    D              ready      nothing              →  D takes all                      Healthy
    D, canary n %  ready      S as stable          →  S and D, D with n %              Paused
    D              ready      S as stable          →  D takes all, S is the previous   Healthy
    D              ready      D as stable          →  D takes all                      Healthy
    D              starting   D as stable          →  D takes all, once it can         Progressing
    D              failed     D as stable          →  D takes all, and can't           Degraded
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.routing import BUCKETS

PREVIOUS_KEPT = 3
"""Versions that a route remembers for going back; the newest of them stays warm."""

RunnerState = Literal["absent", "starting", "ready", "failed"]
Phase = Literal["Idle", "Progressing", "Paused", "Healthy", "Degraded", "Aborted"]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A version and the digest behind it."""

    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Desired:
    """What the environment's ref says: a bundle, and the percentage that it may have while it is a canary."""

    bundle: Bundle
    canary: int | None
    change: str


@dataclass(frozen=True, slots=True)
class Actual:
    """The route as it is; a model without one has neither stable nor canary."""

    rollout: str = ""
    stable: Bundle | None = None
    canary: Bundle | None = None
    canary_weight: int = 0
    previous: tuple[Bundle, ...] = ()

    @staticmethod
    def parse(route: Mapping[str, Any] | None) -> "Actual":
        """Read a `routes/<model>` document."""
        if route is None:
            return Actual()
        by_variant = {one["variant"]: one for one in route["variants"]}
        stable, canary = by_variant.get("stable"), by_variant.get("canary")
        return Actual(
            rollout=route["rollout"],
            stable=None if stable is None else Bundle(stable["version"], stable["digest"]),
            canary=None if canary is None else Bundle(canary["version"], canary["digest"]),
            canary_weight=0 if canary is None else canary["weight"],
            previous=tuple(Bundle(one["version"], one["digest"]) for one in route.get("previous", ())),
        )

    def variants(self) -> list[dict[str, Any]]:
        """Write the `variants` of a route document."""
        found = []
        if self.stable is not None:
            weight = BUCKETS - self.canary_weight
            found.append(_variant("stable", self.stable, weight))
        if self.canary is not None:
            found.append(_variant("canary", self.canary, self.canary_weight))
        return found


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step. `route` is what the route must be (it may be what it is); `ref_back` where the ref must go.

    `run` are the digests that must run; `warm` is the one among them that gets no traffic and is there for going back.
    """

    run: frozenset[str]
    route: Actual
    phase: Phase
    message: str
    ref_back: Bundle | None = None
    warm: str | None = None


def decide(
    model: str,
    desired: Desired | None,
    actual: Actual,
    rejected: frozenset[str],
    runners: Mapping[str, tuple[RunnerState, str]],
) -> Decision:
    """Decide the next step for one model; `runners` maps a digest to its state and a reason: why it
    failed, or what is being done before it starts.
    """
    if desired is None:
        return Decision(frozenset(), Actual(previous=_remember(actual, actual.stable)), "Idle", "nothing is deployed")
    if actual.stable is not None and actual.stable.digest in rejected:
        return _replace_rejected_stable(desired, actual, rejected, runners)
    wanted = desired.bundle
    without_canary = Actual(actual.rollout, actual.stable, None, 0, actual.previous)
    if wanted.digest in rejected:
        message = f"version {wanted.version} was rejected; `snowgate deploy {model}@{wanted.version} --again` allows it"
        return _decision(without_canary, "Aborted", message, ref_back=actual.stable)
    state, reason = runners.get(wanted.digest, ("absent", ""))
    if actual.stable == wanted:
        if state == "failed":
            message = f"version {wanted.version} has all traffic, but can't be served: {reason}"
            return _decision(without_canary, "Degraded", message)
        if state != "ready":
            return _decision(
                without_canary, "Progressing", f"version {wanted.version} has all traffic, and is {reason or 'loading'}"
            )
        return _decision(without_canary, "Healthy", f"version {wanted.version} has all traffic")
    if state == "failed":
        kept = "nothing is served" if actual.stable is None else f"version {actual.stable.version} keeps all traffic"
        # Its runner stays on the list, though it does not run: a failure that is forgotten would be tried again.
        message = f"version {wanted.version} can't be served: {reason}; {kept}"
        return _decision(without_canary, "Degraded", message, also=wanted)
    if state != "ready":
        return _decision(actual, "Progressing", f"version {wanted.version} is {reason or 'loading'}", also=wanted)
    if actual.stable is None or desired.canary is None:
        previous = _remember(actual, actual.stable)
        route = Actual(f"{model}-{wanted.version}-{desired.change[:8]}", wanted, None, 0, previous)
        return _decision(route, "Healthy", f"version {wanted.version} has all traffic")
    same = actual.canary == wanted and bool(actual.rollout)
    rollout = actual.rollout if same else f"{model}-{wanted.version}-{desired.change[:8]}"
    route = Actual(rollout, actual.stable, wanted, desired.canary * BUCKETS // 100, actual.previous)
    message = (
        f"version {wanted.version} has {desired.canary} % as canary, version {actual.stable.version} the rest; "
        f"`snowgate rollout promote {model}` or `snowgate rollout abort {model}` goes on"
    )
    return _decision(route, "Paused", message)


def _replace_rejected_stable(
    desired: Desired, actual: Actual, rejected: frozenset[str], runners: Mapping[str, tuple[RunnerState, str]]
) -> Decision:
    """The version that has the traffic was rejected: go back to the newest one that was not, else on to a new one."""
    assert actual.stable is not None, "only called with a stable version"
    candidates = [one for one in (*actual.previous, desired.bundle) if one.digest not in rejected]
    moves_ref = desired.bundle.digest in rejected
    for candidate in candidates:
        state, _reason = runners.get(candidate.digest, ("absent", ""))
        if state == "failed":
            continue
        if state != "ready":
            message = f"version {actual.stable.version} was rejected; version {candidate.version} is loading"
            return _decision(actual, "Progressing", message, also=candidate)
        previous = tuple(one for one in actual.previous if one not in (candidate, actual.stable))
        route = Actual(f"{actual.rollout}-back", candidate, None, 0, previous)
        message = f"version {actual.stable.version} was rejected; version {candidate.version} has all traffic now"
        return _decision(route, "Aborted", message, ref_back=candidate if moves_ref else None)
    message = (
        f"version {actual.stable.version} was rejected, but there is no other to go back to: it keeps the traffic "
        "until another version is deployed"
    )
    return _decision(Actual(actual.rollout, actual.stable, None, 0, actual.previous), "Degraded", message)


def _decision(
    route: Actual, phase: Phase, message: str, *, ref_back: Bundle | None = None, also: Bundle | None = None
) -> Decision:
    run = {one.digest for one in (route.stable, route.canary, also) if one is not None}
    warm = next((one.digest for one in route.previous[:1] if one.digest not in run), None)
    return Decision(frozenset(run | {warm} if warm else run), route, phase, message, ref_back, warm)


def _remember(actual: Actual, leaving: Bundle | None) -> tuple[Bundle, ...]:
    if leaving is None:
        return actual.previous
    return (leaving, *(one for one in actual.previous if one != leaving))[:PREVIOUS_KEPT]


def _variant(variant: str, bundle: Bundle, weight: int) -> dict[str, Any]:
    return {"variant": variant, "version": bundle.version, "digest": bundle.digest, "weight": weight}

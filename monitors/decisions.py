"""What follows from what people decided, as far as it is the monitor's; routes are control's.

    world-changed    what was predicted since the onset becomes the baseline of every version that shifted
    model-broken     control rejects the version; when it has left the route, the incident is over
    all others       the incident is over, and the detectors begin anew

Whatever was decided, a shift that lasts against the baseline then in force opens a new incident.
"""

import logging
from datetime import datetime

from monitors import baselines
from monitors.desk import Desk
from monitors.incidents import TRANSITIONS, Body, cause_of, moved
from monitors.log.reader import LogReader
from monitors.pages import rfc3339
from monitors.versions import Versions
from state import Change, State

log = logging.getLogger("snowgate.monitor")

SILENT_SECONDS = 60.0
"""A version that left the route may still answer what was on its way: the longest deadline of most clients."""


class Decisions:
    """Carries out decisions on the desk; `effect` may be called at any time, and does what can be done by then."""

    def __init__(
        self, state: State, reader: LogReader, desk: Desk, versions: Versions, environment: str, batch_seconds: float
    ) -> None:
        self._state = state
        self._reader = reader
        self._desk = desk
        self._versions = versions
        self._environment = environment
        self._batch_seconds = batch_seconds

    def effect(self, now: float) -> list[Change]:
        """Act on every decision; return what must be committed with the desk."""
        changes: list[Change] = []
        for body in self._desk.all():
            if body["state"] == "resolved":
                continue
            if body["state"] != "decided":
                self._end_unserved(body, now)
            elif body["decision"]["verdict"] == "world-changed" and cause_of(body) == "shift":
                changes += self._rebase(body, now)
            elif body["decision"]["verdict"] == "model-broken":
                self._await_rollback(body, now)
            else:
                self.resolve(body, "effect", f"decided: {body['decision']['verdict']}", now)
        return changes

    def resolve(self, body: Body, event: str, reason: str, now: float) -> None:
        """End an incident; the model's detectors begin anew."""
        self._versions.restart(body["model"], {})
        self._move(body, event, reason, now)

    def _move(self, body: Body, event: str, reason: str, now: float) -> None:
        def step(newest: Body) -> Body:
            if (newest["state"], event) not in TRANSITIONS:
                return newest  # Somebody decided meanwhile: that comes first.
            return moved(newest, event, actor="monitor", reason=reason, time=rfc3339(now))

        self._desk.change(body["id"], step)
        log.info("incident %s resolved: %s", body["id"], reason)

    def _rebase(self, body: Body, now: float) -> list[Change]:
        """The world has changed: what was seen since the onset is how it is now."""
        # The onset is the beginning of the first batch that was shifted: until its end, rows may be of the old world.
        decision, onset = body["decision"], seconds_of(body["onset"]) + self._batch_seconds
        source = f"live since {body['onset']} (incident {body['id']})"
        fresh, changes, short = {}, [], {}
        for version in sorted({one["version"] for one in body["signals"]}):
            stream = self._versions.get(body["model"], version)
            if stream is None:
                continue
            found = baselines.since(self._reader, body["model"], version, onset, source)
            if found.rows < baselines.ROWS_MIN:
                # The versions that page must have a new baseline; one that only warned keeps its own.
                if version in body["versions"]:
                    short[version] = found.rows
                continue
            fresh[version] = found
            changes.append(
                baselines.change(
                    stream.model,
                    version,
                    stream.bundle,
                    found,
                    incident=body["id"],
                    actor=decision["actor"],
                    reason=decision["reason"],
                    time=rfc3339(now),
                )
            )
        if short or not fresh:
            counted = ", ".join(f"version {version} has {rows}" for version, rows in short.items()) or "there are none"
            self._say_waiting(body, f"a new baseline takes {baselines.ROWS_MIN} rows since the onset; {counted} so far")
            return []
        self._versions.restart(body["model"], fresh)
        said = ", ".join(f"version {version}: {found.rows} rows" for version, found in fresh.items())
        self._move(body, "effect", f"new baseline from the data since the onset ({said})", now)
        return changes

    def _say_waiting(self, body: Body, sentence: str) -> None:
        if body["evidence"].get("waiting") != sentence:
            self._desk.change(
                body["id"], lambda newest: newest | {"evidence": newest["evidence"] | {"waiting": sentence}}
            )

    def _await_rollback(self, body: Body, now: float) -> None:
        """The model is broken: control rejects it and takes it out of the route; then the incident is over."""
        rejected = self._state.get(f"rejected/{self._environment}/{body['bundle'].removeprefix('sha256:')}")
        if rejected is not None and not self._routed(body):
            self.resolve(body, "effect", f"version {body['version']} was rolled back and rejected", now)

    def _end_unserved(self, body: Body, now: float) -> None:
        """The version was replaced without a decision, and has been silent since: there is nothing left to decide."""
        if self._state.get(f"routes/{body['model']}") is None or self._routed(body):
            return
        stream = self._versions.get(body["model"], body["version"])
        last = seconds_of(body["updated"]) if stream is None else stream.heard
        if now > last + SILENT_SECONDS:
            self.resolve(body, "quiet", f"version {body['version']} is no longer served", now)

    def _routed(self, body: Body) -> bool:
        route = self._state.get(f"routes/{body['model']}")
        return route is not None and any(one["digest"] == body["bundle"] for one in route.body["variants"])


def seconds_of(text: str) -> float:
    """Read an RFC 3339 time in UTC.

    >>> seconds_of("2023-11-14T22:13:20.250000Z")
    1700000000.25
    """
    return datetime.fromisoformat(text).timestamp()

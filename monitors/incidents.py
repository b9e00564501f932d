"""Incidents: what shifted, since when, and what a human decided about it.

The life of one is this table; nothing else changes a state, and there is no clock in it:

    suspected     ─open─▶ open            evidence beyond the limit of a pager: a human is paged
    suspected     ─quiet─▶ resolved       a warning that went away
    open          ─acknowledge─▶ acknowledged
    open, acknowledged ─decide─▶ decided  the world has changed, or the model is broken, or neither
    open, acknowledged ─quiet─▶ resolved  the shift went away by itself; the story is kept
    decided       ─decide─▶ decided       on second thoughts, while the first has not been done yet
    decided       ─effect─▶ resolved      what was decided has been done

The monitor writes incidents, people acknowledge and decide at the same time: every change is a compare-and-swap.

An incident's `cause` is `shift`, or `runner` when a runner died too often to be started again: nothing shifted then,
and it is over (`quiet`) when the version is served again. With the cause `log` it is about no model, but about the
prediction log that can't be written: nothing is decided about it, and it is over when the log is written again. The
same holds for `retention`: records had to go before a follower had read them, and it is over when none lags any more.
"""

from collections.abc import Callable
from typing import Any

from state import Change, Conflict, State

PREFIX = "incidents/"
LOG_CAUSES = ("log", "retention")
TRANSITIONS: dict[tuple[str, str], str] = {
    ("suspected", "open"): "open",
    ("suspected", "quiet"): "resolved",
    ("open", "acknowledge"): "acknowledged",
    ("open", "decide"): "decided",
    ("open", "quiet"): "resolved",
    ("acknowledged", "decide"): "decided",
    ("acknowledged", "quiet"): "resolved",
    ("suspected", "decide"): "decided",
    ("decided", "decide"): "decided",
    ("decided", "effect"): "resolved",
}
VERDICTS = ("world-changed", "model-broken", "data-pipeline", "expected-event", "false-alarm")
ACTIVE = ("suspected", "open", "acknowledged", "decided")

Body = dict[str, Any]


class IncidentError(Exception):
    """No such incident, or it can't go that way from its state."""


def moved(body: Body, event: str, *, actor: str, reason: str, time: str) -> Body:
    """Return an incident after an event; the one given stays as it is.

    Raises:
        IncidentError: the table has no such way; nothing happens.
    """
    following = TRANSITIONS.get((body["state"], event))
    if following is None:
        ways = sorted(name for state, name in TRANSITIONS if state == body["state"])
        can = f"it can: {', '.join(ways)}" if ways else "nothing changes it any more"
        msg = f"incident {body['id']}: is {body['state']}, and can't {event}; {can}"
        raise IncidentError(msg)
    entry = {"time": time, "state": following, "actor": actor, "reason": reason}
    return body | {"state": following, "updated": time, "history": [*body["history"], entry]}


def cause_of(body: Body) -> str:
    """Return what an incident is about: `shift`, `runner`, `log` or `retention`."""
    return str(body.get("cause", "shift"))


class Incidents:
    """What people do with incidents, on any store of live state."""

    refusal: type[Exception] = IncidentError

    def __init__(self, state: State, now: Callable[[], str]) -> None:
        self._state = state
        self._now = now

    def get(self, incident_id: str) -> Body:
        """Return an incident. Raises IncidentError."""
        document = self._state.get(PREFIX + incident_id)
        if document is None:
            msg = f"incident {incident_id!r}: unknown; `snowgate incident list` shows all"
            raise IncidentError(msg)
        return document.body

    def acknowledge(self, incident_id: str, actor: str, reason: str) -> Body:
        """Say that somebody is looking at it. Raises IncidentError."""
        time = self._now()
        return self._change(incident_id, lambda body: moved(body, "acknowledge", actor=actor, reason=reason, time=time))

    def decide(self, incident_id: str, verdict: str, actor: str, reason: str) -> Body:
        """Decide about it. Raises IncidentError."""
        if verdict not in VERDICTS:
            msg = f"verdict {verdict!r}: expected one of {', '.join(VERDICTS)}"
            raise IncidentError(msg)
        if not reason.strip():
            msg = "reason: empty; say in a sentence why, others will read it: --reason '…'"
            raise IncidentError(msg)
        if cause_of(self.get(incident_id)) in LOG_CAUSES:
            msg = f"incident {incident_id}: is about the log, not about a model; it ends when all is well with the log"
            raise IncidentError(msg)
        time = self._now()
        decision = {"verdict": verdict, "reason": reason, "actor": actor, "time": time}

        def change(body: Body) -> Body:
            return moved(body, "decide", actor=actor, reason=f"{verdict}: {reason}", time=time) | {"decision": decision}

        return self._change(incident_id, change)

    def _change(self, incident_id: str, change: Callable[[Body], Body]) -> Body:
        while True:
            document = self._state.get(PREFIX + incident_id)
            if document is None:
                return self.get(incident_id)
            body = change(document.body)
            try:
                self._state.commit(Change(document.key, body, document.revision))
            except Conflict:
                continue
            return body

    def list(self, model: str | None = None) -> list[Body]:
        """Return all incidents, newest first."""
        found = [one.body for one in self._state.list(PREFIX) if model is None or one.body["model"] == model]
        return sorted(found, key=lambda body: str(body["opened"]), reverse=True)

"""Outages: a version whose runner died so often that it is not started again, told as an incident.

Control sees it, and calls `parked` and `served`; the words, the page and the life of the incident are the monitors'.
Both may be called again and again: what is told is not told twice.
"""

from collections.abc import Callable

from monitors.incidents import ACTIVE, PREFIX, Body, cause_of, moved
from monitors.pages import outbox_change, page
from state import Change, Conflict, Document, State


class Outages:
    """The incidents about runners, in one home's live state."""

    def __init__(self, state: State, console_url: str, environment: str, now: Callable[[], str]) -> None:
        self._state = state
        self._console_url = console_url
        self._environment = environment
        self._now = now

    def parked(self, model: str, version: str, bundle: str, reason: str, said: str) -> None:
        """Open an incident, and page: `reason` is a sentence, `said` the end of the runner's standard error."""
        if self._active(bundle) is not None:
            return
        time = self._now()
        name = f"{model}-{time[:19].replace('-', '').replace(':', '').replace('T', '-')}-runner"
        body: Body = {
            "id": name,
            "cause": "runner",
            "dedup_key": f"snowgate/{self._environment}/{name}",
            "model": model,
            "version": version,
            "versions": [version],
            "bundle": bundle,
            "state": "open",
            "onset": time,
            "opened": time,
            "updated": time,
            "signals": [],
            "summary": f"{model} version {version}: {reason}",
            "evidence": {"reason": reason, "said": said},
            "rows_since_onset": 0,
            "likely": None,
            "likely_because": "",
            "decision": None,
            "history": [{"time": time, "state": "open", "actor": "control", "reason": reason}],
        }
        try:
            self._state.commit(Change(PREFIX + name, body, 0), outbox_change(page(body, "open", self._console_url)))
        except Conflict:
            return  # One of the same second is there.

    def served(self, bundle: str) -> None:
        """End what was told of a version, if anything was: all of its runners are up."""
        found = self._active(bundle)
        if found is None or found.body["state"] == "decided":
            return  # What was decided is carried out by the monitor.
        body = moved(found.body, "quiet", actor="control", reason="its runners are up again", time=self._now())
        self._state.commit(
            Change(found.key, body, found.revision), outbox_change(page(body, "resolved", self._console_url))
        )

    def _active(self, bundle: str) -> Document | None:
        found = (one for one in self._state.list(PREFIX) if one.body["state"] in ACTIVE)
        return next((one for one in found if (one.body["bundle"], cause_of(one.body)) == (bundle, "runner")), None)

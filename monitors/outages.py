"""Outages: what no detector sees, told as incidents: a version whose runner is given up, a log that can't be written.

Control sees it, and calls; the words, the page and the life of the incident are the monitors'. Everything may be called
again and again: what is told is not told twice.
"""

from collections.abc import Callable
from typing import Any

from monitors.incidents import ACTIVE, PREFIX, Body, cause_of, moved
from monitors.pages import outbox_change, page
from state import Change, Conflict, Document, State

NO_MODEL = "_log"
"""What an incident about the log has in the place of a model's name; no model can be called so."""


class Outages:
    """The incidents about runners and about the log, in one home's live state."""

    def __init__(self, state: State, console_url: str, environment: str, now: Callable[[], str]) -> None:
        self._state = state
        self._console_url = console_url
        self._environment = environment
        self._now = now

    def parked(self, model: str, version: str, bundle: str, reason: str, said: str) -> None:
        """Open an incident, and page: `reason` is a sentence, `said` the end of the runner's standard error."""
        about = {"model": model, "version": version, "versions": [version], "bundle": bundle}
        summary = f"{model} version {version}: {reason}"
        self._open("runner", about, summary, reason, {"reason": reason, "said": said})

    def served(self, bundle: str) -> None:
        """End what was told of a version, if anything was: all of its runners are up."""
        self._end("runner", bundle, "its runners are up again")

    def log_fails(self, reason: str) -> None:
        """Open the incident about the log, and page; `reason` is the system's word for it, and the worker."""
        about = {"model": NO_MODEL, "version": "", "versions": [], "bundle": ""}
        self._open("log", about, f"the prediction log can't be written: {reason}", reason, {"reason": reason})

    def log_works(self, reason: str) -> None:
        """End it, if there is one."""
        self._end("log", "", reason)

    def log_gap(self, reason: str) -> None:
        """Open the incident about records that were removed before a follower had read them, and page."""
        about = {"model": NO_MODEL, "version": "", "versions": [], "bundle": ""}
        self._open("retention", about, f"the prediction log is at its limit: {reason}", reason, {"reason": reason})

    def log_gap_over(self, reason: str) -> None:
        """End it, if there is one."""
        self._end("retention", "", reason)

    def _open(self, cause: str, about: Body, summary: str, reason: str, evidence: dict[str, Any]) -> None:
        if self._active(cause, about["bundle"]) is not None:
            return
        time = self._now()
        moment = time[:19].replace("-", "").replace(":", "").replace("T", "-")
        name = f"{about['model']}-{moment}-{cause}" if cause == "runner" else f"{cause}-{moment}"
        body: Body = about | {
            "id": name,
            "cause": cause,
            "dedup_key": f"snowgate/{self._environment}/{name}",
            "state": "open",
            "onset": time,
            "opened": time,
            "updated": time,
            "signals": [],
            "summary": summary,
            "evidence": evidence,
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

    def _end(self, cause: str, bundle: str, reason: str) -> None:
        found = self._active(cause, bundle)
        if found is None or found.body["state"] == "decided":
            return  # What was decided is carried out by the monitor.
        body = moved(found.body, "quiet", actor="control", reason=reason, time=self._now())
        self._state.commit(
            Change(found.key, body, found.revision), outbox_change(page(body, "resolved", self._console_url))
        )

    def _active(self, cause: str, bundle: str) -> Document | None:
        found = (one for one in self._state.list(PREFIX) if one.body["state"] in ACTIVE)
        return next((one for one in found if (cause_of(one.body), one.body["bundle"]) == (cause, bundle)), None)

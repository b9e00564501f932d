"""The monitor process: follows the log, judges every version's stream, opens incidents, acts on decisions.

    python -m monitors.watch --home DIR --parent PID --settings JSON

One loop on one thread. What it decides is written in one commit with where it stands in the log and the detectors'
state, so that a monitor that is killed goes on from there and decides the same; pages leave from an outbox on a thread
of their own. Serving never waits for it.
"""

import argparse
import ctypes
import json
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from bundles.errors import BundleError
from bundles.home import Home
from monitors import baselines, story
from monitors.incidents import ACTIVE, PREFIX, moved
from monitors.log.errors import LogCorrupt
from monitors.log.reader import LogReader
from monitors.log.record import Record
from monitors.pages import Sender, outbox_change, page, rfc3339, wall_clock
from monitors.streams import Shift, Stream, Watching
from state import Change, Conflict, State
from state.sqlite import SqliteState

log = logging.getLogger("snowgate.monitor")

CHECKPOINT = "monitor/checkpoint"
STATUS = "monitor/status"
READ_RECORDS = 2_000
IDLE_SECONDS = 0.05
STATUS_SECONDS = 1.0
CHECKPOINT_SECONDS = 5.0
"""After a crash so many seconds of records are read again; a checkpoint of ten versions takes some 2 MB."""
QUIET_FACTOR = 10
"""A shift that took n rows to see must be absent for ten times as many before it counts as gone."""
PR_SET_PDEATHSIG = 1

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """What control tells the monitor."""

    environment: str = "production"
    webhook_url: str | None = None
    webhook_timeout_seconds: float = 10.0
    console_url: str | None = None
    watching: Watching = field(default_factory=Watching)

    @staticmethod
    def parse(document: dict[str, Any]) -> "MonitorSettings":
        """Read the JSON form: the settings of watching lie beside the others."""
        names = {one.name for one in fields(Watching)}
        own = {key: value for key, value in document.items() if key not in names}
        watching = Watching(**{key: value for key, value in document.items() if key in names})
        return MonitorSettings(watching=watching, **own)


class Monitor:
    """Everything that the monitor knows; `turn` is one round of its loop."""

    def __init__(self, home: Home, state: State, settings: MonitorSettings) -> None:
        self._home = home
        self._state = state
        self._settings = settings
        self._reader = LogReader(home.log)
        self._streams: dict[tuple[str, str], Stream] = {}
        self._unreadable: dict[tuple[str, str], str] = {}
        self._cursor: dict[str, tuple[int, int]] = {}
        self._saved: dict[str, Any] = {}
        self._evidence_rows: dict[str, int] = {}
        self._processed = 0
        self._newest = 0.0
        self._damage: str | None = None
        self._version = -1
        self._next_status = 0.0
        self._next_checkpoint = 0.0
        self._dirty = False
        self._resume()

    def _resume(self) -> None:
        document = self._state.get(CHECKPOINT)
        if document is None:
            return
        self._cursor = {writer: (place[0], place[1]) for writer, place in document.body["cursor"].items()}
        self._saved = document.body["streams"]
        self._evidence_rows = document.body["evidence_rows"]
        self._processed = document.body["processed"]
        for name in list(self._saved):
            model, _, version = name.partition("/")
            self._stream(model, version, self._saved[name]["bundle"])

    def turn(self, now: float) -> bool:
        """Read what is new, judge it, act on decisions; say whether there was anything to read."""
        records = self._read()
        for record in records:
            self._processed += 1
            self._newest = max(self._newest, record.time)
            if record.kind == "answered" and record.version is not None and record.bundle is not None:
                stream = self._stream(record.model, record.version, record.bundle)
                if stream is not None:
                    self._judge(stream, stream.add(record))
        for stream in self._streams.values():
            if not records and stream.overdue(now):
                self._dirty = True
                self._judge(stream, stream.flush())
        self._dirty |= bool(records)
        version = self._state.version()
        if version != self._version:
            self._effect_decisions()
            self._version = self._state.version()
        if self._dirty and now >= self._next_checkpoint:
            self.checkpoint()
            self._next_checkpoint = now + CHECKPOINT_SECONDS
        return bool(records)

    def _read(self) -> list[Record]:
        try:
            records, self._cursor = self._reader.read(self._cursor, READ_RECORDS)
        except LogCorrupt as damage:
            self._damage = str(damage)
            log.warning("%s; going on behind it", damage)
            self._cursor = self._reader.skip(self._cursor, damage)
            return []
        return records

    def _stream(self, model: str, version: str, bundle: str) -> Stream | None:
        """Return the stream of a version, made when its first record comes."""
        key = (model, version)
        if key in self._streams or key in self._unreadable:
            return self._streams.get(key)
        try:
            baseline = baselines.baseline_of(self._state, self._home, model, version, bundle)
        except (BundleError, KeyError, ValueError) as error:
            self._unreadable[key] = str(error)
            log.warning("%s version %s can't be watched: %s", model, version, error)
            return None
        stream = self._streams[key] = Stream(model, version, bundle, baseline, self._settings.watching)
        saved = self._saved.pop(f"{model}/{version}", None)
        if saved is not None:
            try:
                stream.restore(saved)
            except (ValueError, KeyError) as error:
                log.warning("%s version %s: begins anew: %s", model, version, error)
        self._divide_limits()
        return stream

    def _divide_limits(self) -> None:
        for stream in self._streams.values():
            stream.set_limits(len(self._streams))

    def _judge(self, stream: Stream, shifts: list[Shift]) -> None:
        """Turn a batch's shifts into an incident, or into more evidence for the one that is there."""
        active = self._active(stream.model)
        strong = [one for one in shifts if one.tier == "page"]
        if active is None:
            if shifts and not self._only_noise(shifts):
                body = story.opened(stream.model, stream.bundle, self._settings.environment, shifts)
                self._evidence_rows[body["id"]] = stream.rows
                self._write_incident(self._hinted(body), event="open" if body["state"] == "open" else None)
                log.warning("incident %s (%s): %s", body["id"], body["state"], body["summary"])
            return
        if shifts:
            if strong or active["state"] == "suspected":
                self._evidence_rows[active["id"]] = stream.rows
            self._grow(stream, active["id"], shifts)
            return
        quiet_for = stream.rows - self._evidence_rows.get(active["id"], stream.rows)
        enough = max(self._settings.watching.quiet_rows, QUIET_FACTOR * active["rows_since_onset"])
        if active["version"] == stream.version and active["state"] != "decided" and quiet_for > enough:
            self._resolve(active["id"], "quiet", f"no evidence of a shift in {quiet_for} rows")

    @staticmethod
    def _only_noise(shifts: list[Shift]) -> bool:
        """A lone second opinion of ADWIN, with no evidence against the baseline, is not worth a suspicion."""
        return all(one.detector == "adwin" and one.evidence < 1.0 for one in shifts)

    def _grow(self, stream: Stream, incident_id: str, shifts: list[Shift]) -> None:
        strong = any(one.tier == "page" for one in shifts)

        def change(body: Body) -> Body:
            if body["state"] == "suspected" and strong:
                return self._hinted(story.promoted(body, shifts, stream.bundle))
            return self._hinted(story.grown(body, shifts))

        before, after = self._change_incident(incident_id, change)
        if before["state"] == "suspected" and after["state"] == "open":
            log.warning("incident %s (open): %s", incident_id, after["summary"])

    def _hinted(self, body: Body) -> Body:
        streams = [one for one in self._streams.values() if one.model == body["model"]]
        moved_inputs = any(
            watch.detector.warning_detected and watch.name.endswith((".mean", ".contrast", ".missing"))
            for stream in streams
            for watch in stream.watches
        )
        return story.hinted(body, versions_watched=len(streams), inputs_moved=moved_inputs)

    def _active(self, model: str) -> Body | None:
        found = [one.body for one in self._state.list(f"{PREFIX}{model}-") if one.body["state"] in ACTIVE]
        return next((body for body in found if body["model"] == model), None)

    def _write_incident(self, body: Body, *, event: str | None) -> None:
        changes = [Change(PREFIX + body["id"], body), self._checkpoint_change()]
        if event is not None:
            changes.append(outbox_change(page(body, event, self._settings.console_url)))
        self._state.commit(*changes)

    def _change_incident(self, incident_id: str, change: Any, *extra: Change) -> tuple[Body, Body]:
        """Change an incident by compare-and-swap, with the page that its new state asks for and the checkpoint."""
        while True:
            document = self._state.get(PREFIX + incident_id)
            assert document is not None, "incidents are never deleted"
            body = change(document.body)
            changes = [Change(document.key, body, document.revision), self._checkpoint_change(), *extra]
            if body["state"] != document.body["state"] and body["state"] in ("open", "resolved"):
                paged = any(entry["state"] == "open" for entry in body["history"])
                if paged:
                    event = "open" if body["state"] == "open" else "resolved"
                    changes.append(outbox_change(page(body, event, self._settings.console_url)))
            try:
                self._state.commit(*changes)
            except Conflict:
                continue
            return document.body, body

    def _resolve(self, incident_id: str, event: str, reason: str, *extra: Change) -> None:
        time_ = wall_clock()
        _before, body = self._change_incident(
            incident_id, lambda body: moved(body, event, actor="monitor", reason=reason, time=time_), *extra
        )
        self._evidence_rows.pop(incident_id, None)
        for stream in self._streams.values():
            if stream.model == body["model"]:
                stream.restart(stream.baseline)
        self._divide_limits()
        log.info("incident %s resolved: %s", incident_id, reason)

    def _effect_decisions(self) -> None:
        """Do what people decided, as far as it is the monitor's."""
        for document in self._state.list(PREFIX):
            body = document.body
            if body["state"] != "decided":
                continue
            verdict = body["decision"]["verdict"]
            if verdict == "world-changed":
                self._rebase(body)
            elif verdict == "model-broken":
                self._await_rollback(body)
            else:
                self._resolve(body["id"], "effect", f"decided: {verdict}")

    def _rebase(self, body: Body) -> None:
        """The world has changed: what was seen since the onset is how it is now."""
        onset, decision = _seconds(body["onset"]), body["decision"]
        changes, fresh = [], {}
        for stream in self._streams.values():
            if stream.model != body["model"]:
                continue
            source = f"live since {body['onset']} (incident {body['id']})"
            found = baselines.since(self._reader, stream.model, stream.version, onset, source)
            if found.rows < baselines.ROWS_MIN:
                if stream.version == body["version"]:
                    log.info("%s: %d rows since the onset, too few for a baseline", body["id"], found.rows)
                    return
                continue
            fresh[stream.version] = found
            changes.append(
                baselines.change(
                    stream.model,
                    stream.version,
                    stream.bundle,
                    found,
                    incident=body["id"],
                    actor=decision["actor"],
                    reason=decision["reason"],
                )
            )
        said = ", ".join(f"version {version}: {found.rows} rows" for version, found in fresh.items())
        for version, found in fresh.items():
            self._streams[body["model"], version].restart(found)
        self._resolve(body["id"], "effect", f"new baseline from the data since the onset ({said})", *changes)

    def _await_rollback(self, body: Body) -> None:
        """The model is broken: control rejects it and takes it out of the route; then the incident is over."""
        digest = body["bundle"]
        environment = self._settings.environment
        rejected = self._state.get(f"rejected/{environment}/{digest.removeprefix('sha256:')}")
        route = self._state.get(f"routes/{body['model']}")
        routed = route is not None and any(one["digest"] == digest for one in route.body["variants"])
        if rejected is not None and not routed:
            self._resolve(body["id"], "effect", f"version {body['version']} was rolled back and rejected")

    def _checkpoint_change(self) -> Change:
        streams = {f"{one.model}/{one.version}": one.to_json() for one in self._streams.values()}
        body = {
            "cursor": {writer: list(place) for writer, place in self._cursor.items()},
            "streams": self._saved | streams,
            "evidence_rows": self._evidence_rows,
            "processed": self._processed,
        }
        return Change(CHECKPOINT, body)

    def checkpoint(self) -> None:
        """Write where the monitor stands."""
        self._state.commit(self._checkpoint_change())
        self._dirty = False

    def status(self, now: float, delivered: Body) -> None:
        """Write what the console and the metrics show, once a second."""
        if now < self._next_status:
            return
        self._next_status = now + STATUS_SECONDS
        behind = self._newest > 0 and self._cursor != self._reader.end()
        body = {
            "time": rfc3339(now),
            "lag_seconds": max(0.0, now - self._newest) if behind else 0.0,
            "processed": self._processed,
            "damage": self._damage,
            "unreadable": [
                {"model": model, "version": version, "error": error}
                for (model, version), error in self._unreadable.items()
            ],
            "streams": [stream.status() for stream in self._streams.values()],
            "pages": delivered,
        }
        self._state.commit(Change(STATUS, body))
        self._version = self._state.version()


def _seconds(text: str) -> float:
    """Read an RFC 3339 time in UTC."""
    return datetime.fromisoformat(text).timestamp()


def run(home: Home, settings: MonitorSettings) -> None:
    """Watch until SIGTERM."""
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ending.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; control tells us when to end.
    state, outbox = SqliteState(home.state), SqliteState(home.state)
    sender = Sender(outbox, settings.webhook_url, settings.webhook_timeout_seconds, wall_clock)
    sender.start()
    monitor = Monitor(home, state, settings)
    while not ending:
        read = monitor.turn(time.time())
        delivered = sender.delivered
        pages = {
            "sent": delivered.sent,
            "failed": delivered.failed,
            "last_success": delivered.last_success,
            "last_error": delivered.last_error,
        }
        monitor.status(time.time(), pages)
        if not read:
            time.sleep(IDLE_SECONDS)
    monitor.checkpoint()
    sender.stop(5)
    outbox.close()
    state.close()


def main() -> None:
    """Start the monitor; control builds the command line."""
    parser = argparse.ArgumentParser(prog="monitors.watch")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--settings", default="{}")
    arguments = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != arguments.parent:
        sys.exit(f"monitor: the parent process {arguments.parent} is gone")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s monitor %(message)s")
    run(Home(arguments.home), MonitorSettings.parse(json.loads(arguments.settings)))


if __name__ == "__main__":
    main()

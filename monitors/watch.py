"""The monitor process: follows the log, judges every version's stream, opens incidents, acts on decisions.

    python -m monitors.watch --home DIR --parent PID --settings JSON

One loop on one thread. What it decides is written in one commit with where it stands in the log and the detectors'
state, so that a monitor that is killed goes on from there and decides the same; pages leave from an outbox on a thread
of their own. Serving never waits for it.
"""

import argparse
import ctypes
import gc
import json
import logging
import logging.config
import os
import signal
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bundles.home import Home
from monitors import story
from monitors.decisions import Decisions
from monitors.desk import Desk
from monitors.heard import Heard
from monitors.incidents import Body
from monitors.log.cursors import Standing, take_name
from monitors.log.errors import LogCorrupt
from monitors.log.reader import LogReader
from monitors.pages import Sender, rfc3339, wall_clock
from monitors.signals import Shift, Watching
from monitors.streams import Stream
from monitors.versions import Versions
from state import Change, State
from state.sqlite import SqliteState

log = logging.getLogger("snowgate.monitor")

NAME = "monitor"
CHECKPOINT = "monitor/checkpoint"
STATUS = "monitor/status"
READ_RECORDS = 2_000
IDLE_SECONDS = 0.05
STATUS_SECONDS = 1.0
CHECKPOINT_SECONDS = 5.0
"""After a crash so many seconds of records are read again. A version takes some 0.2 MB: 40 KB a second on the disk."""
QUIET_FACTOR = 10
"""A shift that took n rows to see must be absent for ten times as many before it counts as gone."""
COMPARED_ROWS_MIN = 200
"""Before so many rows, that a version is quiet says nothing about whether others shifted with it."""
PR_SET_PDEATHSIG = 1


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
        self._state = state
        self._settings = settings
        self._reader = LogReader(home.log)
        self._versions = Versions(home, state, settings.watching)
        self._desk = Desk(state, settings.console_url)
        self._decisions = Decisions(
            state, self._reader, self._desk, self._versions, settings.environment, settings.watching.batch_seconds
        )
        self._follower = self._reader.follow(NAME, Standing())
        self._evidence_rows: dict[str, int] = {}
        self._processed = 0
        self._newest = 0.0
        self._damage: str | None = None
        self._seen_version = -1
        self._next_status = 0.0
        self._next_decisions = 0.0
        self._next_checkpoint = 0.0
        self._dirty = False
        self._resume()

    def _resume(self) -> None:
        document = self._state.get(CHECKPOINT)
        if document is None:
            return
        self._follower.standing = Standing.from_json(document.body["cursor"])
        self._evidence_rows = document.body["evidence_rows"]
        self._processed = document.body["processed"]
        self._newest = document.body["newest"]
        self._versions.restore(document.body["streams"])

    def turn(self, now: float) -> bool:
        """Read what is new, judge it, act on decisions, write it down; say whether there was anything to read."""
        version = self._state.version()
        if version != self._seen_version:
            self._desk.refresh()
        records = self._read()
        self._processed += len(records)
        self._newest = max([self._newest, *(record.time for record in records)])
        for record in records:
            stream = self._versions.take(record)
            shifts = None if stream is None else stream.add(record)
            if stream is not None and shifts is not None:
                self._judge(stream, shifts)
        if not records:
            # Low traffic must page too. With records to read, their own times end the batches.
            for stream in self._versions.all():
                if stream.overdue(now):
                    self._dirty = True
                    self._judge(stream, stream.flush())
        self._dirty |= bool(records)
        others: list[Change] = []
        if version != self._seen_version or now >= self._next_decisions:
            others = self._decisions.effect(now)
            self._seen_version = version
            self._next_decisions = now + STATUS_SECONDS
        if others or self._desk.urgent or ((self._dirty or self._desk.waiting) and now >= self._next_checkpoint):
            self.checkpoint(*others)
            self._next_checkpoint = now + CHECKPOINT_SECONDS
        return bool(records)

    def _read(self) -> list[Heard]:
        records = self._follower.read_as(Heard, READ_RECORDS)
        damage = self._follower.damage
        if damage is not None and str(damage) != self._damage:
            # Behind it the log goes on, now or when the writer begins a new segment.
            self._damage = str(damage)
            log.warning("%s; going on behind it", damage)
        return records

    def _judge(self, stream: Stream, shifts: list[Shift]) -> None:
        """Turn a batch's shifts into an incident, or into more evidence for the one that is there."""
        active = self._desk.active(stream.model)
        if active is None:
            if shifts and not _only_noise(shifts):
                body = story.opened(stream.model, stream.bundle, self._settings.environment, shifts)
                body = self._desk.open(self._hinted(body))
                self._evidence_rows[body["id"]] = stream.rows
                log.warning("incident %s (%s): %s", body["id"], body["state"], body["summary"])
            return
        if shifts:
            strong = any(one.tier == "page" for one in shifts)
            if strong or active["state"] == "suspected":
                self._evidence_rows[active["id"]] = stream.rows
            self._grow(stream, active, shifts, strong=strong)
            return
        if active["version"] != stream.version or active["state"] == "decided":
            return
        quiet_for = stream.rows - self._evidence_rows.setdefault(active["id"], stream.rows)
        if quiet_for > max(self._settings.watching.quiet_rows, QUIET_FACTOR * active["rows_since_onset"]):
            self._decisions.resolve(active, "quiet", f"no evidence of a shift in {quiet_for} rows", stream.last_time)

    def _grow(self, stream: Stream, active: Body, shifts: list[Shift], *, strong: bool) -> None:
        def step(body: Body) -> Body:
            if body["state"] == "suspected" and strong:
                return self._hinted(story.promoted(body, shifts, stream.bundle))
            return self._hinted(story.grown(body, shifts))

        after = self._desk.change(active["id"], step)
        if active["state"] == "suspected" and after["state"] == "open":
            log.warning("incident %s (open): %s", active["id"], after["summary"])

    def _hinted(self, body: Body) -> Body:
        judged = [one.version for one in self._versions.of(body["model"]) if one.rows >= COMPARED_ROWS_MIN]
        return story.hinted(body, judged=judged)

    def checkpoint(self, *others: Change) -> None:
        """Write what was decided and where the monitor stands, in one commit."""
        self._versions.forget_idle(self._newest)
        active = {body["id"] for body in self._desk.all() if body["state"] != "resolved"}
        self._evidence_rows = {name: rows for name, rows in self._evidence_rows.items() if name in active}
        body = {
            "cursor": self._follower.standing.to_json(),
            "streams": self._versions.to_json(),
            "evidence_rows": self._evidence_rows,
            "processed": self._processed,
            "newest": self._newest,
        }
        self._desk.commit(Change(CHECKPOINT, body), *others)
        # For others to see, such as retention; what counts is the checkpoint, written with the decisions.
        self._follower.commit()
        self._dirty = False

    def status(self, now: float, delivered: Body) -> None:
        """Write what the console and the metrics show, once a second."""
        if now < self._next_status:
            return
        self._next_status = now + STATUS_SECONDS
        behind = self._newest > 0 and self._behind()
        body = {
            "time": rfc3339(now),
            "lag_seconds": max(0.0, now - self._newest) if behind else 0.0,
            "processed": self._processed,
            "damage": self._damage,
            "unreadable": [
                {"model": model, "version": version, "error": error}
                for (model, version), error in self._versions.unreadable.items()
            ],
            "streams": [stream.status(self._shifted(stream)) for stream in self._versions.all()],
            "pages": delivered,
        }
        self._state.commit(Change(STATUS, body))

    def _behind(self) -> bool:
        try:
            return self._follower.standing.places != self._reader.end()
        except LogCorrupt:
            return True

    def _shifted(self, stream: Stream) -> set[str]:
        active = self._desk.active(stream.model)
        if active is None or active["state"] == "suspected":
            return set()
        return {one["name"] for one in active["signals"] if (one["version"], one["tier"]) == (stream.version, "page")}


def _only_noise(shifts: list[Shift]) -> bool:
    """A lone second opinion of ADWIN, with no evidence against the baseline, is not worth a suspicion."""
    return all(one.detector == "adwin" and one.evidence < 1.0 for one in shifts)


def run(home: Home, settings: MonitorSettings) -> None:
    """Watch until SIGTERM."""
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ending.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; control tells us when to end.
    name = take_name(home.log, NAME)
    state, outbox = SqliteState(home.state), SqliteState(home.state)
    sender = Sender(outbox, settings.webhook_url, settings.webhook_timeout_seconds, wall_clock)
    sender.start()
    monitor = Monitor(home, state, settings)
    # What was imported stays, and what a record is decoded to is gone with its batch: the collector need not look at
    # either time and again, which at its own settings takes a fifth of this process.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    while not ending:
        read = monitor.turn(time.time())
        monitor.status(time.time(), sender.delivered.to_json())
        if not read:
            time.sleep(IDLE_SECONDS)
    monitor.checkpoint()
    sender.stop(5)
    outbox.close()
    state.close()
    os.close(name)


def main() -> None:
    """Start the monitor; control builds the command line."""
    parser = argparse.ArgumentParser(prog="monitors.watch")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--settings", default="{}")
    parser.add_argument("--logging", default='{"version": 1}', help="what logging.config.dictConfig takes")
    arguments = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != arguments.parent:
        sys.exit(f"monitor: the parent process {arguments.parent} is gone")
    logging.config.dictConfig(json.loads(arguments.logging))
    run(Home(arguments.home), MonitorSettings.parse(json.loads(arguments.settings)))


if __name__ == "__main__":
    main()

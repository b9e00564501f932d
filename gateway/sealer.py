"""The sealer process: compresses closed segments, projects them into Parquet, removes what is too old or too much.

    python -m gateway.sealer --home DIR --parent PID --logging JSON --settings JSON

It works at the lowest priority, one segment at a time, and nobody waits for it. What it did last it writes into live
state, for the console and the metrics; that followers lost something becomes an incident.
"""

import argparse
import json
import logging
import logging.config
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from bundles.errors import BundleError
from bundles.home import Home
from gateway.audit import now
from gateway.lineage import die_with
from gateway.notary import HomeNotary
from gateway.settings import LogSettings
from monitors.log.contract import Cursor
from monitors.log.cursors import standings
from monitors.log.errors import LogError
from monitors.log.manifest import Manifest
from monitors.log.projection import NotInstalled, parquet_writer
from monitors.log.retention import Limits, Removal
from monitors.log.sealer import Sealer
from monitors.outages import Outages
from state import Change, State
from state.sqlite import SqliteState

log = logging.getLogger("snowgate.sealer")

STATUS = "sealer/status"
NICENESS = 15
IDLE_SECONDS = 1.0
RETIRE_SECONDS = 60.0
"""How often ages are looked at where nothing is sealed; bytes are looked at after each segment."""
LABELS_SECONDS = 60.0
"""How often the files of labels are made anew where labels have come: a day with a million takes some seconds."""
TROUBLE_SECONDS = 10.0
"""How long it leaves a disk alone that did not do what it should."""
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class SealerSettings:
    """What control tells the sealer."""

    keep_days: float | None = 400.0
    max_bytes: int | None = None
    console_url: str = ""
    environment: str = "production"

    @property
    def limits(self) -> Limits:
        """As retention takes them."""
        return _limits(self.keep_days, self.max_bytes)


def _limits(keep_days: float | None, max_bytes: int | None) -> Limits:
    return Limits(None if keep_days is None else int(keep_days * DAY_MS), max_bytes)


class Sealing:
    """The sealer and what it tells; `turn` is one round of its loop."""

    def __init__(self, home: Home, state: State, settings: SealerSettings) -> None:
        self._home = home
        self._state = state
        self._limits = settings.limits
        self._outages = Outages(state, settings.console_url, settings.environment, now)
        self._sealer = sealer(home, settings.limits)
        self._next_retire = 0.0
        self._next_labels = 0.0
        self._trouble: str | None = None
        self._told: dict[str, Any] | None = None

    def turn(self) -> float:
        """Do one piece of work, and return after how many seconds to come again."""
        try:
            if self._told is None:
                self._sealer.start()
            sealed = self._sealer.turn()
            removed: list[Removal] = []
            if sealed is not None or time.monotonic() >= self._next_retire:
                removed = self._sealer.retire()
                self._next_retire = time.monotonic() + RETIRE_SECONDS
            if sealed is None and time.monotonic() >= self._next_labels:
                self._sealer.project_labels()
                self._next_labels = time.monotonic() + LABELS_SECONDS
            self._tell()
        except (OSError, LogError, BundleError, apsw.Error) as error:
            self._say(f"{type(error).__name__}: {error}")
            return TROUBLE_SECONDS
        self._say(None)
        if sealed is not None:
            records = sealed.end_seq - sealed.first_seq
            log.info(
                "sealed segment %d of %s: %d records, %d bytes", sealed.number, sealed.writer, records, sealed.bytes
            )
        for one in removed:
            log.info("removed segment %d of %s (%s)", one.segment.number, one.segment.writer, one.reason)
        return 0.0 if sealed is not None else IDLE_SECONDS

    def _say(self, trouble: str | None) -> None:
        """Log a trouble once, and its end; live state may lie on the disk that makes it."""
        if trouble != self._trouble:
            if trouble is None:
                log.info("sealing goes on")
            else:
                log.error("the log can't be sealed: %s; tried again every %.0f s", trouble, TROUBLE_SECONDS)
            self._trouble = trouble

    def _tell(self) -> None:
        """Write what there is, where it has changed, and open or end the incident about what followers lost."""
        with Manifest(self._home.log) as manifest:
            totals, gaps = manifest.totals(), manifest.gaps()
        behind = [one for one in gaps if _still_lags(one, followers(self._home))]
        if behind:
            names = sorted({one["cursor"] for one in behind})
            lost = sum(one["end_seq"] - one["first_seq"] for one in behind)
            limit = f"[log] max_bytes is {self._limits.bytes_max}"
            self._outages.log_gap(f"{lost} records were removed before {', '.join(names)} had read them; {limit}")
        elif self._told is None or self._told["lagging"]:
            self._outages.log_gap_over("no follower is behind what was removed")
        self._commit(totals | {"lagging": sorted({one["cursor"] for one in behind})})

    def _commit(self, status: dict[str, Any]) -> None:
        if status != self._told:
            self._told = status
            self._state.commit(Change(STATUS, status | {"time": now()}))


def sealer(home: Home, limits: Limits) -> Sealer:
    """Put a sealer together for a home; Parquet is made where its extra is installed. Raises BundleError."""
    try:
        parquet = parquet_writer()
    except NotInstalled:
        parquet = None
    return Sealer(
        home.log,
        HomeNotary(home.keys()),
        limits=limits,
        cursors=lambda: followers(home),
        now=now,
        now_ms=lambda: time.time_ns() // 1_000_000,
        parquet=parquet,
    )


def seal_now(home: Home, settings: LogSettings, progress: Callable[[str], None], *, rebuild: bool) -> dict[str, Any]:
    """Do all there is to do, and return what there is then. Raises OSError, LogError, BundleError, apsw.Error."""
    work = sealer(home, _limits(settings.keep_days, settings.max_bytes))
    work.start()
    if rebuild:
        for one in work.rebuild():
            progress(f"segment {one.number} of {one.writer}: {one.end_seq - one.first_seq} records")
    while (sealed := work.turn()) is not None:
        progress(f"segment {sealed.number} of {sealed.writer}: {sealed.end_seq - sealed.first_seq} records")
    if files := work.project_labels():
        progress(f"labels of {files} models and days")
    for removal in work.retire():
        progress(f"segment {removal.segment.number} of {removal.segment.writer} is removed ({removal.reason})")
    with Manifest(home.log) as manifest:
        return manifest.totals() | {"removed": manifest.removed(), "gaps": manifest.gaps()}


def followers(home: Home) -> Mapping[str, Cursor]:
    """Return where everybody stands for whom retention by age waits. Raises LogError."""
    return {name: one.places for name, one in standings(home.log).items()}


def _still_lags(gap: dict[str, Any], standing: Mapping[str, Cursor]) -> bool:
    cursor = standing.get(gap["cursor"])
    return cursor is not None and cursor.get(gap["writer"], (0, 0))[0] <= gap["number"]


def run(home: Home, settings: SealerSettings) -> None:
    """Seal until SIGTERM."""
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: ending.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; control tells us when to end.
    os.nice(NICENESS)
    state = SqliteState(home.state)
    sealing = Sealing(home, state, settings)
    while not ending.wait(sealing.turn()):
        pass
    state.close()


def main() -> None:
    """Start the sealer; control builds the command line."""
    parser = argparse.ArgumentParser(prog="gateway.sealer")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--settings", default="{}")
    parser.add_argument("--logging", default='{"version": 1}', help="what logging.config.dictConfig takes")
    arguments = parser.parse_args()
    die_with(arguments.parent)
    logging.config.dictConfig(json.loads(arguments.logging))
    run(Home(arguments.home), SealerSettings(**json.loads(arguments.settings)))


if __name__ == "__main__":
    main()

"""The exporter process: follows the log, delivers, commits.

    python -m gateway.export.process --home DIR --parent PID --settings JSON

It is kinder than the others on the machine (`nice`), and control starts it again when it dies. What it has done is in
live state (`export/status`), written by a thread of its own, once a second while something changes.
"""

import argparse
import json
import logging
import logging.config
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bundles.home import Home
from gateway.export.delivery import Delivery, Receiver
from gateway.export.events import FORMATS
from gateway.lineage import die_with
from monitors.log.cursors import Standing, end_of, lag, read_standing, take_name, write_standing
from monitors.log.errors import LogCorrupt, LogError
from monitors.log.follower import Follower
from monitors.log.reader import LogReader
from state import Change, State
from state.sqlite import SqliteState

log = logging.getLogger("snowgate.export")

NAME = "export"
STATUS = "export/status"
READ_RECORDS = 256
"""Between two commits; what a death makes arrive twice. With images of 12 KB it is 3 MB, and some 15 MB as JSON."""
IDLE_SECONDS = 0.1
STATUS_SECONDS = 1.0
NICE = 10


@dataclass(frozen=True, slots=True)
class ExporterSettings:
    """What control tells the exporter; without `models` all are exported."""

    receiver: Receiver
    environment: str = "production"
    models: frozenset[str] = frozenset()

    @staticmethod
    def parse(document: dict[str, Any]) -> "ExporterSettings":
        """Read the JSON form."""
        return ExporterSettings(
            Receiver(**document["receiver"]), document["environment"], frozenset(document["models"])
        )


def begin(directory: Path) -> None:
    """See to it that everything from now on is exported: called before anybody writes to the log.

    An export that begins anew begins here; what is older is sent by `snowgate prediction export`.
    """
    try:
        if read_standing(directory, NAME) is None:
            write_standing(directory, NAME, end_of(directory))
    except LogCorrupt as damage:
        log.warning("%s; the export begins with the oldest record", damage)
        write_standing(directory, NAME, Standing())


class Exporter:
    """Everything that the exporter knows; `turn` is one round of its loop."""

    def __init__(self, home: Home, settings: ExporterSettings, delivery: Delivery) -> None:
        self.without_payload = 0
        self._settings = settings
        self._delivery = delivery
        self._make = FORMATS[settings.receiver.format]
        self._follower: Follower = LogReader(home.log).follow(NAME)
        self._gaps = self._follower.standing.gap_count

    def turn(self) -> bool:
        """Read, deliver, commit; say whether there was anything to read. What was not delivered is read again."""
        records = self._follower.read(READ_RECORDS, with_payload=True)
        if not records:
            return False
        if self._follower.standing.gap_count > self._gaps:
            self._gaps = self._follower.standing.gap_count
            log.error("records are missing: %s", self._follower.standing.gaps[-1])
        wanted = [one for one in records if not self._settings.models or one.model in self._settings.models]
        made = [self._make(one, self._settings.environment) for one in wanted]
        if self._delivery.deliver(made):
            self._follower.commit()
            self.without_payload += sum(not events for events in made)
        return True


class Teller(threading.Thread):
    """Writes the status, once a second while something changes in it."""

    def __init__(self, home: Home, state: State, exporter: Exporter, delivery: Delivery, form: str) -> None:
        super().__init__(name="export status", daemon=True)
        self._directory = home.log
        self._state = state
        self._exporter = exporter
        self._delivery = delivery
        self._form = form
        self._ending = threading.Event()
        document = state.get(STATUS)
        self._before = {} if document is None else document.body
        self._told: dict[str, Any] = {}

    def run(self) -> None:
        """Write until `end`."""
        while not self._ending.wait(STATUS_SECONDS):
            self._tell()

    def end(self) -> None:
        """Write it for the last time."""
        self._ending.set()
        self.join()
        self._tell()

    def _tell(self) -> None:
        try:
            standing = read_standing(self._directory, NAME) or Standing()
            behind = asdict(lag(self._directory, standing, time.time()))
        except LogError as error:
            log.warning("how far the export is behind can't be told: %s", error)
            return
        counts = self._delivery.counts.to_json()
        # Over restarts they go on counting.
        for name in ("sent", "failed", "set_aside"):
            counts[name] += self._before.get(name, 0)
        without = self._exporter.without_payload + self._before.get("without_payload", 0)
        body = {"format": self._form, **counts, "without_payload": without, "lag": behind, "lost": standing.lost}
        if body != self._told:
            self._state.commit(Change(STATUS, body))
            self._told = body


def run(home: Home, settings: ExporterSettings) -> None:
    """Export until SIGTERM."""
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: ending.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; control tells us when to end.
    name = take_name(home.log, NAME)
    state = SqliteState(home.state)
    delivery = Delivery(settings.receiver, ending)
    exporter = Exporter(home, settings, delivery)
    teller = Teller(home, state, exporter, delivery, settings.receiver.format)
    teller.start()
    while not ending.is_set():
        if not exporter.turn():
            ending.wait(IDLE_SECONDS)
    teller.end()
    delivery.close()
    state.close()
    os.close(name)


def main() -> None:
    """Start the exporter; control builds the command line."""
    parser = argparse.ArgumentParser(prog="gateway.export.process")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--settings", required=True)
    parser.add_argument("--logging", default='{"version": 1}', help="what logging.config.dictConfig takes")
    arguments = parser.parse_args()
    die_with(arguments.parent)
    os.nice(NICE)
    logging.config.dictConfig(json.loads(arguments.logging))
    run(Home(arguments.home), ExporterSettings.parse(json.loads(arguments.settings)))


if __name__ == "__main__":
    main()

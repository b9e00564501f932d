"""The exporter as a process, killed again and again: every record arrives at least once."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bundles.home import Home
from gateway.export.delivery import Receiver
from gateway.export.process import NAME, STATUS, begin
from gateway.logs import logging_configuration
from gateway.settings import LoggingSettings
from monitors.log.cursors import read_standing
from state.sqlite import SqliteState
from tests.conftest import wait_until
from tests.gateway.export.conftest import FINE, EventReceiver
from tests.monitors.log.logbook import Logbook, record

Start = Callable[..., "Process"]
ROOT = Path(__file__).parents[3]


class Process:
    """A real exporter."""

    def __init__(
        self, home: Home, receiver: EventReceiver, *models: str, form: str = "cloudevents", **more: Any
    ) -> None:
        told = {
            "receiver": asdict(Receiver(receiver.url, form, **more)),
            "models": models,
            "environment": "production",
        }
        words = ["--home", str(home.path), "--parent", str(os.getpid()), "--settings", json.dumps(told)]
        words += ["--logging", json.dumps(logging_configuration(LoggingSettings(), "exporter"))]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway.export.process", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )

    def kill(self) -> None:
        """Kill it, where it lives."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate(timeout=10)

    def end(self) -> int:
        """End it politely."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture
def book(home: Home) -> Iterator[Logbook]:
    """A log with small segments, so that following goes over their ends."""
    made = Logbook(home.log, segment_bytes=30_000)
    yield made
    made.close()


@pytest.fixture
def export(home: Home, receiver: EventReceiver) -> Iterator[Start]:
    """Start exporters; those that still live are killed with the test."""
    started: list[Process] = []

    def start(*models: str, **more: Any) -> Process:
        started.append(Process(home, receiver, *models, **more))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def status(home: Home) -> dict[str, Any]:
    """What the exporter last said."""
    state = SqliteState(home.state)
    document = state.get(STATUS)
    state.close()
    return {} if document is None else document.body


def test_sigkill_loses_no_record(home: Home, book: Logbook, receiver: EventReceiver, export: Start) -> None:
    """Killed at random moments while records come: each of them arrives, with the same id when it comes twice, and what
    comes twice is no more than what lay between two commits. The receiver fails now and then, too.
    """
    chance = random.Random(5)
    receiver.answers = lambda _events: FINE if chance.random() > 0.003 else (503, {"Retry-After": "0"})
    begin(home.log)
    written: list[str] = []
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            written.extend(book.write([record() for _ in range(chance.randint(1, 10))]))
            time.sleep(0.05)

    writing = threading.Thread(target=write)
    writing.start()
    kills, exporter = 0, export(batch=4)
    for _ in range(5):
        before = len(receiver.events)
        wait_until(lambda before=before: len(receiver.events) > before, what="events")  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.3))  # The moment of the kill is the experiment.
        exporter.kill()
        kills += 1
        exporter = export(batch=4)
    done.set()
    writing.join()
    wait_until(lambda: len(receiver.arrived) == len(written), 60, "every record")
    wait_until(lambda: status(home).get("lag", {}).get("records") == 0, what="the last exporter to note it")
    assert exporter.end() == 0
    arrived = receiver.ids()
    assert set(arrived) == set(written)
    assert kills == 5
    standing = read_standing(home.log, NAME)
    assert standing is not None
    assert (standing.lost, standing.gaps) == (0, [])
    # After a clean end nothing comes again.
    exporter = export()
    last = book.write([record()])
    wait_until(lambda: last[0] in receiver.ids(), what="the next record")
    assert exporter.end() == 0
    assert receiver.ids()[len(arrived) :] == last


def test_it_begins_where_it_was_told_and_says_what_it_does(
    home: Home, book: Logbook, receiver: EventReceiver, export: Start
) -> None:
    """What is older than the export stays at home; counts go on over restarts; only chosen models are sent."""
    book.write([record() for _ in range(5)])
    begin(home.log)
    begin(home.log)
    other = record()
    other.model = "other"
    ids = book.write([record(), other, record()])
    exporter = export("signs", form="kserve")
    wait_until(lambda: status(home).get("sent") == 2, what="the status")
    assert exporter.end() == 0
    assert sorted(receiver.ids()) == [ids[0], ids[2]]  # No response: these records have no outputs.
    ids += book.write([record()])
    exporter = export("signs", form="kserve")
    wait_until(lambda: status(home).get("sent") == 3, what="the status")
    assert exporter.end() == 0
    said = status(home)
    assert (said["format"], said["set_aside"], said["lost"]) == ("kserve", 0, 0)
    assert said["lag"] == {"records": 0, "bytes": 0, "seconds": 0.0}
    assert not {"url", receiver.url} & set(map(str, said.values()))


def test_while_the_receiver_is_down_the_lag_grows_and_is_told(
    home: Home, book: Logbook, receiver: EventReceiver, export: Start
) -> None:
    """Nothing is committed, what is behind is counted, and SIGTERM ends it all the same."""
    begin(home.log)
    receiver.answers = lambda _events: (503, {})
    exporter = export()
    book.write([record() for _ in range(7)])
    wait_until(lambda: status(home).get("lag", {}).get("records") == 7, what="the lag")
    wait_until(lambda: status(home)["lag"]["seconds"] > 0.5, what="its age")
    assert status(home)["failed"] >= 1
    assert "answered 503" in status(home)["last_error"]
    assert exporter.end() == 0
    receiver.answers = lambda _events: FINE
    exporter = export()
    wait_until(lambda: len(receiver.events) == 7, what="all of it")
    assert exporter.end() == 0


def test_a_hole_that_retention_made_is_told_and_passed(
    home: Home, book: Logbook, receiver: EventReceiver, export: Start
) -> None:
    """What was removed before it was exported is lost to the receiver: counted, told by its numbers, gone past."""
    begin(home.log)
    ids = [one for _ in range(6) for one in book.write([record() for _ in range(60)])]
    gone = 0
    for number in (1, 2):
        path = book.path(number)
        gone += sum(one.encode() in path.read_bytes() for one in ids)
        path.unlink()
    exporter = export()
    wait_until(lambda: len(receiver.events) == len(ids) - gone, what="the rest")
    wait_until(lambda: status(home).get("lost") == gone, what="the count")
    exporter.process.send_signal(signal.SIGTERM)
    _out, said = exporter.process.communicate(timeout=20)
    assert "records are missing" in said
    assert f"first_seq=0, last_seq={gone - 1}" in said


def test_one_exporter_at_a_time(home: Home, book: Logbook, receiver: EventReceiver, export: Start) -> None:
    """A second one on the same home ends with a sentence; the first goes on."""
    begin(home.log)
    first = export()
    ids = book.write([record()])
    wait_until(lambda: receiver.ids() == ids, what="the record")
    second = export()
    _out, said = second.process.communicate(timeout=30)
    assert second.process.returncode != 0
    assert "living process" in said
    assert first.end() == 0

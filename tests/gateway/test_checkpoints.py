"""Control's checkpoints: taken of a real log, kept in live state, and what is said when they can't be taken."""

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundles.home import Home
from gateway.audit import now
from gateway.checkpoints import KEY, Checkpoints
from gateway.metrics_page import render
from gateway.notary import HomeNotary
from gateway.operations import Operations
from monitors.incidents import Incidents
from monitors.log.checkpoints import read_checkpoints
from monitors.log.reader import LogReader
from state import Document
from state.sqlite import SqliteState
from tests.monitors.log.logbook import Logbook

SECONDS_MAX = 20


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a log of one writer."""
    home = Home(tmp_path / "home").make()
    book = Logbook(home.log)
    book.write_one_by_one(5)
    book.close()
    return home


@pytest.fixture
def state(home: Home) -> Iterator[SqliteState]:
    """The home's live state."""
    state = SqliteState(home.state)
    yield state
    state.close()


async def until(true: Callable[[], object]) -> None:
    """Poll until something is true."""
    async with asyncio.timeout(SECONDS_MAX):
        while not true():  # noqa: ASYNC110 (what is waited for happens on a thread, and on disk)
            await asyncio.sleep(0.01)


def newest(state: SqliteState) -> Document:
    """Return the newest checkpoint, as it is kept in live state."""
    document = state.get(KEY)
    assert document is not None
    return document


def test_the_first_at_once_the_last_at_the_end(home: Home, state: SqliteState) -> None:
    """What a crash left is covered when the gateway has started, and everything when it has ended; between them a log
    in which nothing happens is not signed again and again.
    """

    async def run() -> None:
        checkpoints = Checkpoints(home, state, 0.1)
        await until(lambda: state.get(KEY))
        book = Logbook(home.log)
        book.write_one_by_one(3)
        await until(lambda: newest(state).body["number"] == 2)
        book.write_one_by_one(3)
        book.close()
        await checkpoints.close()

    asyncio.run(run())
    notary = HomeNotary(home.keys())
    read = [one.checkpoint for one in read_checkpoints(home.log, notary)]
    assert read[0] is not None
    assert read[-1] is not None
    assert ([one.seq for one in read[0].heads], [one.seq for one in read[-1].heads]) == ([5], [11])
    report = LogReader(home.log).verify(notary, [newest(state).body["envelope"]])
    assert report.first_bad is None
    assert report.checkpoint is not None
    assert (report.checkpoint["number"], report.checkpoint["records_behind"]) == (newest(state).body["number"], 0)
    before = len(read)

    async def idle() -> None:
        checkpoints = Checkpoints(home, state, 0.001)
        await until(lambda: newest(state).body["number"] == before + 1)
        for _ in range(20):
            await checkpoints._turn()
        await checkpoints.close()

    asyncio.run(idle())
    assert newest(state).body["number"] == before + 1


def test_what_is_gone_is_said_once_and_seen(home: Home, state: SqliteState, caplog: pytest.LogCaptureFixture) -> None:
    """A writer's folder vanishes: one line of the log, the console and `/metrics` say so, until it is back."""
    caplog.set_level(logging.INFO, "snowgate.control")

    async def run() -> None:
        checkpoints = Checkpoints(home, state, 0.01)
        await until(lambda: state.get(KEY))
        shutil.move(home.log / "w0", home.path / "aside")
        await until(lambda: newest(state).body["lost"])
        for _ in range(3):
            await checkpoints._turn()
        assert b"snowgate_log_checkpoint_lost 1.0" in render([], state, "text/plain")[0]
        overview = Operations(home, state, Incidents(state, now)).overview()
        assert (overview["checkpoint"]["lost"], overview["checkpoint"]["stale"]) == (1, False)
        shutil.move(home.path / "aside", home.log / "w0")
        await until(lambda: newest(state).body["lost"] == 0)
        await checkpoints.close()

    asyncio.run(run())
    said = [one.getMessage() for one in caplog.records]
    assert [one for one in said if "seq 5" in one] == [said[0]]
    assert "snowgate log verify" in said[0]
    assert said[1:] == ["log checkpoint: all is well again"]


def test_without_a_key_serving_goes_on(home: Home, state: SqliteState, caplog: pytest.LogCaptureFixture) -> None:
    """A key that can't be read is said, not raised; with the key back the next turn signs."""
    home.keys().signer()
    key = home.path / "keys" / "home.pem"
    content = key.read_bytes()
    key.write_text("spoilt")

    async def run() -> None:
        checkpoints = Checkpoints(home, state, 0.01)
        await until(lambda: caplog.records)
        assert state.get(KEY) is None
        key.write_bytes(content)
        await until(lambda: state.get(KEY))
        await checkpoints.close()

    asyncio.run(run())
    assert "home.pem" in caplog.records[0].getMessage()
    page = render([], state, "text/plain")[0].decode()
    assert "snowgate_log_checkpoint_timestamp_seconds 1." in page

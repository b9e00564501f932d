"""The worker's end of the log: who waits, who does not, and what happens when the disk is full."""

import asyncio
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gateway.errors import Unavailable
from gateway.ledger import AsyncLedger, Ledger
from gateway.metrics import WorkerMetrics
from gateway.settings import LogSettings
from gateway.steps import Step
from monitors.log.record import Record
from tests.monitors.log.logbook import ids_read, record

SECONDS = 30.0
FULL_BYTES = 4096
"""No file grows beyond a segment's beginning: no frame can be written."""


@contextmanager
def full_disk() -> Iterator[None]:
    """What this process writes beyond the first 4 KiB of a file is refused by the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Held(AsyncLedger):
    """A ledger whose writer's thread can be held up where a slow disk would hold it up."""

    def __init__(self, *arguments: Any) -> None:
        self.gate = threading.Event()
        self.gate.set()
        super().__init__(*arguments)

    def _on_durable(self, tokens: list[Any], error: OSError | None) -> None:
        self.gate.wait(SECONDS)
        super()._on_durable(tokens, error)


async def until(true: Callable[[], bool]) -> None:
    """Let the loop run until something is true."""
    async with asyncio.timeout(SECONDS):
        while not true():  # noqa: ASYNC110 - a thread is waited for
            await asyncio.sleep(0.005)


def loose(folder: Path, *, seconds: float = 60.0, records: int = 1_000) -> tuple[Held, WorkerMetrics]:
    """Open a ledger that lets calls go on."""
    metrics = WorkerMetrics(CollectorRegistry())
    settings = LogSettings(segment_bytes=1 << 20, loss_seconds=seconds, loss_records=records)
    return Held(folder, "w0", settings, metrics), metrics


def outcome(step: Step) -> Any:
    """Return what a complete step raises, or its value."""
    assert step.done
    return step._outcome and (step._outcome[1] or step._outcome[0])


def test_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """A record is on disk when its step completes; one that is alone in one turn of the loop as well."""

    async def run() -> None:
        ledger = Ledger(tmp_path, "w0", LogSettings())
        several = [record() for _ in range(3)]
        steps = [ledger.append(one, lone=False) for one in several]
        assert not any(step.done for step in steps)
        await until(lambda: all(step.done for step in steps))
        assert ids_read(tmp_path) == [one.id for one in several]
        lone = record()
        step = ledger.append(lone, lone=True)
        await until(lambda: step.done)
        assert ids_read(tmp_path)[-1] == lone.id
        assert ledger.undurable() == (0, 0.0)
        ledger.close()

    asyncio.run(run())


def test_async_does_not_wait(tmp_path: Path) -> None:
    """The step is complete before anything is written; then the record becomes durable, and is counted until it is."""

    async def run() -> None:
        ledger, metrics = loose(tmp_path)
        ledger.gate.clear()
        several = [record(), record("refused"), record()]
        assert all(ledger.append(one, lone=True).done for one in several)
        assert metrics.undurable == {"answered": 2, "refused": 1}
        assert ids_read(tmp_path) == []
        await until(lambda: ledger.undurable()[1] > 0.05)
        assert ledger.undurable()[0] == 3
        ledger.gate.set()
        await until(lambda: ledger.undurable() == (0, 0.0))
        assert metrics.undurable == {"answered": 0, "refused": 0}
        assert ids_read(tmp_path) == [one.id for one in several]
        ledger.close()

    asyncio.run(run())


@pytest.mark.parametrize(("seconds", "records"), [(60.0, 5), (0.1, 1_000)])
def test_beyond_its_limits_async_waits_as_commit_does(tmp_path: Path, seconds: float, records: int) -> None:
    """While the disk is slow so many calls go on, or for so long; the next waits, until the disk has caught up."""

    async def run() -> None:
        ledger, _metrics = loose(tmp_path, seconds=seconds, records=records)
        ledger.gate.clear()
        first = [ledger.append(record(), lone=False) for _ in range(records if seconds == 60.0 else 1)]
        assert all(step.done for step in first)
        await until(lambda: seconds == 60.0 or ledger.undurable()[1] >= seconds)
        waiting = ledger.append(record(), lone=True)
        count = ledger.undurable()[0]
        await asyncio.sleep(0)
        assert not waiting.done
        assert count == len(first), "the one that waits can't be lost"
        ledger.gate.set()
        await until(lambda: waiting.done and ledger.undurable()[0] == 0)
        assert len(ids_read(tmp_path)) == len(first) + 1
        assert ledger.append(record(), lone=True).done, "and the next go on again"
        ledger.close()
        await asyncio.sleep(0)
        assert len(ids_read(tmp_path)) == len(first) + 2

    asyncio.run(run())


def test_a_full_disk_refuses_at_once_until_it_has_room(tmp_path: Path) -> None:
    """The first record's step raises, the next ones are not even taken; with room again the ledger hears by itself."""

    async def run() -> None:
        ledger = Ledger(tmp_path, "w0", LogSettings())
        with full_disk():
            step = ledger.append(record(), lone=False)
            await until(lambda: step.done)
            assert isinstance(outcome(step), Unavailable)
            assert ledger.failing is not None
            with pytest.raises(Unavailable, match="can't be written"):
                ledger.append(record(), lone=True)
        await until(lambda: ledger.failing is None)
        good = record()
        later = ledger.append(good, lone=False)
        await until(lambda: later.done)
        assert outcome(later) is None
        assert ids_read(tmp_path) == [good.id]
        ledger.close()

    asyncio.run(run())


def test_what_was_answered_outlives_a_full_disk(tmp_path: Path) -> None:
    """Records whose calls had gone on are kept and written anew; the call that had to wait is refused."""

    async def run() -> None:
        ledger, metrics = loose(tmp_path, records=4)
        with full_disk():
            several = [record() for _ in range(4)]
            for one in several:
                assert ledger.append(one, lone=False).done
            waiting = ledger.append(record(), lone=False)
            await until(lambda: waiting.done)
            assert isinstance(outcome(waiting), Unavailable)
            with pytest.raises(Unavailable, match="can't be written"):
                ledger.append(record(), lone=False)
            assert ledger.undurable()[0] == 4
        await until(lambda: ledger.undurable()[0] == 0)
        assert sorted(ids_read(tmp_path)) == sorted(one.id for one in several)
        assert metrics.unlogged == {"answered": 0, "refused": 0}
        ledger.close()

    asyncio.run(run())


def test_what_can_not_be_written_to_the_end_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The worker ends while the disk is full: what it had answered is lost, counted, and said with its id."""

    async def run() -> tuple[Record, WorkerMetrics]:
        ledger, metrics = loose(tmp_path)
        one = record()
        with full_disk():
            ledger.append(one, lone=False)
            await until(lambda: ledger.failing is not None)
            ledger.close()
            await asyncio.sleep(0)
        return one, metrics

    one, metrics = asyncio.run(run())
    assert metrics.unlogged == {"answered": 1, "refused": 0}
    assert metrics.undurable == {"answered": 0, "refused": 0}
    assert one.id in caplog.text


def test_a_record_that_no_disk_would_take_fails_alone(tmp_path: Path) -> None:
    """An integer of more than 64 bits has no place in the log: its call is counted unlogged, the log is well."""

    async def run() -> None:
        ledger, metrics = loose(tmp_path)
        bad, good = record(), record()
        assert bad.payload is not None
        bad.payload.parameters = {"large": 1 << 70}
        ledger.append(bad, lone=False)
        ledger.append(good, lone=False)
        await until(lambda: ledger.undurable()[0] == 0)
        assert ledger.failing is None
        assert metrics.unlogged == {"answered": 1, "refused": 0}
        assert ids_read(tmp_path) == [good.id]
        ledger.close()

    asyncio.run(run())

"""Where `log.py` writes its records: the gateway's own ledger, SQLite in the ledger's place, and nowhere."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import apsw

from gateway.ledger import Ledger
from gateway.settings import LogSettings
from gateway.steps import Step
from monitors.log import record as records
from monitors.log.record import Payload, Record, Tensor, new_id


class Store(Protocol):
    """Where records go."""

    def append(self, record: Record, *, lone: bool) -> Step:
        """Take a record; the step completes when it is durable."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Nothing:
    """No store: what remains is what making a record and waiting for it cost by themselves."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._steps: list[Step] = []

    def append(self, record: Record, *, lone: bool) -> Step:
        """Complete with all others of this turn of the loop."""
        if not self._steps:
            self._loop.call_soon(self._complete)
        self._steps.append(Step())
        return self._steps[-1]

    def _complete(self) -> None:
        steps, self._steps = self._steps, []
        for step in steps:
            step.complete()

    def close(self) -> None:
        """Nothing to do."""


class Sqlite:
    """SQLite in the ledger's place, with the ledger's habits: a thread, a transaction for all that wait, one wake-up.

    A lone record is committed at once on the caller's thread, as the ledger does.
    """

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = apsw.Connection(str(folder / "log.db"))
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = full")
        self._connection.execute("create table records (seq integer primary key, id text unique, header, payload)")
        self._waiting: list[tuple[Record, Step]] = []
        self._condition = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def append(self, record: Record, *, lone: bool) -> Step:
        """Queue a record."""
        step = Step()
        if lone:
            self._commit([(record, step)])
            step.complete()
            return step
        with self._condition:
            self._waiting.append((record, step))
            if len(self._waiting) == 1:
                self._condition.notify()
        return step

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._closing:
                    self._condition.wait()
                batch, self._waiting = self._waiting, []
            if not batch:
                return
            self._commit(batch)
            self._loop.call_soon_threadsafe(_release, [step for _record, step in batch])

    def _commit(self, batch: Sequence[tuple[Record, Step]]) -> None:
        rows = [(record.id, *records.encode(record)) for record, _step in batch]
        with self._connection:
            self._connection.executemany("insert into records (id, header, payload) values (?, ?, ?)", rows)

    def close(self) -> None:
        """Commit what waits."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()
        self._connection.close()


def _release(steps: Sequence[Step]) -> None:
    for step in steps:
        step.complete()


STORES: dict[str, Callable[[Path], Store]] = {
    "segments": lambda folder: Ledger(folder, "w0", LogSettings()),
    "sqlite": Sqlite,
    "none": Nothing,
}


def made(data: bytes, now_ns: int | None = None) -> Record:
    """Make a record as the gateway does, of a model with one input and two outputs, asked now or then."""
    now = time.time_ns() if now_ns is None else now_ns
    return Record(
        id=new_id(now),
        kind="answered",
        time=now / 1e9,
        model="mlp",
        version="1",
        bundle="sha256:" + "0" * 64,
        variant="stable",
        reason="split",
        probability=1.0,
        route_revision=1,
        rollout="mlp-1",
        status=200,
        group=now % 1_000_003,
        signals={"class": [now % 43], "confidence": [now % 99_991 / 99_991], "energy": [1.5]},
        timings={"total": 1.25, "decode": 0.05, "queue": 0.5, "compute": 0.25},
        batch_size=16,
        engine="onnxruntime",
        payload=Payload(
            inputs=[Tensor("x", "FP32", [1, len(data) // 4], data)], outputs=[Tensor("y", "FP32", [1, 2], bytes(8))]
        ),
    )

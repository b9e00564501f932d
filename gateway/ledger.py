"""The worker's end of the prediction log: a record goes in, and the call goes on when the promise is kept.

With `durability = "commit"` that is when the record is on disk. The segment writer owns a thread. It takes all records
that wait, writes them in one frame and syncs once; the calls of that frame are then resumed together on the event
loop, by one wake-up.

With `durability = "async"` (`AsyncLedger`) the call goes on at once, as long as what could be lost is within limits:
so many records, answered within so many seconds. Beyond them calls wait for the disk as with "commit".

Once the log can't be written, no record is taken until the writer has found that it can be: whoever is refused then,
or answered without a record, hears of it at once.
"""

import asyncio
import logging
from math import inf
from pathlib import Path
from threading import get_ident
from time import monotonic
from typing import Any

from gateway.errors import Unavailable
from gateway.metrics import WorkerMetrics
from gateway.settings import LogSettings
from gateway.steps import Step
from monitors.log.errors import LogFull, RecordUnwritable
from monitors.log.record import Record
from monitors.log.writer import SegmentWriter

log = logging.getLogger("snowgate.log")

GATHER_SECONDS = 0.02
"""How long answered calls gather before the writer's thread is woken: at ten thousand a second 200 share a frame."""
DONE = Step()
DONE.complete()


class Ledger:
    """Appends records and says when they are durable."""

    def __init__(self, directory: Path, name: str, settings: LogSettings) -> None:
        self.failing: str | None = None
        """Why the log can't be written; None while it can."""
        self._loop = asyncio.get_running_loop()
        self._gathered: list[tuple[Record, Any]] = []
        self._thread = get_ident()
        self._writer = SegmentWriter(
            directory,
            name,
            self._on_durable,
            segment_bytes=settings.segment_bytes,
            segment_seconds=settings.segment_seconds,
            inline_bytes_max=settings.inline_bytes_max,
        )

    def append(self, record: Record, *, lone: bool) -> Step:
        """Queue a record. The step completes when the record is on stable storage, or raises `Unavailable`.

        `lone` says that no other call is in this worker's hands: then its record may be written here and now.

        Raises:
            Unavailable: the log can't be written.
        """
        if self.failing is not None:
            raise _refusal(self.failing)
        step = Step()
        if lone and not self._gathered and self._writer.append_now(record, step):
            return step
        # The answers of one frame are recorded in one turn of the loop, and handed over together when it ends: the
        # writer's thread, once woken, competes with the loop for the interpreter.
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append((record, step))
        return step

    def when_durable(self, record: Record) -> Step:
        """Queue a record that is waited for, whatever `durability` says. Raises as `append` does."""
        return self.append(record, lone=False)

    def undurable(self) -> tuple[int, float]:
        """Return how many records of answered calls are not durable yet, and the age of the oldest in seconds."""
        return 0, 0.0

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        for record, token in gathered:
            try:
                self._writer.append(record, token)
            except LogFull as error:
                self._full(record, token, error)

    def _full(self, _record: Record, step: Any, error: LogFull) -> None:
        step.complete(error=Unavailable(f"prediction log: {error}; try again in a second"))

    def _on_durable(self, tokens: list[Any], error: OSError | None) -> None:
        """Hand a whole frame's calls back to the event loop (called on the thread that wrote it)."""
        if get_ident() == self._thread:
            self._release(tokens, error)
        else:
            self._loop.call_soon_threadsafe(self._release, tokens, error)

    def _release(self, tokens: list[Any], error: OSError | None) -> None:
        if error is not None and not isinstance(error, RecordUnwritable):
            if self.failing is None:
                log.error("the prediction log can't be written: %s", error)
            self.failing = error.strerror or str(error)
        elif error is None and self.failing is not None:
            self.failing = None
            log.warning("the prediction log can be written again")
        for step in tokens:
            if error is None:
                step.complete()
            else:
                step.complete(error=_refusal(error.strerror or str(error)))

    def close(self) -> None:
        """Write and sync what waits, and close the segment."""
        self._hand_over()
        self._writer.close()


class AsyncLedger(Ledger):
    """Lets calls go on before their records are durable, within limits.

    A record whose call has gone on is kept until it is on disk: after an error it is written anew when the log can be
    written again. In the place of a step such a record is its own token.
    """

    def __init__(self, directory: Path, name: str, settings: LogSettings, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._loss_seconds = settings.loss_seconds
        self._loss_records = settings.loss_records
        self._undurable: dict[str, float] = {}
        """When each call went on, by its id, the oldest first."""
        self._oldest = inf
        self._closing = False
        super().__init__(directory, name, settings)

    def append(self, record: Record, *, lone: bool) -> Step:
        """As `Ledger.append`; the step is complete already while little enough can be lost."""
        if self.failing is not None:
            raise _refusal(self.failing)
        undurable, now = self._undurable, monotonic()
        if not undurable:
            self._oldest = now
        elif now - self._oldest >= self._loss_seconds or len(undurable) >= self._loss_records:
            return self.when_durable(record)
        undurable[record.id] = now
        self._metrics.undurable[record.kind] += record.calls
        if not self._gathered:
            self._loop.call_later(GATHER_SECONDS, self._hand_over)
        self._gathered.append((record, record))
        return DONE

    def when_durable(self, record: Record) -> Step:
        """As `Ledger.when_durable`."""
        return super().append(record, lone=False)

    def undurable(self) -> tuple[int, float]:
        """As `Ledger.undurable`."""
        oldest = next(iter(self._undurable.values()), None)
        return len(self._undurable), 0.0 if oldest is None else monotonic() - oldest

    def _hand_over(self) -> None:
        if self.failing is None or self._closing:
            super()._hand_over()

    def _full(self, record: Record, token: Any, error: LogFull) -> None:
        if token is not record:
            super()._full(record, token, error)
        elif self._closing:
            self._lose([record], error)
        else:
            # Its call has gone on: it waits for room, and until then no other call goes on before its record.
            if not self._gathered:
                self._loop.call_later(GATHER_SECONDS, self._hand_over)
            self._gathered.append((record, record))
            self._oldest = -inf

    def _release(self, tokens: list[Any], error: OSError | None) -> None:
        gone_on = [token for token in tokens if type(token) is Record]
        if error is None:
            for record in gone_on:
                self._settle(record)
        elif self._closing or isinstance(error, RecordUnwritable):
            self._lose(gone_on, error)
        else:
            self._gathered[:0] = [(record, record) for record in gone_on]
        failed = self.failing is not None
        super()._release([token for token in tokens if type(token) is not Record], error)
        if self.failing is not None:
            waiting = [token for record, token in self._gathered if token is not record]
            self._gathered = [(record, token) for record, token in self._gathered if token is record]
            for step in waiting:
                step.complete(error=_refusal(self.failing))
        elif failed:
            self._hand_over()
        self._oldest = next(iter(self._undurable.values()), inf)

    def _settle(self, record: Record) -> None:
        del self._undurable[record.id]
        self._metrics.undurable[record.kind] -= record.calls

    def _lose(self, records: list[Record], error: Exception) -> None:
        for record in records:
            self._settle(record)
            self._metrics.unlogged[record.kind] += record.calls
        if records:
            first = records[0].id
            log.error("%d answered calls, %s first, are not in the log: %s", len(records), first, error)

    def close(self) -> None:
        """As `Ledger.close`; what can't be written now is lost, and said to be."""
        self._closing = True
        super().close()


def _refusal(reason: str) -> Unavailable:
    return Unavailable(f"prediction log: can't be written ({reason}); nothing was answered")

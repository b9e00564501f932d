"""Refusals of calls of which nothing is known: no key, a page from elsewhere, a model that nobody serves.

Anybody can send as many of them as the network carries, with any name in them. A record each would let a flood, or a
client's inventions, fill the disk. So they are counted: one record a second and kind of error, model `_unknown`,
without payload. At 300 bytes a record that is 26 MB a day for each kind, at worst, and there are nine kinds.

All that are counted together are answered with one prediction id, that of their record. It is written within a second
after the answer and not before it, so what is counted is not promised to be in the log: a worker that is killed loses
the counts of its last second. They were refused; nobody rests a decision on them.
"""

import asyncio
from time import time_ns

from gateway.errors import InferenceError, Unavailable
from gateway.ledger import Ledger
from gateway.metrics import WorkerMetrics
from gateway.steps import start
from monitors.log.record import UNKNOWN, Record, new_id

COUNT_SECONDS = 1.0


class UnknownRefusals:
    """Counts the refusals of one worker, on the event loop's thread."""

    def __init__(self, ledger: Ledger, metrics: WorkerMetrics) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._closing = False
        self._counted: dict[str, Record] = {}
        self._timer: asyncio.TimerHandle | None = None

    def count(self, error: InferenceError) -> str:
        """Count one refusal; return the id of the record that will tell of it."""
        record = self._counted.get(error.error_type)
        if record is None:
            now = time_ns()
            record = self._counted[error.error_type] = Record(
                id=new_id(now),
                kind="refused",
                calls=0,
                time=now / 1e9,
                model=UNKNOWN,
                status=error.status,
                error_type=error.error_type,
                rows=0,
                payload_state="none",
            )
            self._soon()
        record.calls += 1
        self._metrics.undurable[record.kind] += 1
        return record.id

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(COUNT_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what was counted until now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counted, self._counted = self._counted, {}
        for record in counted.values():
            start(self._write(record))

    async def _write(self, record: Record) -> None:
        try:
            await self._ledger.when_durable(record)
        except Unavailable:
            self._put_off(record)
        else:
            self._metrics.undurable[record.kind] -= record.calls

    def _put_off(self, record: Record) -> None:
        """The log can't be written now: what was counted is counted on, one record a kind however long it takes."""
        assert record.error_type is not None, "it counts errors of one type"
        if self._closing:
            self._metrics.undurable[record.kind] -= record.calls
            self._metrics.unlogged[record.kind] += record.calls
            return
        newer = self._counted.setdefault(record.error_type, record)
        if newer is not record:
            newer.calls += record.calls
        self._soon()

    def close(self) -> None:
        """Write what was counted; what can't be written now never will be."""
        self._closing = True
        self.flush()

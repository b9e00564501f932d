"""The worker's end of the prediction log: a record goes in, and the call goes on when it is on disk.

The segment writer owns a thread. It takes all records that wait, writes them in one frame and syncs once; the calls
of that frame are then resumed together on the event loop, by one wake-up.
"""

import asyncio
from pathlib import Path
from typing import Any

from gateway.errors import Unavailable
from gateway.settings import LogSettings
from gateway.steps import Step
from monitors.log.errors import LogFull
from monitors.log.record import Record
from monitors.log.writer import SegmentWriter


class Ledger:
    """Appends records and says when they are durable."""

    def __init__(self, directory: Path, name: str, settings: LogSettings) -> None:
        self._loop = asyncio.get_running_loop()
        self._writer = SegmentWriter(
            directory,
            name,
            self._on_durable,
            segment_bytes=settings.segment_bytes,
            inline_bytes_max=settings.inline_bytes_max,
        )
        self._gathered: list[tuple[Record, Step]] = []
        self._here = False
        """Whether the writer writes on this thread."""

    def append(self, record: Record, *, lone: bool) -> Step:
        """Queue a record. The step completes when the record is on stable storage, or raises `Unavailable`.

        `lone` says that no other call is in this worker's hands: then its record may be written here and now.
        """
        step = Step()
        if lone and not self._gathered:
            self._here = True
            try:
                if self._writer.append_now(record, step):
                    return step
            finally:
                self._here = False
        # The answers of one frame are recorded in one turn of the loop, and handed over together when it ends: the
        # writer's thread, once woken, competes with the loop for the interpreter.
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append((record, step))
        return step

    def _hand_over(self) -> None:
        gathered, self._gathered = self._gathered, []
        for record, step in gathered:
            try:
                self._writer.append(record, step)
            except LogFull as error:
                step.complete(error=Unavailable(f"prediction log: {error}; try again in a second"))

    def _on_durable(self, steps: list[Any], error: OSError | None) -> None:
        """Hand a whole frame's calls back to the event loop (called on the thread that wrote it)."""
        if self._here:
            _release(steps, error)
        else:
            self._loop.call_soon_threadsafe(_release, steps, error)

    def close(self) -> None:
        """Write and sync what waits, and close the segment."""
        self._hand_over()
        self._writer.close()


def _release(steps: list[Step], error: OSError | None) -> None:
    for step in steps:
        if error is None:
            step.complete()
        else:
            step.complete(error=Unavailable(f"prediction log: can't be written ({error}); nothing was answered"))

"""Writing: one thread, one frame a batch, one sync a frame.

While the disk syncs, records gather; when it is done all of them go out together. So a lone prediction waits for one
sync, and a thousand of them at once wait for hardly more than one.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from time import time_ns
from typing import Any, BinaryIO

from monitors.log import record as records
from monitors.log.errors import LogFull
from monitors.log.record import Record, id_milliseconds
from monitors.log.segment import (
    CLOSED,
    HEADER_BYTES,
    MARK_OFFSET,
    NO_DIGEST,
    STATE_OFFSET,
    SegmentHeader,
    encode_frame,
    recover,
    segment_path,
    segments,
    sync_directory,
)

WAITING_RECORDS_MAX = 16_384
"""At 12 KB a record (a small image) some 200 MB; the disk is then seconds behind and it is better to refuse."""
BATCH_BYTES_MAX = 64 * 1024 * 1024
"""One frame's payload, counted before it is encoded; a single larger record gets a frame of its own."""

OnDurable = Callable[[list[Any], OSError | None], None]


class SegmentWriter:
    """One writer's series of segments. `append` from any thread; `on_durable` is called on the writer's own."""

    def __init__(
        self, directory: Path, name: str, on_durable: OnDurable, *, segment_bytes: int = 64 * 1024 * 1024
    ) -> None:
        """Mend what an earlier process of this name left, and begin a new segment.

        Raises:
            OSError: the directory can't be written.
            LogCorrupt: the last segment is damaged in its middle.
        """
        self._directory = directory
        self._name = name
        self._on_durable = on_durable
        self._segment_bytes = segment_bytes
        directory.mkdir(parents=True, exist_ok=True)
        self._number, self._next_seq, self._digest = self._go_on()
        self._file: BinaryIO | None = None
        self._offset = 0
        self._open()
        self._waiting: list[tuple[Record, Any]] = []
        self._condition = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"log writer {name}", daemon=True)
        self._thread.start()

    def append(self, record: Record, token: Any) -> None:
        """Queue a record; `token` comes back through `on_durable`. Raises LogFull."""
        with self._condition:
            if self._closing:
                msg = "the log is closed: this process is ending"
                raise LogFull(msg)
            if len(self._waiting) >= WAITING_RECORDS_MAX:
                msg = f"{WAITING_RECORDS_MAX} records wait for the disk, no more are taken"
                raise LogFull(msg)
            self._waiting.append((record, token))
            if len(self._waiting) == 1:
                self._condition.notify()

    def close(self) -> None:
        """Write and sync what waits, close the segment, end the thread."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _go_on(self) -> tuple[int, int, bytes]:
        numbers = segments(self._directory).get(self._name, [])
        if not numbers:
            return 0, 0, NO_DIGEST
        last = recover(segment_path(self._directory, self._name, numbers[-1]))
        return last.number, last.next_seq, last.digest

    def _open(self) -> None:
        self._number += 1
        path = segment_path(self._directory, self._name, self._number)
        header = SegmentHeader(self._name, self._number, time_ns(), self._next_seq, self._digest)
        file = path.open("xb", buffering=0)
        try:
            if file.write(header.encode()) != HEADER_BYTES:
                msg = f"{path}: header written in part, the disk is full"
                raise OSError(msg)
            os.fsync(file.fileno())
            sync_directory(self._directory)
        except OSError:
            file.close()
            path.unlink()
            raise
        self._file, self._offset = file, HEADER_BYTES

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._closing:
                    self._condition.wait()
                batch, self._waiting = self._waiting, []
            if not batch:
                break
            for part in _frames(batch):
                self._write(part)
        self._end_segment()

    def _write(self, batch: list[tuple[Record, Any]]) -> None:
        tokens = [token for _record, token in batch]
        try:
            self._commit(batch)
        except Exception as error:  # noqa: BLE001
            # The top of the thread's loop: whatever it is, these answers must not leave, and the thread must live on.
            # Never write to this file again: what its pages hold after a failure is anybody's guess. The next batch
            # opens a new one, and a reader goes on from this one's mark to that.
            if self._file is not None:
                self._file.close()
                self._file = None
            failure = error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")
            self._on_durable(tokens, failure)
            return
        self._on_durable(tokens, None)

    def _commit(self, batch: list[tuple[Record, Any]]) -> None:
        if self._file is None or self._offset >= self._segment_bytes:
            self._end_segment()
            self._open()
        assert self._file is not None, "just opened"
        encoded = [(*records.encode(record), id_milliseconds(record.id)) for record, _token in batch]
        frame, digest = encode_frame(encoded, self._next_seq, self._digest)
        written = self._file.write(frame)
        if written != len(frame):
            msg = f"{self._file.name}: {written} of {len(frame)} bytes written, the disk is full"
            raise OSError(msg)
        descriptor = self._file.fileno()
        os.fdatasync(descriptor)
        self._offset += len(frame)
        self._next_seq += len(batch)
        self._digest = digest
        # In the page cache only: readers on this machine see it, and after a power cut recovery finds the end itself.
        os.pwrite(descriptor, self._offset.to_bytes(8, "little"), MARK_OFFSET)

    def _end_segment(self) -> None:
        if self._file is None:
            return
        os.pwrite(self._file.fileno(), CLOSED.to_bytes(4, "little"), STATE_OFFSET)
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None


def _frames(batch: list[tuple[Record, Any]]) -> list[list[tuple[Record, Any]]]:
    """Cut a batch into frames of a bounded size."""
    cut: list[list[tuple[Record, Any]]] = [[]]
    size = 0
    for item in batch:
        payload = item[0].payload
        bytes_here = 0 if payload is None else sum(len(one.data) for one in (*payload.inputs, *payload.outputs))
        if cut[-1] and size + bytes_here > BATCH_BYTES_MAX:
            cut.append([])
            size = 0
        cut[-1].append(item)
        size += bytes_here
    return cut

"""Writing: one thread, one frame a batch, one sync a frame.

While the disk syncs, records gather; when it is done all of them go out together. So a lone prediction waits for one
sync, and a thousand of them at once wait for hardly more than one.

After a short write, or a write or sync that failed, nothing is written to that segment again: what its pages hold then
is anybody's guess, and a second sync that says "ok" means nothing. The batch's tokens get the error, and the next batch
begins a new segment with the same numbers; what the old one holds behind its mark is never read, and recovery cuts it.
From then on the writer also tries by itself: it writes zeros behind the mark of a new segment, as many as the frame had
that failed, syncs them and takes them back. So its owner hears that the disk works again also when nobody appends.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from errno import ENOMEM, ENOSPC
from pathlib import Path
from time import monotonic, perf_counter, time_ns
from typing import Any

from monitors.log import record as records
from monitors.log.contract import OnDurable
from monitors.log.errors import LogFull, RecordUnwritable
from monitors.log.frame import MARKER_BYTES, Encoded, decode_start, encode_frame
from monitors.log.record import Record, id_milliseconds
from monitors.log.recovery import hold, recover_series
from monitors.log.segment import (
    HEADER_BYTES,
    NO_WRITERS,
    Mark,
    SegmentHeader,
    create_segment,
    segment_path,
    sync_directory,
    write_mark,
)
from monitors.log.tensors import TensorFiles

WAITING_BYTES_MAX = 256 * 1024 * 1024
"""What may wait for the disk: 20,000 small images (12 KB). A disk that writes 100 MB/s is then 2.5 s behind, and it is
better to refuse. A single record may be larger; it is taken when nothing else waits."""
RECORD_BYTES = 4_096
"""What a record takes in memory beside its tensors: some forty small objects of 50 to 100 bytes."""
FRAME_BYTES_MAX = 8 * 1024 * 1024
"""A frame ends at the record with which it reaches this: at 100 MB/s the first record waits 80 ms for the last."""
INLINE_BYTES_MAX = 1024 * 1024
"""A larger tensor goes into a file of its own. That takes two more syncs, of the file and of its name, some 0.2 ms
each, where to write and sync a megabyte takes 1 ms anyway. Below it a frame is cheaper. Above it the same tensor, sent
again, is not written again, and a segment of 64 MiB holds more than a few dozen predictions."""
SYNC_SECONDS_MAX = 0.002
"""A caller's thread does not sync a disk that took longer the last time: it has others to serve."""
RETRY_SECONDS = 0.5
"""How long a disk that failed again is left alone before it is tried once more."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


class SegmentWriter:
    """One writer's series of segments. `append` from any thread; `on_durable` is called on the writer's own."""

    def __init__(
        self,
        directory: Path,
        name: str,
        on_durable: OnDurable,
        *,
        segment_bytes: int = 64 * 1024 * 1024,
        segment_seconds: float = 3600.0,
        inline_bytes_max: int = INLINE_BYTES_MAX,
    ) -> None:
        """Mend what an earlier process of this name left, and begin a new segment.

        `on_durable(tokens, error)` is called once for each batch: with None when its records are on stable storage,
        else with the reason why they must count as not written. Without tokens it says how the disk is: that the new
        segment can't be begun, or, with None, that after an error it could be written again.

        Raises:
            LogBusy: a living process writes under this name.
            OSError: what an earlier process left can't be mended, or its directory can't be made.
            ValueError: the name can't be a folder's, or is longer than 64 bytes.
        """
        if NAME.fullmatch(name) is None or name in NO_WRITERS:
            raise ValueError(f"log writer {name[:80]!r}: expected up to 64 of A-Z a-z 0-9 _ . -, as in 'worker-0'")
        self._directory = directory
        self._name = name
        self._on_durable = on_durable
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._began = 0.0
        """When the segment was begun, by a clock that nobody sets."""
        self._tensors = TensorFiles(directory, inline_bytes_max)
        (directory / name).mkdir(parents=True, exist_ok=True)
        sync_directory(directory)
        self._held = hold(directory, name)
        self._descriptor: int | None = None
        self._marker = b""
        self._failed_bytes = 0
        """The size of the frame that could not be written last."""
        self._pause: float | None = None
        """After how many seconds the disk is tried again; None while it can be written."""
        try:
            ending = recover_series(directory, name)
        except OSError:
            os.close(self._held)
            raise
        self.damage = ending.damage
        self._number, self._epoch = ending.number, ending.epoch + 1
        self._mark = Mark(HEADER_BYTES, ending.next_seq, ending.digest)
        try:
            self._open()
        except OSError as error:
            # A worker that is started while the disk is full must be there: some models are served unlogged.
            self._failed_bytes, self._pause = HEADER_BYTES, RETRY_SECONDS
            on_durable([], error)
        self._waiting: list[tuple[Record, Any]] = []
        self._waiting_bytes = 0
        self._condition = threading.Condition()
        self._closing = False
        self._idle = False
        self._sync_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name=f"log writer {name}", daemon=True)
        self._thread.start()

    def append(self, record: Record, token: Any) -> None:
        """Queue a record; `token` comes back through `on_durable`. Raises LogFull, also when the writer is closed."""
        size = _size(record)
        with self._condition:
            if self._closing:
                raise LogFull("the log takes no more records: its writer is closed")
            if self._waiting and self._waiting_bytes + size > WAITING_BYTES_MAX:
                raise LogFull(f"{len(self._waiting)} records wait for the disk, about {self._waiting_bytes} bytes")
            self._waiting.append((record, token))
            self._waiting_bytes += size
            if len(self._waiting) == 1:
                self._condition.notify()

    def append_now(self, record: Record, token: Any) -> bool:
        """Write and sync a record on the caller's thread when nothing else waits or is being written.

        Returns whether it was; `on_durable` has been called then, on the caller's thread. A lone record is durable
        sooner this way: two hand-overs between threads take as long as the sync of a fast disk. What takes longer than
        `SYNC_SECONDS_MAX` is not waited for again until the writer's thread has seen the disk to be fast.
        """
        # A large tensor has a file of its own to be written and synced.
        if self._sync_seconds > SYNC_SECONDS_MAX or self._tensors.has_large(record):
            return False
        if not self._condition.acquire(blocking=False):
            return False
        try:
            if not self._idle or self._waiting or self._closing:
                return False
            for frame, tokens in self._frames([(record, token)]):
                self._write(frame, tokens)
            if self._pause is not None:
                self._condition.notify()  # The thread waits for records; now it is to try the disk.
            return True
        finally:
            self._condition.release()

    def close(self) -> None:
        """Write and sync what waits, close the segment, end the thread."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (batch := self._take()) is not None:
                if not batch:
                    self._try_disk()
                for frame, tokens in self._frames(batch):
                    self._write(frame, tokens)
                self._tensors.settled()
        finally:
            # Also after an error in `on_durable`: what is appended then would wait for ever.
            with self._condition:
                self._closing = True
            self._tensors.settled()
            self._end_segment()
            os.close(self._held)

    def _take(self) -> list[tuple[Record, Any]] | None:
        """Wait for records and take them all; an empty list says to try the disk, None is the end."""
        with self._condition:
            while not self._waiting:
                if self._closing:
                    return None
                self._idle = True
                told = self._condition.wait(self._pause)
                self._idle = False
                if not told and self._pause is not None:
                    break
            batch, self._waiting = self._waiting, []
            self._waiting_bytes = 0
        return batch

    def _frames(self, batch: list[tuple[Record, Any]]) -> Iterator[tuple[list[Encoded], list[Any]]]:
        """Encode a batch and cut it into frames of a bounded size; a record that can't be encoded fails alone."""
        frame: list[Encoded] = []
        tokens: list[Any] = []
        size = 0
        for record, token in batch:
            try:
                if self._tensors.has_large(record):
                    record = self._tensors.moved(record)  # noqa: PLW2901 - from here on it is this one
                header, payload = records.encode(record)
                encoded = (header, payload, id_milliseconds(record.id))
            except (TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
                self._on_durable([token], RecordUnwritable(f"prediction {record.id[:64]}: {error}"))
                continue
            except OSError as error:
                self._failed(_size(record))
                self._on_durable([token], error)
                continue
            frame.append(encoded)
            tokens.append(token)
            size += len(header) + len(payload)
            if size >= FRAME_BYTES_MAX:
                yield frame, tokens
                frame, tokens, size = [], [], 0
        if frame:
            yield frame, tokens

    def _write(self, frame: list[Encoded], tokens: list[Any]) -> None:
        failure: OSError | None = None
        try:
            self._commit(frame)
        except MemoryError:
            failure = OSError(ENOMEM, f"no memory for a frame of {len(frame)} records")
        except OSError as error:
            failure = error
        if failure is not None:
            self._abandon()
            self._failed(sum(len(header) + len(payload) for header, payload, _ in frame))
        elif self._pause is not None:
            self._pause = None
        self._on_durable(tokens, failure)

    def _failed(self, size: int) -> None:
        """Have the disk tried with so many bytes; at once, as what failed may have been that one file."""
        self._failed_bytes = min(FRAME_BYTES_MAX, size)
        self._pause = 0.0

    def _try_disk(self) -> None:
        """See whether a frame like the one that failed could be written now; nothing is left of it."""
        try:
            if self._descriptor is None:
                self._open()
            assert self._descriptor is not None, "just opened"
            written = os.pwrite(self._descriptor, bytes(self._failed_bytes), self._mark.end)
            os.fdatasync(self._descriptor)
            os.ftruncate(self._descriptor, self._mark.end)
        except (OSError, MemoryError):
            written = -1
        if written != self._failed_bytes:
            self._abandon()
            self._pause = RETRY_SECONDS
            return
        self._pause = None
        self._on_durable([], None)

    def _commit(self, encoded: list[Encoded]) -> None:
        if self._descriptor is not None and self._is_full():
            self._end_segment()
        if self._descriptor is None:
            self._open()
        descriptor = self._descriptor
        assert descriptor is not None, "just opened"
        mark = self._mark
        raw, digest = encode_frame(encoded, mark.next_seq, mark.digest, self._marker)
        written = os.pwrite(descriptor, raw, mark.end)
        if written != len(raw):
            path = segment_path(self._directory, self._name, self._number)
            raise OSError(ENOSPC, f"{written} of {len(raw)} bytes written, the disk is full", str(path))
        began = perf_counter()
        os.fdatasync(descriptor)
        self._sync_seconds = perf_counter() - began
        start = decode_start(raw, mark.end, self._marker)
        assert start is not None, "just encoded"
        mark = mark.behind(start, digest)
        write_mark(descriptor, mark)
        self._mark = mark

    def _is_full(self) -> bool:
        """Whether the next frame begins a segment: what is closed is compressed, and becomes Parquet."""
        if self._mark.end == HEADER_BYTES:
            return False
        return self._mark.end >= self._segment_bytes or monotonic() >= self._began + self._segment_seconds

    def _open(self) -> None:
        """Begin the next segment, which goes on from the mark."""
        marker = os.urandom(MARKER_BYTES)
        header = SegmentHeader(
            self._name, self._number + 1, self._epoch, time_ns(), self._mark.next_seq, self._mark.digest, marker
        )
        self._descriptor, self._mark = create_segment(self._directory, header)
        self._began = monotonic()
        self._marker = marker
        self._number += 1

    def _abandon(self) -> None:
        """Let a segment be, after an error. One with nothing durable in it goes: a full disk would gather them."""
        if self._descriptor is None:
            return
        os.close(self._descriptor)
        self._descriptor = None
        if self._mark.end == HEADER_BYTES:
            with suppress(OSError):
                segment_path(self._directory, self._name, self._number).unlink()
                self._number -= 1

    def _end_segment(self) -> None:
        """Close a segment whose frames are all durable. What fails here is made good by the next recovery."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        mark = self._mark
        try:
            write_mark(descriptor, Mark(mark.end, mark.next_seq, mark.digest, mark.first_ms, mark.last_ms, closed=True))
            os.fdatasync(descriptor)
        except OSError:
            return
        finally:
            os.close(descriptor)


def _size(record: Record) -> int:
    payload = record.payload
    if payload is None:
        return RECORD_BYTES
    size = RECORD_BYTES
    for tensor in payload.inputs:
        size += len(tensor.data)
    for tensor in payload.outputs:
        size += len(tensor.data)
    return size

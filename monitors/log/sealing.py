"""Sealing: closed segments are compressed, one at a time, and what a killed sealer left is put in order.

Whoever changes what is closed holds the log's sealing lock: the sealer, `snowgate log seal`, and whoever erases
payloads. Readers and writers need no lock.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from monitors.log import sealed
from monitors.log.errors import LogBusy, LogCorrupt
from monitors.log.frame import FrameStart
from monitors.log.segment import (
    HEADER_BYTES,
    Segment,
    plain_numbers,
    sealed_path,
    segment_path,
    sync_directory,
    writers,
)

LOCK = "seal.lock"
COMPARED_BYTES = 1 << 20


@contextmanager
def sealing(directory: Path, *, wait: bool) -> Iterator[None]:
    """Hold the sealing lock; the kernel gives it back when the process dies. Raises LogBusy, unless it may wait."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    except BlockingIOError as error:
        raise LogBusy(f"{path}: another process seals this log at the moment; try again in a minute") from error
    finally:
        os.close(descriptor)


def closed_segments(directory: Path) -> Iterator[tuple[str, int]]:
    """Yield the closed segments that are not sealed, each writer's in their order."""
    for writer in writers(directory):
        for number in plain_numbers(directory, writer):
            # A damaged header or mark is for `verify` to report; what can't be read is left as it is.
            with suppress(LogCorrupt, FileNotFoundError), Segment(directory, writer, number) as segment:
                if segment.mark().closed:
                    yield writer, number


def seal_segment(directory: Path, writer: str, number: int) -> None:
    """Compress a closed segment; the lock must be held. Raises OSError."""
    with Segment(directory, writer, number) as segment:
        write_sealed(segment, segment.read)
        plain = segment.path
    plain.unlink()
    sync_directory(plain.parent)


def write_sealed(segment: Segment, read: Callable[[int, int], bytes]) -> None:
    """Write a segment's sealed form, durably, with the bytes that `read(size, offset)` gives. Raises OSError."""
    path = sealed_path(segment.directory, segment.writer, segment.number)
    if not path.parent.exists():
        path.parent.mkdir()
        sync_directory(path.parent.parent)
    making = path.with_suffix(".new")
    end = segment.mark().end
    try:
        with making.open("wb") as file:
            sealed.write_sealed(file, read, end, _starts(segment, end))
            file.flush()
            os.fsync(file.fileno())
        _compare(making, read, end)
        making.rename(path)
    except OSError:
        making.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _compare(path: Path, read: Callable[[int, int], bytes], end: int) -> None:
    """Read back what was written, before the other copy goes. Raises OSError."""
    with path.open("rb") as file:
        written = sealed.SealedFile(file.fileno())
        for offset in range(0, end, COMPARED_BYTES):
            size = min(COMPARED_BYTES, end - offset)
            if written.read(size, offset) != read(size, offset):
                raise OSError(f"{path}: does not hold what was written to it, at byte {offset} of the segment")


def clean(directory: Path) -> None:
    """Remove what a killed sealer left: half-made files, and plain segments that are sealed. The lock must be held."""
    for writer in writers(directory):
        for unfinished in (directory / writer / sealed.FOLDER).glob("*.new"):
            unfinished.unlink()
        for number in plain_numbers(directory, writer):
            if sealed_path(directory, writer, number).exists():
                segment_path(directory, writer, number).unlink()
                sync_directory(directory / writer)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        digest = sha256()
        while piece := file.read(COMPARED_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _starts(segment: Segment, end: int) -> Iterator[FrameStart]:
    """Walk the frames, also behind damage; each head is checked, because the index is made of it."""
    offset = HEADER_BYTES
    while offset < end:
        frame = segment.frame(offset, end) or segment.next_frame(offset, end)
        if frame is None:
            return
        yield frame.start
        offset = frame.start.end

"""Recovery: bringing to an end what a dead writer left open.

Everything up to the durable mark was synced. Behind it lies what the writer was doing when it died: whole frames, which
are kept, synced and only then shown to readers, and at most one torn frame, which is cut. A damaged frame with good
ones behind it is no tail but corruption: nothing is cut then, the segment ends behind the last good frame, and
readers report the damage whenever they meet it. Recovery never stops a writer from starting: old damage is for people
to look at, and new predictions have to be logged meanwhile.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from monitors.log.errors import LogBusy, LogCorrupt
from monitors.log.frame import Frame
from monitors.log.segment import (
    HEADER_BYTES,
    NO_DIGEST,
    Mark,
    Segment,
    plain_numbers,
    read_mark,
    sealed_numbers,
    sync_directory,
    write_mark,
    writers,
)

LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a writer's series ends: what its next segment goes on from, and the damage met on the way."""

    number: int
    epoch: int
    next_seq: int
    digest: bytes
    damage: tuple[LogCorrupt, ...]


@contextmanager
def holding(directory: Path, writer: str) -> Iterator[None]:
    """Hold a writer's name; the kernel gives it back when the process dies. Raises LogBusy."""
    descriptor = hold(directory, writer)
    try:
        yield
    finally:
        os.close(descriptor)


def hold(directory: Path, writer: str) -> int:
    """Take a writer's name and return the descriptor that keeps it. Raises LogBusy."""
    path = directory / writer / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise LogBusy(
            f"{path}: a living process writes as {writer!r}, expected none; stop it or take a name of its own"
        ) from error
    return descriptor


def recover_all(directory: Path) -> list[LogCorrupt]:
    """Mend the series of every writer that is not alive, and return the damage that can't be mended. Raises OSError."""
    damage: list[LogCorrupt] = []
    for writer in writers(directory):
        with suppress(LogBusy), holding(directory, writer):
            damage += recover_series(directory, writer).damage
    return damage


def recover_series(directory: Path, writer: str) -> Ending:
    """Mend all segments of one writer; its name must be held. Raises OSError."""
    for unfinished in (directory / writer).glob("*.new"):
        unfinished.unlink()
    damage: list[LogCorrupt] = []
    ending = _sealed_ending(directory, writer, damage)
    # What is sealed was closed; a plain file that is there too has outlived a sealer that was killed.
    found = [number for number in plain_numbers(directory, writer) if number > ending.number]
    for position, number in enumerate(found):
        until_seq = _first_seq(directory, writer, found[position + 1]) if position + 1 < len(found) else None
        ending = _recover_segment(directory, writer, number, until_seq, ending, damage)
    return replace(ending, damage=tuple(damage))


def _sealed_ending(directory: Path, writer: str, damage: list[LogCorrupt]) -> Ending:
    """Return where the sealed segments end: they were closed, so the last one that can be read says it."""
    ending = Ending(0, 0, 0, NO_DIGEST, ())
    unreadable = []
    for number in reversed(sealed_numbers(directory, writer)):
        try:
            with Segment(directory, writer, number) as segment:
                mark = segment.mark()
                ending = Ending(number, segment.header.epoch, mark.next_seq, mark.digest, ())
                break
        except LogCorrupt as error:
            unreadable.append((number, error))
    for number, found in reversed(unreadable):
        damage.append(found)
        ending = _ending_without_header(found.path, number, ending)
    return ending


def _first_seq(directory: Path, writer: str, number: int) -> int | None:
    try:
        with Segment(directory, writer, number) as segment:
            return segment.header.first_seq
    except LogCorrupt:
        return None


def _recover_segment(
    directory: Path, writer: str, number: int, until_seq: int | None, before: Ending, damage: list[LogCorrupt]
) -> Ending:
    try:
        segment = Segment(directory, writer, number, writable=True)
    except LogCorrupt as error:
        damage.append(error)
        return _ending_without_header(error.path, number, before)
    with segment:
        mark = read_mark(segment.descriptor)
        if mark is None or not mark.closed:
            mark = _close(segment, mark, until_seq, damage)
        return Ending(number, segment.header.epoch, mark.next_seq, mark.digest, ())


def _ending_without_header(path: Path, number: int, before: Ending) -> Ending:
    with path.open("rb") as file:
        mark = read_mark(file.fileno())
        if mark is not None:
            return Ending(number, before.epoch + 1, mark.next_seq, mark.digest, ())
        # No number may be given twice. A record takes more than a byte, so there were fewer than the file has bytes.
        beyond = before.next_seq + os.fstat(file.fileno()).st_size
    return Ending(number, before.epoch + 1, beyond, NO_DIGEST, ())


def _close(segment: Segment, mark: Mark | None, until_seq: int | None, damage: list[LogCorrupt]) -> Mark:
    """Find the segment's end, cut what is torn, sync what is whole, and publish the mark as the last one."""
    size = os.fstat(segment.descriptor).st_size
    mark = mark or Mark(HEADER_BYTES, segment.header.first_seq, segment.header.previous)
    if size < mark.end:
        damage.append(_shortened(segment, size))
    while mark.end < size:
        frame = _whole_frame(segment, mark.end, size)
        if frame is None:
            frame = _good_behind(segment, mark.end, size)
            if frame is not None and (until_seq is None or frame.start.first_seq < until_seq):
                damage.append(segment.damage(mark.end, size, mark.next_seq))
        # From the number on where the next segment begins, the writer gave frames up after an error.
        if frame is None or (until_seq is not None and frame.start.first_seq >= until_seq):
            os.ftruncate(segment.descriptor, mark.end)
            break
        mark = mark.behind(frame.start, frame.digest())
    os.fsync(segment.descriptor)
    mark = replace(mark, closed=True)
    write_mark(segment.descriptor, mark)
    os.fsync(segment.descriptor)
    sync_directory(segment.path.parent)
    return mark


def _whole_frame(segment: Segment, offset: int, end: int) -> Frame | None:
    frame = segment.frame(offset, end)
    if frame is None:
        return None
    for entry in frame.entries():
        if not entry.body_is_good(os.pread(segment.descriptor, entry.body_bytes, entry.body_offset)):
            return None
    return frame


def _good_behind(segment: Segment, offset: int, end: int) -> Frame | None:
    frame = segment.next_frame(offset, end)
    while frame is not None and _whole_frame(segment, frame.start.offset, end) is None:
        frame = segment.next_frame(frame.start.offset, end)
    return frame


def _shortened(segment: Segment, size: int) -> LogCorrupt:
    """Describe a file that ends before what was once durable in it."""
    damage = LogCorrupt(segment.path, segment.writer, segment.header.first_seq, size, "cut short")
    with suppress(LogCorrupt):
        for frame in segment.frames(HEADER_BYTES, size):
            damage = LogCorrupt(segment.path, segment.writer, frame.start.end_seq, size, "cut short")
    return damage

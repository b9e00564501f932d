"""Segments: the files that frames lie in, how they begin, how they are made and walked.

The format is described in the package's docstring.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from types import TracebackType
from typing import Self
from zlib import crc32

from monitors.log import sealed
from monitors.log.errors import LogCorrupt
from monitors.log.frame import (
    MARKER_BYTES,
    PREFIX,
    START_BYTES,
    Entry,
    Frame,
    FrameStart,
    decode_start,
    head_is_good,
)
from monitors.log.record import Record

MAGIC = b"SNOWLOG1"
HEADER = struct.Struct("<8sQQQQ32s8s64s")
MARK = struct.Struct("<QQQQ32sI")
CHECKSUM = struct.Struct("<I")
MARK_OFFSET = 512
HEADER_BYTES = 4096  # header and mark; frames begin on a page of their own
NO_DIGEST = bytes(32)
NEVER_MS = (1 << 64) - 1
MARK_READS_MAX = 1_000
"""A mark read while it is overwritten fails its sum; the next read, microseconds later, is good. After a thousand of
them (some milliseconds) nobody is writing it: it is damaged."""
SEARCH_BYTES = 1 << 20
MISPLACED = "header of another segment"
"""Somebody renamed or replaced the file."""
TENSORS = "tensors"
"""The folder of tensors that are too large for a frame."""
CURSORS = "cursors"
"""The folder of those who follow."""
PARQUET = "parquet"
"""The folder of the projection."""
LABELS = "labels"
"""In this folder lie the labels in Parquet."""
NO_WRITERS = frozenset({CURSORS, LABELS, PARQUET, TENSORS})
"""Folders of the log that are no writer's; no writer can be called so."""
BODY_READS_MAX = 10
"""A body read while it is overwritten with "erased. …" has some of both; that takes microseconds a page."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What is written once: `epoch` counts the openings of this writer, and `marker` begins each frame."""

    writer: str
    number: int
    epoch: int
    created_ns: int
    first_seq: int
    previous: bytes
    marker: bytes

    def encode(self) -> bytes:
        """The header with its sum."""
        name = self.writer.encode()
        packed = HEADER.pack(
            MAGIC, self.number, self.epoch, self.created_ns, self.first_seq, self.previous, self.marker, name
        )
        return packed + CHECKSUM.pack(crc32(packed))


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the segment is durable, and what lies up to there; overwritten in place after each sync."""

    end: int
    next_seq: int
    digest: bytes
    first_ms: int = NEVER_MS
    last_ms: int = 0
    closed: bool = False

    def encode(self) -> bytes:
        """The mark with its sum."""
        packed = MARK.pack(self.end, self.next_seq, self.first_ms, self.last_ms, self.digest, int(self.closed))
        return packed + CHECKSUM.pack(crc32(packed))

    def behind(self, start: FrameStart, digest: bytes) -> "Mark":
        """The mark behind one more frame."""
        first_ms, last_ms = min(self.first_ms, start.first_ms), max(self.last_ms, start.last_ms)
        return Mark(start.end, start.end_seq, digest, first_ms, last_ms)


def segment_path(directory: Path, writer: str, number: int) -> Path:
    """Where a segment lies, unless it is sealed."""
    return directory / writer / f"{number:010d}.seg"


def sealed_path(directory: Path, writer: str, number: int) -> Path:
    """Where a sealed segment lies."""
    return directory / writer / sealed.FOLDER / f"{number:010d}{sealed.SUFFIX}"


def writers(directory: Path) -> list[str]:
    """List the writers that have something in this log."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and entry.name not in NO_WRITERS)
    except FileNotFoundError:
        return []


def numbers(directory: Path, writer: str) -> list[int]:
    """List the numbers of a writer's segments, ascending."""
    # In this order: one that is sealed in between is then in one of the two lists, or in both.
    return sorted({*plain_numbers(directory, writer), *sealed_numbers(directory, writer)})


def plain_numbers(directory: Path, writer: str) -> list[int]:
    """List the numbers of the segments that are not sealed, ascending."""
    return _listed(directory / writer, ".seg")


def sealed_numbers(directory: Path, writer: str) -> list[int]:
    """List the numbers of the sealed segments, ascending."""
    return _listed(directory / writer / sealed.FOLDER, sealed.SUFFIX)


def exists(directory: Path, writer: str, number: int) -> bool:
    """Say whether a segment is there, in one form or the other."""
    return segment_path(directory, writer, number).exists() or sealed_path(directory, writer, number).exists()


def _listed(folder: Path, suffix: str) -> list[int]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except FileNotFoundError:
        return []
    found = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
    return sorted(int(name) for name in found if name.isdigit())


class Segment:
    """One open segment, to be read beside its writer; offsets are those of the plain file when it is sealed too."""

    def __init__(self, directory: Path, writer: str, number: int, *, writable: bool = False) -> None:
        """Open a segment.

        Raises:
            FileNotFoundError: there is none of this number.
            LogCorrupt: its header is not what was written.
        """
        self.directory = directory
        self.writer = writer
        self.number = number
        self._sealed: sealed.SealedFile | None = None
        try:
            self.path = segment_path(directory, writer, number)
            self.descriptor = os.open(self.path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except FileNotFoundError:
            self.path = sealed_path(directory, writer, number)
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self.path.suffix == sealed.SUFFIX:
                self._sealed = sealed.SealedFile(self.descriptor)
            header = self._header()
            if header is None:
                raise ValueError("damaged segment header")
        except ValueError as error:
            os.close(self.descriptor)
            raise LogCorrupt(self.path, writer, -1, 0, str(error), (number + 1, HEADER_BYTES)) from None
        self.header = header

    def read(self, size: int, offset: int) -> bytes:
        """Read bytes of the plain form; fewer where it ends."""
        if self._sealed is None:
            return os.pread(self.descriptor, size, offset)
        return self._sealed.read(size, offset)

    @property
    def is_sealed(self) -> bool:
        """Whether this is the compressed form, which nobody writes to any more."""
        return self._sealed is not None

    def _header(self) -> SegmentHeader | None:
        raw = os.pread(self.descriptor, HEADER.size + CHECKSUM.size, 0)
        if len(raw) < HEADER.size + CHECKSUM.size or not _sum_holds(raw):
            return None
        magic, number, epoch, created_ns, first_seq, previous, marker, name = HEADER.unpack_from(raw)
        writer = name.rstrip(b"\0").decode()
        if magic != MAGIC:
            return None
        if (writer, number) != (self.writer, self.number):
            raise ValueError(MISPLACED)
        return SegmentHeader(writer, number, epoch, created_ns, first_seq, previous, marker)

    def mark(self) -> Mark:
        """Read the durable mark. Raises LogCorrupt."""
        mark = read_mark(self.descriptor)
        if mark is None:
            # Its writer's next commit or the next recovery makes it anew, if there is one.
            over = exists(self.directory, self.writer, self.number + 1)
            resume = (self.number + 1, HEADER_BYTES) if over else None
            seq = self.header.first_seq
            raise LogCorrupt(self.path, self.writer, seq, MARK_OFFSET, "damaged durable mark", resume)
        return mark

    def padding_is_good(self) -> bool:
        """Say whether nothing stands where nothing was written: behind the header, and behind the mark."""
        raw = os.pread(self.descriptor, HEADER_BYTES, 0)
        return not any(raw[HEADER.size + CHECKSUM.size : MARK_OFFSET] + raw[MARK_OFFSET + MARK.size + CHECKSUM.size :])

    @property
    def size(self) -> int:
        """How many bytes there are of the plain form, durable or not."""
        return os.fstat(self.descriptor).st_size if self._sealed is None else self._sealed.size

    def removed(self) -> bool:
        """Say whether the file has no name any more."""
        return os.fstat(self.descriptor).st_nlink == 0

    def start(self, offset: int, end: int) -> FrameStart | None:
        """Read where a frame begins and ends, unchecked; None when none does or it would go beyond `end`."""
        start = decode_start(self.read(START_BYTES, offset), offset, self.header.marker)
        return start if start is not None and start.end <= end else None

    def frame(self, offset: int, end: int) -> Frame | None:
        """Read the frame at an offset, all but its bodies; None when it is damaged or goes beyond `end`."""
        start = self.start(offset, end)
        if start is None:
            return None
        head = self.read(start.head_bytes, offset + PREFIX.size)
        return Frame(start, head) if head_is_good(start, head) else None

    def regions(self, milliseconds: int) -> Iterator[tuple[int, int]]:
        """Yield where frames with ids of this time begin (the first of some, and where to stop); for a sealed one."""
        assert self._sealed is not None, "a plain segment has no index"
        return self._sealed.regions(milliseconds)

    def frames(self, offset: int, end: int) -> Iterator[Frame]:
        """Walk all frames. Raises LogCorrupt at one that is damaged."""
        seq = self.header.first_seq if offset == HEADER_BYTES else None
        while offset < end:
            frame = self.frame(offset, end)
            if frame is None:
                raise self.damage(offset, end, seq)
            yield frame
            offset, seq = frame.start.end, frame.start.end_seq

    def next_frame(self, offset: int, end: int) -> Frame | None:
        """Look for the first good frame behind damage at `offset`."""
        position = offset + 1
        while position < end:
            raw = self.read(min(SEARCH_BYTES, end - position), position)
            found = raw.find(self.header.marker)
            if found >= 0:
                frame = self.frame(position + found, end)
                if frame is not None:
                    return frame
                position += found + 1
            elif len(raw) < MARKER_BYTES:
                break
            else:
                # The marker may lie across the edge of what was read.
                position += len(raw) - MARKER_BYTES + 1
        return None

    def damage(self, offset: int, end: int, seq: int | None = None) -> LogCorrupt:
        """Describe the damage at an offset: whose, from which number on, and where the good goes on."""
        if seq is None:
            seq = self._seq_at(offset, end)
        behind = self.next_frame(offset, end)
        resume = end if behind is None else behind.start.offset
        return LogCorrupt(self.path, self.writer, seq, offset, "damaged frame", (self.number, resume))

    def _seq_at(self, offset: int, end: int) -> int:
        seq, position = self.header.first_seq, HEADER_BYTES
        while position < offset:
            frame = self.frame(position, end) or self.next_frame(position, end)
            if frame is None or frame.start.offset >= offset:
                break
            position, seq = frame.start.end, frame.start.end_seq
        return seq

    def body(self, entry: Entry) -> bytes:
        """Read one record's body. Raises LogCorrupt when it is not what was written."""
        for _ in range(BODY_READS_MAX):
            body = self.read(entry.body_bytes, entry.body_offset)
            if entry.body_is_good(body):
                return body
            os.sched_yield()
        raise LogCorrupt(self.path, self.writer, entry.seq, entry.body_offset, "damaged payload")

    def record(self, entry: Entry) -> Record:
        """Decode the record of an entry, without its payload."""
        record = entry.record()
        record.writer = self.writer
        return record

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_mark(descriptor: int) -> Mark | None:
    """Read a segment's durable mark; None when it is damaged."""
    for _ in range(MARK_READS_MAX):
        raw = os.pread(descriptor, MARK.size + CHECKSUM.size, MARK_OFFSET)
        if len(raw) == MARK.size + CHECKSUM.size and _sum_holds(raw):
            end, next_seq, first_ms, last_ms, digest, closed = MARK.unpack_from(raw)
            return Mark(end, next_seq, digest, first_ms, last_ms, bool(closed))
        os.sched_yield()
    return None


def write_mark(descriptor: int, mark: Mark) -> None:
    """Publish a mark to every process of this machine. It needs no sync: after a power cut, recovery finds the end."""
    raw = mark.encode()
    if os.pwrite(descriptor, raw, MARK_OFFSET) != len(raw):
        raise OSError("durable mark written in part")


def create_segment(directory: Path, header: SegmentHeader) -> tuple[int, Mark]:
    """Make a segment that appears whole or not at all; return its descriptor and its mark. Raises OSError."""
    path = segment_path(directory, header.writer, header.number)
    making = path.with_suffix(".new")
    mark = Mark(HEADER_BYTES, header.first_seq, header.previous)
    raw = (header.encode().ljust(MARK_OFFSET, b"\0") + mark.encode()).ljust(HEADER_BYTES, b"\0")
    descriptor = os.open(making, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        if os.pwrite(descriptor, raw, 0) != len(raw):
            raise OSError(ENOSPC, "header written in part, the disk is full", str(making))
        os.fsync(descriptor)
        making.rename(path)
        sync_directory(path.parent)
    except OSError:
        os.close(descriptor)
        making.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise
    return descriptor, mark


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable, after a file was made or removed in it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sum_holds(raw: bytes) -> bool:
    return raw[-CHECKSUM.size :] == CHECKSUM.pack(crc32(raw[: -CHECKSUM.size]))

"""Somebody who changes a log and knows how it is made: whatever can be computed without the key is computed anew."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from monitors.log.frame import ENTRY, FIXED, PREFIX, Frame, FrameStart, _checksum, erased_body
from monitors.log.segment import (
    HEADER_BYTES,
    MARK_OFFSET,
    NO_DIGEST,
    Mark,
    Segment,
    SegmentHeader,
    numbers,
    segment_path,
)


@dataclass
class Forged:
    """One record as it lies in a frame; `times` are the frame's."""

    seq: int
    header: bytes
    body: bytes
    times: tuple[int, int]


Frames = list[list[Forged]]


def frames_of(folder: Path, writer: str, number: int) -> list[FrameStart]:
    """Where the frames of a segment lie."""
    with Segment(folder, writer, number) as segment:
        return [frame.start for frame in segment.frames(HEADER_BYTES, segment.mark().end)]


def filled(folder: Path, writer: str) -> list[int]:
    """The numbers of a writer's segments that have records."""
    return [number for number in numbers(folder, writer) if frames_of(folder, writer, number)]


def forge(folder: Path, writer: str, change: Callable[[Frames], Frames]) -> None:
    """Change a writer's records, and mend all sums, numbers and digests from there on, over all its segments."""
    seq, digest = 0, NO_DIGEST
    for number in numbers(folder, writer):
        with Segment(folder, writer, number) as segment:
            header, mark = segment.header, segment.mark()
            found = [_records(segment.path.read_bytes(), frame) for frame in segment.frames(HEADER_BYTES, mark.end)]
        header = replace(header, first_seq=seq, previous=digest)
        new = Mark(HEADER_BYTES, seq, digest)
        raw = b""
        for records in change(found):
            frame, start, digest = _frame(records, seq, digest, header.marker, new.end)
            raw += frame
            new = new.behind(start, digest)
            seq = new.next_seq
        _write(segment_path(folder, writer, number), header, replace(new, closed=mark.closed), raw)


def rewrite(seq: int) -> Callable[[Frames], Frames]:
    """A change of what one record says, and nothing else."""

    def change(frames: Frames) -> Frames:
        for records in frames:
            for one in records:
                if one.seq == seq:
                    assert b"signs" in one.header
                    one.header = one.header.replace(b"signs", b"sighs")
        return frames

    return change


def drop(seq: int) -> Callable[[Frames], Frames]:
    """A change by which one record was never there."""

    def change(frames: Frames) -> Frames:
        left = [[one for one in records if one.seq != seq] for records in frames]
        return [records for records in left if records]

    return change


def set_mark(folder: Path, writer: str, number: int, *, frames: int, closed: bool = False, cut: bool = False) -> None:
    """Put a segment's durable mark back to where it had so many frames, and cut what is behind it, or leave it."""
    path = segment_path(folder, writer, number)
    with Segment(folder, writer, number) as segment:
        mark = Mark(HEADER_BYTES, segment.header.first_seq, segment.header.previous)
        for frame in list(segment.frames(HEADER_BYTES, segment.mark().end))[:frames]:
            mark = mark.behind(frame.start, frame.digest())
    content = path.read_bytes()
    raw = replace(mark, closed=closed).encode()
    content = content[:MARK_OFFSET] + raw + content[MARK_OFFSET + len(raw) :]
    path.write_bytes(content[: mark.end] if cut else content)


def erase(folder: Path, writer: str, number: int, seq: int) -> None:
    """Erase a payload in place, as `snowgate log forget` does."""
    with Segment(folder, writer, number) as segment:
        entries = [one for frame in segment.frames(HEADER_BYTES, segment.mark().end) for one in frame.entries()]
    (entry,) = (one for one in entries if one.seq == seq)
    with segment_path(folder, writer, number).open("r+b") as file:
        file.seek(entry.body_offset)
        file.write(erased_body(entry.body_bytes))


def _records(content: bytes, frame: Frame) -> list[Forged]:
    times = (frame.start.first_ms, frame.start.last_ms)
    return [
        Forged(one.seq, bytes(one.header), content[one.body_offset : one.body_offset + one.body_bytes], times)
        for one in frame.entries()
    ]


def _frame(
    records: list[Forged], seq: int, previous: bytes, marker: bytes, offset: int
) -> tuple[bytes, FrameStart, bytes]:
    entries = [ENTRY.pack(len(one.header), len(one.body), sha256(one.body).digest()) for one in records]
    fixed = FIXED.pack(previous, seq, len(records), *records[0].times)
    head = b"".join([fixed, *entries, *(one.header for one in records)])
    bodies = b"".join(one.body for one in records)
    checksum = _checksum(head, len(head), len(bodies))
    prefix = PREFIX.pack(marker, checksum, len(head), len(bodies))
    start = FrameStart(offset, checksum, len(head), len(bodies), previous, seq, len(records), *records[0].times)
    return prefix + head + bodies, start, sha256(head).digest()


def _write(path: Path, header: SegmentHeader, mark: Mark, raw: bytes) -> None:
    begin = (header.encode().ljust(MARK_OFFSET, b"\0") + mark.encode()).ljust(HEADER_BYTES, b"\0")
    path.write_bytes(begin + raw)

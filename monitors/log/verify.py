"""Verification: every frame, number, digest and payload of every writer, up to the durable marks."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monitors.log import tensors
from monitors.log.contract import Report
from monitors.log.errors import LogCorrupt
from monitors.log.frame import Entry, Frame
from monitors.log.record import UNKNOWN, Record
from monitors.log.segment import HEADER_BYTES, NO_DIGEST, Segment, numbers, segment_path, writers


@dataclass(slots=True)
class _Walk:
    """Where the walk along one writer's chain stands, and what it has found in all."""

    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, Any]] = field(default_factory=list)
    writer: str = ""
    segment: int = 0
    seq: int = 0
    digest: bytes = NO_DIGEST
    unknown: int = 0
    good_files: set[str] = field(default_factory=set)

    def begin(self, writer: str) -> None:
        self.writer, self.segment, self.seq, self.digest = writer, 0, 0, NO_DIGEST

    def wrong(self, kind: str, message: str, seq: int | None = None) -> None:
        self.problems.append(
            {
                "writer": self.writer,
                "segment": self.segment,
                "seq": self.seq if seq is None else seq,
                "kind": kind,
                "message": message,
            }
        )


def verify(directory: Path) -> Report:
    """Walk the whole log, also beside its living writers. It goes on behind damage, and counts what is good there."""
    walk = _Walk()
    for writer in writers(directory):
        walk.begin(writer)
        # Listed before any mark is read: a segment that has a successor by then is at its last mark.
        for number in numbers(directory, writer):
            if number != walk.segment + 1:
                walk.wrong("missing", f"segment {walk.segment + 1} to {number - 1}: not there")
            walk.segment = number
            try:
                with Segment(directory, writer, number) as segment:
                    _verify_segment(segment, walk)
            except LogCorrupt as error:
                walk.wrong("altered", str(error))
            except FileNotFoundError:
                path = segment_path(directory, writer, number)
                walk.wrong("missing", f"{path}: was there a moment ago")
    kinds = walk.kinds
    return Report(
        records=kinds.total(),
        answered=kinds["answered"],
        refused=kinds["refused"],
        shadow=kinds["shadow"],
        unknown=walk.unknown,
        bad=len(walk.problems),
        first_bad=walk.problems[0] if walk.problems else None,
    )


def _verify_segment(segment: Segment, walk: _Walk) -> None:
    header, mark = segment.header, segment.mark()
    if (header.first_seq, header.previous) != (walk.seq, walk.digest):
        message = f"{segment.path}: begins with seq {header.first_seq}, expected {walk.seq} and the same digest"
        walk.wrong("missing", message)
    walk.seq, walk.digest = header.first_seq, header.previous
    offset = HEADER_BYTES
    while offset < mark.end:
        frame = segment.frame(offset, mark.end)
        if frame is None:
            damage = segment.damage(offset, mark.end, walk.seq)
            walk.wrong("altered", str(damage))
            assert damage.resume is not None, "damage in a frame says where the good goes on"
            offset = damage.resume[1]
            behind = segment.frame(offset, mark.end)
            walk.seq = mark.next_seq if behind is None else behind.start.first_seq
            walk.digest = mark.digest if behind is None else behind.start.previous
            continue
        _verify_frame(segment, frame, walk)
        offset = frame.start.end
    if (walk.seq, walk.digest) != (mark.next_seq, mark.digest):
        walk.wrong("altered", f"{segment.path}: ends with seq {walk.seq}, expected {mark.next_seq} by the durable mark")
    walk.seq, walk.digest = mark.next_seq, mark.digest


def _verify_frame(segment: Segment, frame: Frame, walk: _Walk) -> None:
    start = frame.start
    if (start.first_seq, start.previous) != (walk.seq, walk.digest):
        walk.wrong("reordered", f"{segment.path}: the frame at byte {start.offset} is not the next one")
    for entry in frame.entries():
        record = entry.record()
        try:
            body = segment.body(entry)
        except LogCorrupt as error:
            walk.wrong("altered", str(error), entry.seq)
        else:
            _verify_files(segment, entry, record, body, walk)
        walk.kinds[record.kind] += 1
        walk.unknown += record.calls if record.model == UNKNOWN else 0
    walk.seq, walk.digest = start.end_seq, frame.digest()


def _verify_files(segment: Segment, entry: Entry, record: Record, body: bytes, walk: _Walk) -> None:
    if record.tensor_files:
        entry.complete(record, body)
        if record.payload is not None:
            for kind, message in tensors.problems(segment.directory, record.payload, walk.good_files):
                walk.wrong(kind, message, entry.seq)

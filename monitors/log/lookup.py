"""Finding one record by its id, in a log of any size.

An id tells when it was given. The manifest knows the times of every sealed segment, the index of a sealed segment those
of each block, and a frame those of its records: so one block of one segment is decompressed, and one frame decoded. In
a segment that is still written ids nearly ascend, and a bisection finds the place. Nothing is taken on trust that was
not checked: what is not where it should be is looked for in every frame.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import apsw

from monitors.log import tensors
from monitors.log.frame import MARKER_BYTES, FrameStart
from monitors.log.manifest import Manifest
from monitors.log.record import Record
from monitors.log.segment import HEADER_BYTES, Segment, plain_numbers, sealed_numbers, writers

PROBE_BYTES = 64 * 1024
"""What is read at once while a time is looked for in a segment that is being written."""
LATE_MS = 1_000
"""By how much ids may be out of order there and still be found at once: a slow answer's time."""


def candidates(directory: Path, milliseconds: int) -> Iterator[tuple[str, int]]:
    """Yield the segments that may hold an id of this time: by the manifest, then those that are not in it.

    Without a manifest (it is damaged, or not there) all are looked at.
    """
    tried = _covering(directory, milliseconds)
    yield from tried
    names = writers(directory)
    for writer in names:
        for number in reversed(plain_numbers(directory, writer)):
            yield writer, number
    # An id that is nowhere, or one whose segment was sealed in between.
    yield from (one for one in _covering(directory, milliseconds) if one not in tried)
    with suppress(apsw.Error), Manifest(directory) as manifest:
        tried += manifest.known()
    for writer in names:
        unknown = {(writer, number) for number in sealed_numbers(directory, writer)} - set(tried)
        yield from sorted(unknown, reverse=True)


def _covering(directory: Path, milliseconds: int) -> list[tuple[str, int]]:
    with suppress(apsw.Error), Manifest(directory) as manifest:
        return manifest.covering(milliseconds)
    return []


def in_segment(segment: Segment, prediction_id: str, milliseconds: int) -> Record | None:
    """Find a record in a segment, with its payload. Raises LogCorrupt: it is not there, or in a damaged frame."""
    mark = segment.mark()
    if not mark.first_ms <= milliseconds <= mark.last_ms:
        return None
    for start in _starts(segment, milliseconds, mark.end):
        record = _in_frame(segment, start.offset, mark.end, prediction_id)
        if record is not None:
            return record
    # Not where it should be, by frame starts that nobody has checked: look at every frame, and check it.
    offset, damage = HEADER_BYTES, None
    while offset < mark.end:
        frame = segment.frame(offset, mark.end)
        if frame is None:
            damage = damage or segment.damage(offset, mark.end)
            frame = segment.next_frame(offset, mark.end)
            if frame is None:
                break
        if frame.start.first_ms <= milliseconds <= frame.start.last_ms:
            record = _in_frame(segment, frame.start.offset, mark.end, prediction_id)
            if record is not None:
                return record
        offset = frame.start.end
    if damage is not None:
        raise damage
    return None


def _starts(segment: Segment, milliseconds: int, end: int) -> Iterator[FrameStart]:
    """Yield, unchecked, the frames that should hold ids of this time."""
    regions = segment.regions(milliseconds) if segment.is_sealed else _region(segment, milliseconds, end)
    for first, limit in regions:
        offset = first
        while offset < min(limit, end) and (start := segment.start(offset, end)) is not None:
            if start.first_ms <= milliseconds <= start.last_ms:
                yield start
            elif not segment.is_sealed and start.first_ms > milliseconds + LATE_MS:
                break
            offset = start.end


def _region(segment: Segment, milliseconds: int, end: int) -> Iterator[tuple[int, int]]:
    low, high = HEADER_BYTES, end
    while high - low > PROBE_BYTES:
        middle = _next_start(segment, (low + high) // 2, high)
        if middle is None or middle.last_ms >= milliseconds - LATE_MS:
            high = (low + high) // 2
        else:
            low = middle.offset
    yield low, end


def _next_start(segment: Segment, offset: int, end: int) -> FrameStart | None:
    """Look for the first frame that begins at an offset or behind it, unchecked."""
    while offset < end:
        raw = segment.read(min(PROBE_BYTES, end - offset), offset)
        found = raw.find(segment.header.marker)
        if found >= 0:
            return segment.start(offset + found, end)
        if len(raw) < MARKER_BYTES:
            break
        offset += len(raw) - MARKER_BYTES + 1
    return None


def _in_frame(segment: Segment, offset: int, end: int, prediction_id: str) -> Record | None:
    frame = segment.frame(offset, end)
    for entry in frame.entries() if frame is not None else ():
        # The id as bytes: decoding every record of a frame to look for one costs a hundred times as much.
        if prediction_id.encode() in bytes(entry.header):
            record = segment.record(entry)
            if record.id == prediction_id:
                tensors.complete(segment, entry, record)
                return record
    return None

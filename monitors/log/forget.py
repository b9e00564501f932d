"""Forgetting: the bodies of some records are overwritten in place, payload and salt, and the chain still verifies.

This is safe beside a living writer. It writes a segment only behind its durable mark, and the mark itself; what lies
before the mark it never touches again, and that is all that is overwritten here. A reader that comes in between sees
some of both, and reads again. After an interruption (a power cut) a body may be half of each: then `log verify` names
it as altered, and forgetting once more finds it again, because records are chosen by their headers.

A sealed segment is written anew, without them, and takes the place of the old one. Its Parquet files go first, and the
sealer makes them anew. The sealing lock is held meanwhile.

What becomes durable after the walk has passed its segment is not forgotten: forgetting is about the past.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monitors.log.errors import LogCorrupt
from monitors.log.frame import Entry, erased_body
from monitors.log.manifest import Manifest
from monitors.log.projection import withdraw
from monitors.log.record import id_milliseconds
from monitors.log.recovery import recover_all
from monitors.log.sealing import clean, sealing, write_sealed
from monitors.log.segment import HEADER_BYTES, Segment, numbers, writers


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose payloads are to be forgotten: the units with these keyed hashes, and the predictions with these ids.

    Raises:
        ValueError: something is no prediction id.
    """

    groups: frozenset[int] = frozenset()
    ids: frozenset[str] = frozenset()
    milliseconds: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        """Read from the ids when they were given."""
        object.__setattr__(self, "milliseconds", frozenset(map(id_milliseconds, self.ids)))

    def may_be_within(self, first_ms: int, last_ms: int) -> bool:
        """Say whether any wanted record can have an id between two moments; a unit's can have any."""
        return bool(self.groups) or any(first_ms <= one <= last_ms for one in self.milliseconds)


@dataclass(slots=True)
class Found:
    """The records that were wanted: their ids, how many still had a payload, and the damage met on the way."""

    ids: list[str] = field(default_factory=list)
    payloads: int = 0
    damage: list[LogCorrupt] = field(default_factory=list)


def find(directory: Path, wanted: Wanted) -> Found:
    """Look for the wanted records; nothing is changed."""
    return _walk(directory, wanted, None, None)


def erase(directory: Path, wanted: Wanted, note: Callable[[Sequence[str]], None]) -> Found:
    """Overwrite the payloads of the wanted records, on stable storage when it returns. Raises OSError.

    `note` is called with their ids before: what is erased and was not noted (`erasures`) counts as altered. Tensors in
    files of their own stay until `tensors.collect`.
    """
    # What a dead writer left behind its mark would be shown to readers later.
    recover_all(directory)
    with sealing(directory, wait=True), Manifest(directory, writable=True) as manifest:
        clean(directory)
        return _walk(directory, wanted, note, manifest)


def _walk(
    directory: Path, wanted: Wanted, note: Callable[[Sequence[str]], None] | None, manifest: Manifest | None
) -> Found:
    """Look at all segments; with a manifest, erase what is wanted."""
    found = Found()
    for writer in writers(directory):
        for number in numbers(directory, writer):
            try:
                with Segment(directory, writer, number, writable=manifest is not None) as segment:
                    entries = list(_entries(segment, wanted, found.damage))
                    ids = [prediction_id for _entry, prediction_id in entries]
                    there = [entry for entry, _prediction_id in entries if _is_there(segment, entry)]
                    if note is not None and ids:
                        note(ids)
                    found.ids += ids
                    if there and manifest is not None:
                        _erase(directory, segment, there, manifest)
                    found.payloads += len(there)
            except FileNotFoundError:
                continue  # Retention was here.
            except LogCorrupt as error:
                found.damage.append(error)
    return found


def _erase(directory: Path, segment: Segment, entries: list[Entry], manifest: Manifest) -> None:
    bodies = [(entry.body_offset, erased_body(entry.body_bytes)) for entry in entries]
    if segment.is_sealed:
        withdraw(directory, manifest, segment.writer, segment.number)
        write_sealed(segment, lambda size, offset: patched(segment.read(size, offset), offset, bodies))
        return
    for offset, body in bodies:
        if os.pwrite(segment.descriptor, body, offset) != len(body):
            msg = f"{segment.path}: a payload was overwritten in part; forget it again"
            raise OSError(msg)
    os.fdatasync(segment.descriptor)


def patched(read: bytes, offset: int, bodies: Iterable[tuple[int, bytes]]) -> bytes:
    """Return what was read at an offset, with the bodies in it.

    >>> patched(b"abcdefgh", 100, [(98, b"XYZ"), (106, b"UVW"), (300, b"!")])
    b'ZbcdefUV'
    """
    end = offset + len(read)
    result = bytearray(read)
    for begin, body in bodies:
        first, last = max(begin, offset), min(begin + len(body), end)
        if first < last:
            result[first - offset : last - offset] = body[first - begin : last - begin]
    return bytes(result)


def _entries(segment: Segment, wanted: Wanted, damage: list[LogCorrupt]) -> Iterator[tuple[Entry, str]]:
    """Yield the wanted records of a segment, also behind damage."""
    mark, offset = segment.mark(), HEADER_BYTES
    if not wanted.may_be_within(mark.first_ms, mark.last_ms):
        return
    while offset < mark.end:
        frame = segment.frame(offset, mark.end)
        if frame is None:
            damage.append(segment.damage(offset, mark.end))
            frame = segment.next_frame(offset, mark.end)
            if frame is None:
                return
        offset = frame.start.end
        if wanted.may_be_within(frame.start.first_ms, frame.start.last_ms):
            for entry in frame.entries():
                record = entry.record()
                if record.group in wanted.groups or record.id in wanted.ids:
                    yield entry, record.id


def _is_there(segment: Segment, entry: Entry) -> bool:
    return segment.read(entry.body_bytes, entry.body_offset) != erased_body(entry.body_bytes)

"""Retention: what goes, decided from the manifest. Nothing is touched here.

Each writer's series goes from its beginning only, whole segments at a time, because the chain must go on from a place.
Age waits for followers that have not read a segment; the byte limit does not: what they miss is noted as a gap.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from monitors.log.contract import Cursor
from monitors.log.manifest import Sealed


@dataclass(frozen=True, slots=True)
class Limits:
    """How long records are kept, and how much the log may take; None: no limit."""

    keep_ms: int | None = None
    bytes_max: int | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """A segment that goes, why (`age` or `bytes`), and the followers that have not read it."""

    segment: Sealed
    reason: str
    lagging: tuple[str, ...] = ()


def decide(
    segments: Iterable[Sealed],
    sizes: Mapping[tuple[str, int], int],
    taken: int,
    now_ms: int,
    limits: Limits,
    cursors: Mapping[str, Cursor],
) -> Iterator[Removal]:
    """Yield what goes, the oldest first.

    `sizes` says what each segment takes with all that belongs to it, `taken` what the log takes in all. The last
    segment of a writer is not among `segments`: its numbers go on from there.
    """
    series: dict[str, list[Sealed]] = {}
    for one in sorted(segments, key=lambda one: (one.writer, one.number), reverse=True):
        series.setdefault(one.writer, []).append(one)
    waiting: set[str] = set()
    while heads := [one[-1] for writer, one in series.items() if one and writer not in waiting]:
        head = min(heads, key=lambda one: (one.last_ms, one.writer))
        lagging = tuple(sorted(name for name, cursor in cursors.items() if not has_read(cursor, head)))
        if limits.bytes_max is not None and taken > limits.bytes_max:
            yield Removal(head, "bytes", lagging)
        elif limits.keep_ms is None or head.last_ms >= now_ms - limits.keep_ms:
            return
        elif lagging:
            waiting.add(head.writer)
            continue
        else:
            yield Removal(head, "age")
        taken -= sizes[head.writer, head.number]
        series[head.writer].pop()


def has_read(cursor: Cursor, segment: Sealed) -> bool:
    """Say whether a follower has passed the end of a segment."""
    number, offset = cursor.get(segment.writer, (0, 0))
    return number > segment.number or (number == segment.number and offset >= segment.last_offset)

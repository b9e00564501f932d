"""Checkpoints: signed words about how far each writer's chain had come, in the file `checkpoints` beside the writers.

    checkpoints := signed lines (`monitors.log.signed`), the newest last; the payload is the JSON of a `Checkpoint`

A head names a place on a chain: a frame ends at `offset` of `segment`, the next record has the number `seq`, and
`digest` is the frame's. Since each frame covers the one before it, a head vouches for everything up to it. One
checkpoint holds the heads of all writers, so that a writer that vanished, folder and all, is missed.

A new checkpoint takes the place of the one before it. That must not whitewash: a head of the one before that is not on
the disk any more is carried on, beside what is there now, until it is there again. So old checkpoints may go: of those
that are not new one an hour is kept, and where that is still too much one a day.

`begins` says where each writer's chain begins, once retention has removed what was before: the head behind which the
first record that is kept lies. It is written, and synced, before the segments go.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec

from monitors.log.errors import CheckpointUntrusted, LogCorrupt
from monitors.log.segment import HEADER_BYTES, Segment, numbers, writers
from monitors.log.signed import (
    Envelope,
    Notary,
    append_line,
    last_lines,
    line_of,
    locked,
    open_envelope,
    read_lines,
    replace_lines,
)

FILE = "checkpoints"
PAYLOAD_TYPE = "application/vnd.snowgate.log-checkpoint+json"
BYTES_MAX = 8 * 1024 * 1024
"""A line of one writer takes 0.7 KB: half of this holds eight hours of one every five seconds, and a quarter one an
hour for four months, or one a day for eight years. The last quarter is what is written until it is thinned again."""
CARRIED_MAX = 64
"""Heads that are not on the disk any more: each is a damage that somebody has been told of. The oldest are kept."""
NO_LINE = "0" * 64


class Head(msgspec.Struct, frozen=True):
    """A place on one writer's chain; `digest` in hexadecimal."""

    writer: str
    segment: int
    offset: int
    seq: int
    digest: str


class Checkpoint(msgspec.Struct, frozen=True):
    """What is signed: the heads of all chains at a time (RFC 3339); `previous` is the sha256 of the line before."""

    number: int
    time: str
    previous: str
    heads: list[Head]
    begins: list[Head] = []


@dataclass(frozen=True, slots=True)
class Line:
    """One checkpoint as it was read, and who signed it; `checkpoint` None and `fault` a sentence where it is no good.

    `key` is None where nobody was there to check signatures.
    """

    raw: bytes
    checkpoint: Checkpoint | None
    key: str | None
    fault: str | None


@dataclass(frozen=True, slots=True)
class Taken:
    """A checkpoint that is on disk, and the heads that were once signed and are not on the disk any more."""

    checkpoint: Checkpoint
    envelope: Envelope
    lost: list[Head]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Checkpoint).decode


def read_checkpoints(directory: Path, notary: Notary | None) -> list[Line]:
    """Read all checkpoints of a log, the oldest first; without a notary no signature is checked."""
    return [open_line(raw, notary) for raw in read_lines(directory / FILE)]


def open_line(raw: bytes, notary: Notary | None) -> Line:
    """Read one checkpoint and check its signature, where there is a notary."""
    try:
        payload, key = open_envelope(raw, PAYLOAD_TYPE, notary)
        return Line(raw, _decode(payload), key, None)
    except (CheckpointUntrusted, msgspec.MsgspecError) as error:
        return Line(raw, None, None, str(error))


def take_checkpoint(
    directory: Path, notary: Notary, time: str, *, begins: Sequence[Head] = (), kept: Envelope | None = None
) -> Taken:
    """Sign where all chains stand, durably, and return what was signed.

    `begins` are the writers whose first segments are about to go (`begin_at`). `kept` is the newest checkpoint that is
    known from elsewhere: one that was put back to an older state must not pass for the newest.

    Raises:
        OSError: it can't be written.
    """
    with locked(directory):
        path = directory / FILE
        lines = last_lines(path)
        before = _newest(path, notary, kept)
        begun = {} if before is None else {one.writer: one for one in before.begins}
        # What was given up once is never asked for again.
        begun |= {one.writer: one for one in begins if one.writer not in begun or one.seq > begun[one.writer].seq}
        found = heads(directory)
        lost = [] if before is None else _lost(directory, before.heads, begun)
        checkpoint = Checkpoint(
            number=1 if before is None else before.number + 1,
            time=time,
            previous=sha256(lines[-1]).hexdigest() if lines else NO_LINE,
            heads=[*lost, *(one for one in found if one not in lost)],
            begins=sorted(begun.values(), key=lambda one: one.writer),
        )
        envelope = notary.sign(_encode(checkpoint), PAYLOAD_TYPE)
        if append_line(path, line_of(envelope)) > BYTES_MAX:
            replace_lines(path, thinned(read_lines(path)))
    return Taken(checkpoint, envelope, lost)


def begin_at(directory: Path, writer: str, number: int) -> Head:
    """Return where a chain begins when all segments before this one go. Raises LogCorrupt, FileNotFoundError."""
    with Segment(directory, writer, number) as segment:
        header = segment.header
        return Head(writer, number, HEADER_BYTES, header.first_seq, header.previous.hex())


def begun(directory: Path, notary: Notary) -> dict[str, int]:
    """Return the segments with which the writers' chains begin, by the newest checkpoint of a trusted key."""
    newest = _newest(directory / FILE, notary, None)
    return {} if newest is None else {one.writer: one.segment for one in newest.begins}


def heads(directory: Path) -> list[Head]:
    """Return the durable end of every chain that has records."""
    found = []
    for writer in writers(directory):
        for number in reversed(numbers(directory, writer)):
            # What can't be read here is for `verify` to report; the head of the checkpoint before is carried on.
            with suppress(LogCorrupt, FileNotFoundError), Segment(directory, writer, number) as segment:
                mark = segment.mark()
                # A segment with nothing in it may go again after a full disk: the end is then where the last one ends.
                if mark.end > HEADER_BYTES:
                    found.append(Head(writer, number, mark.end, mark.next_seq, mark.digest.hex()))
                    break
    return found


def holds(directory: Path, head: Head) -> bool:
    """Say whether the chain still goes through this place: two reads, however long the log is."""
    place = (head.seq, bytes.fromhex(head.digest))
    try:
        with Segment(directory, head.writer, head.segment) as segment:
            mark = segment.mark()
            if mark.end == head.offset:
                return (mark.next_seq, mark.digest) == place
            behind = segment.start(head.offset, mark.end)
            return behind is not None and (behind.first_seq, behind.previous) == place
    except (LogCorrupt, FileNotFoundError):
        return False


def _lost(directory: Path, before: Sequence[Head], begun: dict[str, Head]) -> list[Head]:
    lost = []
    for head in before:
        begin = begun.get(head.writer)
        kept = begin is None or head.seq > begin.seq
        if kept and not holds(directory, head):
            lost.append(head)
    return lost[:CARRIED_MAX]


def _newest(path: Path, notary: Notary, kept: Envelope | None) -> Checkpoint | None:
    """Return the newest one that was signed by a trusted key: what anybody else appended counts for nothing."""
    known = None if kept is None else open_line(line_of(kept), notary).checkpoint
    # The whole file only where all of the newest lines are somebody else's.
    for lines in (last_lines, read_lines):
        for raw in reversed(lines(path)):
            checkpoint = open_line(raw, notary).checkpoint
            if checkpoint is not None:
                return checkpoint if known is None or known.number < checkpoint.number else known
    return known


def thinned(lines: Sequence[bytes]) -> list[bytes]:
    """Drop old lines: the newest half of `BYTES_MAX` stays; of those before it the last of each hour, or of each day.

    What is not there to be read stays or goes with its neighbours. The times are RFC 3339, so that the hour is a prefix
    (`2026-11-25T02`) and so is the day.
    """
    newest, room = len(lines), BYTES_MAX // 2
    while newest > 0 and room >= len(lines[newest - 1]):
        newest -= 1
        room -= len(lines[newest])
    old, kept = lines[:newest], lines[newest:]
    for prefix in ("2026-11-25T02", "2026-11-25", "2026-11"):
        last: dict[str, bytes] = {}
        for line in old:
            opened = open_line(line, None).checkpoint
            if opened is not None:
                last[opened.time[: len(prefix)]] = line
        old = list(last.values())
        if sum(map(len, old)) <= BYTES_MAX // 4:
            break
    return [*old, *kept]

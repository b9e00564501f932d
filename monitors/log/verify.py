"""Verification: every frame, number, digest and payload of every writer, and all that checkpoints say of them.

Without checkpoints the walk goes up to the durable marks. A checkpoint, or the segment that comes next, may vouch for
more than an old mark shows, as after a power cut: the walk then goes on behind the mark, as recovery will.

A tombstone is a record whose payload was erased. It counts as that and no more as answered, refused or shadow, so that
each record counts once: records = answered + refused + shadow + tombstones.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from monitors.log import tensors
from monitors.log.claims import Claim, Claims, read_claims
from monitors.log.contract import Report
from monitors.log.errors import LogCorrupt
from monitors.log.frame import Entry, Frame, erased_body
from monitors.log.record import Record
from monitors.log.segment import (
    HEADER_BYTES,
    MISPLACED,
    NEVER_MS,
    NO_DIGEST,
    Mark,
    Segment,
    numbers,
    segment_path,
    writers,
)
from monitors.log.signed import Envelope, Notary

KINDS = ("answered", "refused", "shadow")
TRIES = 3
"""Retention may remove segments while they are walked; then a newer checkpoint says so, and the walk begins again."""

Progress = Callable[[int, int, int], None]
"""Called after each frame with the records and the bytes that were walked, and the bytes there are."""


@dataclass(slots=True)
class _Walk:
    """Where the walk along one writer's chain stands, and what it has found in all.

    `digest` is None behind a gap that was reported: there is nothing to compare with. Up to `vouched` the last claim
    held.
    """

    progress: Progress | None = None
    total_bytes: int = 0
    walked_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, Any]] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    writer: str = ""
    segment: int = 0
    seq: int = 0
    digest: bytes | None = NO_DIGEST
    vouched: int = 0
    claims: deque[Claim] = field(default_factory=deque)
    unharmed: bool = True
    counted: int = 0
    good_files: set[str] = field(default_factory=set)
    erased: set[str] | None = None
    """The ids of those whose payloads may be gone; None where nobody checks signatures."""

    def begin(self, writer: str, claims: Claims) -> None:
        first = claims.begins.get(writer)
        self.writer, self.unharmed, self.claims = writer, True, deque(claims.of(writer))
        if first is None:
            self.segment, self.seq, self.digest = 0, 0, NO_DIGEST
        else:
            self.segment, self.seq, self.digest = first.segment - 1, first.seq, bytes.fromhex(first.digest)
        self.vouched = self.seq

    def wrong(self, kind: str, message: str, seq: int | None = None, **more: Any) -> None:
        self.unharmed = False
        place = {"writer": self.writer, "segment": self.segment, "seq": self.seq if seq is None else seq}
        self.problems.append(place | {"kind": kind, "message": message} | more)

    def follows(self, seq: int, previous: bytes) -> bool:
        """Whether what comes is what must come."""
        return self.digest is None or (seq, previous) == (self.seq, self.digest)

    def arrive(self, seq: int, digest: bytes) -> None:
        """Go to the end of a frame, and hold it against what is claimed."""
        self.seq, self.digest = seq, digest
        while self.claims and self.claims[0].seq <= seq:
            claim = self.claims.popleft()
            if (claim.seq, claim.digest) == (seq, digest):
                self.vouched = seq
                continue
            message = (
                f"writer {self.writer}: between seq {self.vouched} and {claim.seq} it is not what was signed at "
                f"{claim.time}, though its sums hold: somebody rewrote it, or wrote it anew"
            )
            self.wrong("altered", message, self.vouched, until_seq=claim.seq)
            self.claims.clear()

    def resume(self, seq: int, digest: bytes) -> None:
        """Go on behind something; what is claimed of what was passed over counts only when nothing was reported."""
        if self.digest is None:
            while self.claims and self.claims[0].seq < seq:
                self.claims.popleft()
        self.arrive(seq, digest)

    def walked(self, frame: Frame) -> None:
        self.walked_bytes += frame.start.end - frame.start.offset
        if self.progress is not None:
            self.progress(self.counts.total(), self.walked_bytes, self.total_bytes)


def verify(
    directory: Path, notary: Notary | None = None, kept: Iterable[Envelope] = (), progress: Progress | None = None
) -> Report:
    """Walk the whole log, also beside its living writers. It goes on behind damage, and counts what is good there.

    With a notary, signatures count, and a log that nobody has signed is a damaged one; without, checkpoints are taken
    for what they say. `kept` are checkpoints from elsewhere.
    """
    kept = list(kept)
    for _ in range(TRIES):
        claims = read_claims(directory, notary, kept)
        walk = _Walk(progress, 0 if progress is None else _bytes(directory), problems=list(claims.problems))
        walk.erased = None if notary is None else claims.erased
        for writer in sorted({*writers(directory), *claims.writers()}):
            walk.begin(writer, claims)
            _verify_writer(directory, walk)
        if not walk.problems or read_claims(directory, notary, kept).begins == claims.begins:
            break
    if notary is not None and claims.newest is None and walk.counts.total() > 0:
        walk.writer, walk.segment = min(walk.ends), 1
        walk.wrong("missing", f"{directory}: no checkpoint that a key of this home has signed", 0)
    return _report(walk, claims)


def _report(walk: _Walk, claims: Claims) -> Report:
    counts, newest = walk.counts, claims.newest
    checkpoint = None
    if newest is not None:
        checkpoint = {
            "time": newest.time,
            "number": newest.number,
            "key": claims.key,
            "seqs": claims.signed,
            "records_behind": sum(max(0, end - claims.signed.get(one, 0)) for one, end in walk.ends.items()),
        }
    return Report(
        records=counts.total(),
        answered=counts["answered"],
        refused=counts["refused"],
        shadow=counts["shadow"],
        tombstones=counts["tombstones"],
        counted=walk.counted,
        bad=len(walk.problems),
        first_bad=walk.problems[0] if walk.problems else None,
        checkpoint=checkpoint,
    )


def _verify_writer(directory: Path, walk: _Walk) -> None:
    # Listed before any mark is read: a segment that has a successor by then is at its last mark.
    there = [number for number in numbers(directory, walk.writer) if number > walk.segment]
    for position, number in enumerate(there):
        if number != walk.segment + 1:
            last = f" to {number - 1}" if number > walk.segment + 2 else ""
            walk.wrong("missing", f"writer {walk.writer}: segment {walk.segment + 1}{last} is not there")
            walk.digest = None
        walk.segment = number
        successor = there[position + 1] if position + 1 < len(there) else None
        try:
            with Segment(directory, walk.writer, number) as segment:
                _verify_segment(segment, successor, walk)
        except LogCorrupt as error:
            walk.wrong("reordered" if error.kind == MISPLACED else "altered", str(error))
            walk.digest = None
        except FileNotFoundError:
            path = segment_path(directory, walk.writer, number)
            walk.wrong("missing", f"{path}: was there a moment ago")
            walk.digest = None
    walk.ends[walk.writer] = walk.seq
    if walk.claims:
        last_claim = walk.claims[-1]
        message = (
            f"writer {walk.writer}: ends at seq {walk.seq}, and what came before seq {last_claim.seq} was on the disk "
            f"when it was signed at {last_claim.time}"
        )
        walk.wrong("missing", message, until_seq=last_claim.seq)


def _verify_segment(segment: Segment, successor: int | None, walk: _Walk) -> None:
    header, mark = segment.header, segment.mark()
    if not walk.follows(header.first_seq, header.previous):
        kind = "missing" if header.first_seq > walk.seq else "altered"
        message = f"{segment.path}: begins with seq {header.first_seq}, expected {walk.seq} and the digest before it"
        walk.wrong(kind, message)
        walk.digest = None
    if not segment.padding_is_good():
        walk.wrong("altered", f"{segment.path}: something is written between its header and its first frame")
    walk.resume(header.first_seq, header.previous)
    offset, times = HEADER_BYTES, (NEVER_MS, 0)
    while offset < mark.end:
        frame = segment.frame(offset, mark.end)
        if frame is None:
            offset = _pass_over(segment, offset, mark, walk)
            continue
        _verify_frame(segment, frame, mark.end, walk)
        times = (min(times[0], frame.start.first_ms), max(times[1], frame.start.last_ms))
        offset = frame.start.end
    if not walk.follows(mark.next_seq, mark.digest):
        message = f"{segment.path}: its durable mark is of seq {mark.next_seq}, and its frames end at {walk.seq}"
        walk.wrong("altered", message)
        walk.digest = None
    elif walk.unharmed and times != (mark.first_ms, mark.last_ms):
        walk.wrong("altered", f"{segment.path}: its durable mark has other times than its frames", header.first_seq)
    walk.resume(mark.next_seq, mark.digest)
    if not mark.closed:
        _walk_behind(segment, offset, _vouched(segment, successor, walk), walk)


def _pass_over(segment: Segment, offset: int, mark: Mark, walk: _Walk) -> int:
    """Report a frame that can't be read, and return where the next good one begins."""
    damage = segment.damage(offset, mark.end, walk.seq)
    assert damage.resume is not None, "damage in a frame says where the good goes on"
    behind = segment.frame(damage.resume[1], mark.end)
    if behind is None and segment.size < mark.end:
        walk.wrong("missing", f"{segment.path}: has {segment.size} bytes, and by its durable mark it had {mark.end}")
    else:
        walk.wrong("altered", str(damage))
    walk.digest = None
    if behind is None:
        walk.resume(mark.next_seq, mark.digest)
        return mark.end
    walk.resume(behind.start.first_seq, behind.start.previous)
    return behind.start.offset


def _vouched(segment: Segment, successor: int | None, walk: _Walk) -> int:
    """Return up to which number something else says that this segment has records."""
    claimed = walk.claims[-1].seq if walk.claims else 0
    if successor is None:
        return claimed
    try:
        with Segment(segment.directory, segment.writer, successor) as next_one:
            return next_one.header.first_seq
    except (LogCorrupt, FileNotFoundError):
        return claimed


def _walk_behind(segment: Segment, offset: int, vouched: int, walk: _Walk) -> None:
    size = segment.size
    while walk.seq < vouched:
        frame = segment.frame(offset, size)
        if frame is None or not walk.follows(frame.start.first_seq, frame.start.previous):
            break
        _verify_frame(segment, frame, size, walk)
        offset = frame.start.end


def _verify_frame(segment: Segment, frame: Frame, end: int, walk: _Walk) -> None:
    start = frame.start
    if not walk.follows(start.first_seq, start.previous):
        kind, what = _misplaced(segment, frame, end, walk)
        walk.wrong(kind, f"{segment.path}: at byte {start.offset} {what}")
        walk.digest = None
        walk.resume(start.first_seq, start.previous)
    for entry in frame.entries():
        try:
            _verify_record(segment, entry, walk)
        except (msgspec.MsgspecError, ValueError) as error:
            walk.wrong("altered", f"{segment.path}: seq {entry.seq} can't be read as a record: {error}", entry.seq)
    walk.arrive(start.end_seq, frame.digest())
    walk.walked(frame)


def _verify_record(segment: Segment, entry: Entry, walk: _Walk) -> None:
    """Count a record as what it is, and check its body. Raises ValueError, msgspec.MsgspecError when it is none."""
    record = entry.record()
    if record.kind not in KINDS:
        raise ValueError(f"kind {record.kind[:32]!r}, expected one of {', '.join(KINDS)}")
    walk.counted += record.calls - 1
    try:
        body = segment.body(entry)
    except LogCorrupt as error:
        walk.wrong("altered", str(error), entry.seq)
        walk.counts[record.kind] += 1
        return
    if body == erased_body(len(body)):
        walk.counts["tombstones"] += 1
        if walk.erased is not None and record.id not in walk.erased:
            walk.wrong(
                "altered", f"{segment.path}: the payload of seq {entry.seq} is erased, and no signed note says so"
            )
        return
    walk.counts[record.kind] += 1
    if record.tensor_files:
        _verify_files(segment, entry, record, body, walk)


def _verify_files(segment: Segment, entry: Entry, record: Record, body: bytes, walk: _Walk) -> None:
    entry.complete(record, body)
    if record.payload is not None:
        for kind, message in tensors.problems(segment.directory, record.payload, walk.good_files):
            walk.wrong(kind, message, entry.seq)


def _misplaced(segment: Segment, frame: Frame, end: int, walk: _Walk) -> tuple[str, str]:
    """Say what is wrong with a good frame that does not follow."""
    seq = frame.start.first_seq
    if seq == walk.seq:
        return "altered", f"seq {seq} follows another frame than the one before it: one of them was replaced"
    if seq < walk.seq:
        return "reordered", f"seq {seq} comes again or too late, expected {walk.seq}"
    # For the first of a writer's troubles it is worth a search; those behind may be its consequences.
    if walk.unharmed and _is_behind(segment, frame.start.end, end, walk.seq):
        return "reordered", f"seq {seq} comes before {walk.seq}"
    return "missing", f"seq {seq} comes, expected {walk.seq}"


def _is_behind(segment: Segment, offset: int, end: int, seq: int) -> bool:
    while (start := segment.start(offset, end)) is not None:
        if start.first_seq == seq:
            return True
        offset = start.end
    return False


def _bytes(directory: Path) -> int:
    size = 0
    for writer in writers(directory):
        for number in numbers(directory, writer):
            with suppress(FileNotFoundError, LogCorrupt), Segment(directory, writer, number) as segment:
                size += segment.mark().end
    return size

"""Claims: what the checkpoints say that the log must hold, laid out for the walk along the chains."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from monitors.log import erasures
from monitors.log.checkpoints import FILE, Checkpoint, Head, Line, open_line, read_checkpoints
from monitors.log.signed import Envelope, Notary, line_of


@dataclass(frozen=True, slots=True)
class Claim:
    """A place that a chain must go through, because it did when this was signed."""

    seq: int
    digest: bytes
    time: str


@dataclass(slots=True)
class Claims:
    """All that is claimed, and what is wrong with the claims themselves.

    `newest` is the newest checkpoint that counts, and `key` the one that signed it; `begins` are its beginnings by
    writer, `signed` the numbers up to which it vouches for each writer. `erased` are the ids of the predictions whose
    payloads may be gone.
    """

    newest: Checkpoint | None = None
    key: str | None = None
    begins: dict[str, Head] = field(default_factory=dict)
    signed: dict[str, int] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    problems: list[dict[str, Any]] = field(default_factory=list)
    _heads: dict[str, dict[tuple[int, str], str]] = field(default_factory=dict)

    def writers(self) -> set[str]:
        """The writers that something is claimed of."""
        return {*self._heads, *self.begins}

    def of(self, writer: str) -> list[Claim]:
        """What is claimed of one writer's chain from its beginning on, in the order of the chain."""
        begin = self.begins.get(writer)
        first = 0 if begin is None else begin.seq
        found = self._heads.get(writer, {})
        return [Claim(seq, bytes.fromhex(digest), found[seq, digest]) for seq, digest in sorted(found) if seq > first]

    def add(self, checkpoint: Checkpoint, key: str | None) -> None:
        """Take up one checkpoint that counts."""
        for head in checkpoint.heads:
            # The earliest says the most: since when it is vouched for.
            self._heads.setdefault(head.writer, {}).setdefault((head.seq, head.digest), checkpoint.time)
        if self.newest is None or self.newest.number < checkpoint.number:
            self.newest, self.key = checkpoint, key
            self.begins = {one.writer: one for one in checkpoint.begins}
            self.signed = {}
            for head in checkpoint.heads:
                self.signed[head.writer] = max(head.seq, self.signed.get(head.writer, 0))


def read_claims(directory: Path, notary: Notary | None, kept: Iterable[Envelope]) -> Claims:
    """Read the log's own checkpoints, and those that were `kept` elsewhere; without a notary no signature is checked.

    What is wrong with a checkpoint is told as a problem of the writer "checkpoints", with its line (from 1) as `seq`;
    so are notes of erasures, of the writer "erasures".
    """
    claims, path = Claims(), directory / FILE
    lines = read_checkpoints(directory, notary)
    claims.problems += _problems(path, lines)
    for line in lines:
        if line.checkpoint is not None:
            claims.add(line.checkpoint, line.key)
    number = 0 if claims.newest is None else claims.newest.number
    for envelope in kept:
        line = open_line(line_of(envelope), notary)
        if line.checkpoint is None:
            claims.problems.append(_problem(0, "altered", f"a checkpoint that was kept elsewhere: {line.fault}"))
            continue
        claims.add(line.checkpoint, line.key)
        if line.checkpoint.number > number:
            known = f"checkpoint {line.checkpoint.number} of {line.checkpoint.time} is known from elsewhere"
            claims.problems.append(_problem(len(lines), "missing", f"{path}: ends at number {number}, and {known}"))
    noted = erasures.read_erasures(directory, notary)
    claims.erased = noted.ids
    for position, fault in noted.faults.items():
        message = f"{directory / erasures.FILE} line {position}: {fault}"
        claims.problems.append(_problem(position, "altered", message, erasures.FILE))
    return claims


def _problems(path: Path, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
    before: Checkpoint | None = None
    digest = ""
    for position, line in enumerate(lines, 1):
        place, checkpoint = f"{path} line {position}", line.checkpoint
        if checkpoint is None:
            yield _problem(position, "altered", f"{place}: {line.fault}")
        elif before is not None and checkpoint.number <= before.number:
            yield _problem(position, "reordered", f"{place}: checkpoint {checkpoint.number} behind {before.number}")
        elif before is not None and checkpoint.number == before.number + 1 and checkpoint.previous != digest:
            # Between others there were some that were thinned out.
            yield _problem(position, "altered", f"{place}: the line before it was another one when it was written")
        before, digest = checkpoint, sha256(line.raw).hexdigest()


def _problem(position: int, kind: str, message: str, file: str = FILE) -> dict[str, Any]:
    return {"writer": file, "segment": 0, "seq": position, "kind": kind, "message": message}

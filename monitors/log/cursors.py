"""Cursors with names: where each follower of the log stands, for itself after a restart, and for all others to see.

    <log>/cursors/NAME/cursor.json      the standing; a commit replaces it, whole or not at all
    <log>/cursors/NAME/lock             held by the process that follows under this name

A standing says more than a place: for each writer also the number of the next record, so that what is missing when the
follower comes back can be told by numbers, and so that a lag can be counted without reading. Retention asks for the
slowest of them (`first_needed`).
"""

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from monitors.log.errors import LogError
from monitors.log.recovery import hold, holding
from monitors.log.segment import CURSORS, HEADER_BYTES, Segment, numbers, sync_directory, writers

FILE = "cursor.json"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
GAPS_KEPT = 100
"""The newest gaps are told one by one, some 10 KB of them; all are counted."""


class LogGap(msgspec.Struct, frozen=True):
    """Records that a follower could not read, `first_seq` to `last_seq` of a writer, and when it came past (`time`)."""

    writer: str
    first_seq: int
    last_seq: int
    reason: str
    time: float


class Standing(msgspec.Struct):
    """Where a follower stands.

    `places` are as in `contract.Cursor`, `next_seqs` the numbers of the records that come next; a writer that is not in
    them has yet to be read from its first record on. `records` counts what was read, `lost` the records in all `gaps`,
    of which the newest are kept. `time` is when it was committed.
    """

    places: dict[str, tuple[int, int]] = {}
    next_seqs: dict[str, int] = {}
    records: int = 0
    lost: int = 0
    gap_count: int = 0
    gaps: list[LogGap] = []
    time: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document

    @staticmethod
    def from_json(document: Any) -> "Standing":
        """Read the JSON form. Raises msgspec.ValidationError."""
        return msgspec.convert(document, Standing)

    def pass_over(self, gap: LogGap) -> None:
        """Note a gap."""
        self.lost += gap.last_seq - gap.first_seq + 1
        self.gap_count += 1
        self.gaps = [*self.gaps, gap][-GAPS_KEPT:]


_decode = msgspec.json.Decoder(Standing).decode


@dataclass(frozen=True, slots=True)
class Lag:
    """How much is durable behind a standing, and how old the oldest record of it is (0 when there is none)."""

    records: int
    bytes: int
    seconds: float


def take_name(directory: Path, name: str) -> int:
    """Take a cursor's name for this process, and return the descriptor that keeps it.

    Raises:
        LogBusy: another process follows under this name.
        ValueError: the name can't be a folder's.
    """
    _folder(directory, name).mkdir(parents=True, exist_ok=True)
    return hold(directory / CURSORS, name)


def read_standing(directory: Path, name: str) -> Standing | None:
    """Read a standing; None when nothing was committed under this name. Raises LogError when it can't be read."""
    path = _folder(directory, name) / FILE
    try:
        return _decode(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.MsgspecError as error:
        msg = f"{path}: {error}; `snowgate log cursors --drop {name}` forgets it, and the follower begins anew"
        raise LogError(msg) from error


def write_standing(directory: Path, name: str, standing: Standing) -> None:
    """Replace a standing, durably. Raises OSError."""
    folder = _folder(directory, name)
    folder.mkdir(parents=True, exist_ok=True)
    making = folder / f"{FILE}.{os.getpid()}.new"
    descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        raw = msgspec.json.encode(standing)
        if os.write(descriptor, raw) != len(raw):
            raise OSError(f"{making}: written in part, the disk is full")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    making.rename(folder / FILE)
    sync_directory(folder)


def standings(directory: Path) -> dict[str, Standing]:
    """Return the standings of all followers by their names. Raises LogError when one can't be read."""
    found: dict[str, Standing] = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for folder in sorted((directory / CURSORS).iterdir()):
            standing = read_standing(directory, folder.name)
            if standing is not None:
                found[folder.name] = standing
    return found


def first_needed(directory: Path, writer: str) -> int | None:
    """Return the number of the oldest segment of a writer that some follower has yet to read; None: nobody follows."""
    needed = [one.places.get(writer, (0, 0))[0] for one in standings(directory).values()]
    return min(needed, default=None)


def drop(directory: Path, name: str) -> None:
    """Forget a cursor that nobody uses any more: nothing is kept for it.

    Raises:
        LogBusy: a living process follows under this name.
        LogError: there is no such cursor.
    """
    folder = _folder(directory, name)
    if not folder.is_dir():
        known = ", ".join(standings(directory)) or "none"
        msg = f"log cursor {name!r}: there is none of this name, expected one of: {known}"
        raise LogError(msg)
    with holding(directory / CURSORS, name):
        shutil.rmtree(folder)
    sync_directory(folder.parent)


def end_of(directory: Path) -> Standing:
    """Return the standing behind all that is durable now. Raises LogCorrupt."""
    standing = Standing()
    for writer in writers(directory):
        for number in numbers(directory, writer)[-1:]:
            with Segment(directory, writer, number) as segment:
                mark = segment.mark()
                standing.places[writer] = (number, mark.end)
                standing.next_seqs[writer] = mark.next_seq
    return standing


def lag(directory: Path, standing: Standing, now: float) -> Lag:
    """Measure how far behind a standing is, by marks and the starts of frames. Raises LogCorrupt."""
    records, size, oldest = 0, 0, None
    for writer in writers(directory):
        at, offset = standing.places.get(writer, (0, HEADER_BYTES))
        next_seq = standing.next_seqs.get(writer, 0)
        for number in [one for one in numbers(directory, writer) if one >= at]:
            with suppress(FileNotFoundError), Segment(directory, writer, number) as segment:
                mark, begin = segment.mark(), offset if number == at else HEADER_BYTES
                if begin < mark.end:
                    size += mark.end - begin
                    start = segment.start(begin, mark.end)
                    oldest = min(oldest or now, now if start is None else start.first_ms / 1_000)
                records, next_seq = records + max(0, mark.next_seq - next_seq), max(next_seq, mark.next_seq)
    return Lag(records, size, 0.0 if oldest is None else max(0.0, now - oldest))


def _folder(directory: Path, name: str) -> Path:
    if NAME.fullmatch(name) is None:
        msg = f"log cursor {name[:80]!r}: expected up to 64 of A-Z a-z 0-9 _ . -, as in 'export'"
        raise ValueError(msg)
    return directory / CURSORS / name

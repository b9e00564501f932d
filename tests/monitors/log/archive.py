"""A log with several closed segments, and a sealer on it."""

from collections.abc import Mapping
from pathlib import Path

from bundles.home import Home
from gateway.notary import HomeNotary
from monitors.log.contract import Cursor
from monitors.log.projection import parquet_writer
from monitors.log.record import Record
from monitors.log.retention import Limits
from monitors.log.sealer import Sealer
from tests.monitors.log.logbook import Logbook

NOW_MS = 1_800_000_000_000
SEGMENT_BYTES = 20_000
NO_LIMITS = Limits()


def write(folder: Path, batches: list[list[Record]], name: str = "w0") -> list[str]:
    """Write records, a frame or more a batch, in small segments; all are closed then. Return their ids."""
    book = Logbook(folder, name, segment_bytes=SEGMENT_BYTES)
    ids = [one for batch in batches for one in book.write(batch)]
    book.close()
    return ids


def sealer(
    home: Home,
    *,
    limits: Limits = NO_LIMITS,
    cursors: Mapping[str, Cursor] = {},
    now_ms: int = NOW_MS,
    with_parquet: bool = True,
) -> Sealer:
    """Make a sealer with the home's own key."""
    return Sealer(
        home.log,
        HomeNotary(home.keys()),
        limits=limits,
        cursors=lambda: cursors,
        now=lambda: "2026-11-25T03:00:00Z",
        now_ms=lambda: now_ms,
        parquet=parquet_writer() if with_parquet else None,
    )


def seal_all(work: Sealer) -> int:
    """Do all there is to do, and return how many segments it was."""
    work.start()
    count = 0
    while work.turn() is not None:
        count += 1
    return count

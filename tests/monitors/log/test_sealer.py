"""Retention: by age, by bytes, beside followers; the chain verifies from where it begins."""

from pathlib import Path

import pytest

from bundles.home import Home
from gateway.notary import HomeNotary
from monitors.log.errors import LogCorrupt
from monitors.log.listing import rows
from monitors.log.manifest import Manifest
from monitors.log.question import Question
from monitors.log.reader import LogReader
from monitors.log.retention import Limits
from monitors.log.segment import numbers, sealed_path
from tests.monitors.log.archive import NOW_MS, seal_all, sealer, write
from tests.monitors.log.logbook import Logbook, record

DAY_MS = 86_400_000


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a sealed log: a record a day for sixty days, up to now, in many segments."""
    made = Home(tmp_path / "home").make()
    days = [[record(data=bytes(2_000), now_ns=(NOW_MS - day * DAY_MS) * 10**6)] for day in range(60, 0, -1)]
    write(made.log, days)
    seal_all(sealer(made))
    return made


def verified(home: Home) -> int:
    """Verify with the home's key, and return how many records there are."""
    report = LogReader(home.log).verify(HomeNotary(home.keys()))
    assert report.first_bad is None
    return report.records


def test_what_is_old_goes_and_the_chain_begins_later(home: Home) -> None:
    """Whole segments, from the beginning: files, rows and segments go, and what is left verifies."""
    work = sealer(home, limits=Limits(keep_ms=30 * DAY_MS))
    removed = work.retire()
    assert {one.reason for one in removed} == {"age"}
    left = verified(home)
    assert 30 <= left < 40
    assert len(rows(home.log, Question(limit=100), 1 << 26)) == left
    assert numbers(home.log, "w0")[0] == len(removed) + 1
    files = len(list((home.log / "parquet").rglob("*.parquet")))
    with Manifest(home.log) as manifest:
        totals = manifest.totals()
        (counted,) = manifest.removed()
        assert manifest.gaps() == []
    assert files == totals["files"]
    assert (counted["answered"], counted["end_seq"], totals["removed_records"]) == (60 - left, 60 - left, 60 - left)
    assert work.retire() == []


def test_age_waits_for_those_who_follow(home: Home) -> None:
    """A follower that has read nothing keeps everything; one that has read a part keeps the rest."""
    assert sealer(home, limits=Limits(keep_ms=DAY_MS), cursors={"export": {}}).retire() == []
    third = numbers(home.log, "w0")[2]
    removed = sealer(home, limits=Limits(keep_ms=DAY_MS), cursors={"export": {"w0": (third, 4096)}}).retire()
    assert [one.segment.number for one in removed] == [1, 2]


def test_the_byte_limit_beats_those_who_follow(home: Home) -> None:
    """What goes unread is a gap with a name; the follower is told where it goes on, and all else is there."""
    with Manifest(home.log) as manifest:
        taken = sum(one.bytes for one in manifest.segments()) + sum(manifest.file_bytes().values())
    reader = LogReader(home.log)
    removed = sealer(home, limits=Limits(bytes_max=taken // 2), cursors={"export": {}, "fast": reader.end()}).retire()
    assert {(one.reason, one.lagging) for one in removed} == {("bytes", ("export",))}
    with Manifest(home.log) as manifest:
        gaps = manifest.gaps()
        kept = sum(one.bytes for one in manifest.segments()) + sum(manifest.file_bytes().values())
    assert kept <= taken // 2
    assert {one["cursor"] for one in gaps} == {"export"}
    assert sum(one["end_seq"] - one["first_seq"] for one in gaps) == 60 - verified(home)
    with pytest.raises(LogCorrupt, match="missing records") as told:
        reader.read({"w0": (1, 4096)}, 10)
    records, _cursor = reader.read(reader.skip({"w0": (1, 4096)}, told.value), 1_000)
    assert [one.seq for one in records] == list(range(60 - verified(home), 60))


def test_a_dead_writers_last_segment_goes_too(home: Home) -> None:
    """Nothing old stays because nobody writes any more; a writer that comes back goes on from there."""
    work = sealer(home, limits=Limits(keep_ms=DAY_MS), now_ms=NOW_MS + 10 * DAY_MS)
    work.retire()
    seal_all(work)
    work.retire()
    assert verified(home) == 0
    book = Logbook(home.log)
    book.write([record()])
    book.close()
    found, _cursor = LogReader(home.log).read({}, 10)
    assert [one.seq for one in found] == [60]
    assert verified(home) == 1


def test_a_removal_that_was_interrupted_is_finished(home: Home) -> None:
    """It was signed away, and the process died before anything else: the next start removes it, and notes it once."""
    work = sealer(home, limits=Limits(keep_ms=30 * DAY_MS))
    segment = sealed_path(home.log, "w0", 1)
    content = segment.read_bytes()
    work.retire()
    with Manifest(home.log) as manifest:
        before = manifest.removed()
    segment.write_bytes(content)
    work.start()
    assert not segment.exists()
    assert work.turn() is None
    with Manifest(home.log) as manifest:
        assert manifest.removed() == before
    verified(home)

"""Sealed segments: the same bytes at the same offsets, for every reader; a broken block breaks only what is in it."""

import random
from pathlib import Path

import pytest

from monitors.log import sealed
from monitors.log.contract import Place
from monitors.log.errors import LogBusy, LogCorrupt
from monitors.log.forget import Wanted, erase
from monitors.log.reader import LogReader
from monitors.log.sealing import clean, closed_segments, seal_segment, sealing
from monitors.log.segment import Segment, numbers, plain_numbers, sealed_numbers, sealed_path, segment_path
from tests.monitors.log.archive import write
from tests.monitors.log.logbook import Logbook, flip, ids_read, record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log of some segments, whose frames are of different sizes, some larger than a block."""
    chance = random.Random(7)
    sizes = (10, 300_000, 2_000, 150_000, 10, 10)
    write(tmp_path / "log", [[record(data=chance.randbytes(size)) for _ in range(3)] for size in sizes])
    return tmp_path / "log"


def seal(folder: Path) -> None:
    """Seal what is closed."""
    for writer, number in list(closed_segments(folder)):
        seal_segment(folder, writer, number)


def test_a_sealed_segment_reads_like_the_plain_one(folder: Path) -> None:
    """Any piece at any offset is the same, also over the edges of blocks, of the first page and of the end."""
    chance = random.Random(11)
    for number in numbers(folder, "w0"):
        plain = segment_path(folder, "w0", number).read_bytes()
        seal_segment(folder, "w0", number)
        with Segment(folder, "w0", number) as segment:
            assert segment.is_sealed
            assert segment.read(len(plain) + 10, 0) == plain
            for _ in range(200):
                offset, size = chance.randrange(len(plain) + 5), chance.randrange(200_000)
                assert segment.read(size, offset) == plain[offset : offset + size]


def test_readers_see_no_difference(folder: Path) -> None:
    """Following, walking, finding and verifying give the same before and after, and a cursor of before goes on."""
    reader = LogReader(folder)
    before = [(one.id, one.seq, one.payload) for one in reader.records(with_payload=True)]
    first, cursor = reader.read({}, 7)
    seal(folder)
    assert plain_numbers(folder, "w0") == []
    rest, _cursor = reader.read(cursor, 1_000)
    assert [one.id for one in first + rest] == [name for name, _seq, _payload in before]
    assert [(one.id, one.seq, one.payload) for one in reader.records(with_payload=True)] == before
    for name, seq, payload in before:
        found = LogReader(folder).find(name)
        assert found is not None
        assert (found.seq, found.payload) == (seq, payload)
    report = reader.verify()
    assert (report.first_bad, report.records) == (None, len(before))


def test_a_writer_goes_on_behind_sealed_segments(folder: Path) -> None:
    """Numbers, segments and the chain go on where the sealed ones end."""
    seal(folder)
    count, last = len(ids_read(folder)), numbers(folder, "w0")[-1]
    book = Logbook(folder)
    book.write([record()])
    book.close()
    assert numbers(folder, "w0")[-1] == last + 1
    report = LogReader(folder).verify()
    assert (report.first_bad, report.records) == (None, count + 1)


def test_a_writer_goes_on_behind_a_sealed_segment_that_is_damaged(folder: Path) -> None:
    """No number is given twice, neither a record's nor a segment's, when the last sealed segment can't be read."""
    seal(folder)
    last = sealed_numbers(folder, "w0")[-1]
    with Segment(folder, "w0", last) as segment:
        next_seq = segment.mark().next_seq
    path = sealed_path(folder, "w0", last)
    flip(path, path.stat().st_size - 1)
    book = Logbook(folder)
    book.write([record()])
    book.close()
    with Segment(folder, "w0", last + 1) as segment:
        assert segment.header.first_seq >= next_seq


def test_a_damaged_block_is_reported_and_the_rest_is_read(folder: Path) -> None:
    """A flipped bit in one block: verify names it, and the frames in other blocks are still there."""
    seal(folder)
    number = max(numbers(folder, "w0"), key=lambda one: sealed_path(folder, "w0", one).stat().st_size)
    flip(sealed_path(folder, "w0", number), sealed.PAGE_BYTES + 1_000)
    report = LogReader(folder).verify()
    assert report.bad > 0
    assert report.first_bad is not None
    assert report.first_bad["segment"] == number
    assert report.records > 0
    reader, found = LogReader(folder), 0
    cursor: dict[str, Place] = {}
    while True:
        try:
            records, cursor = reader.read(cursor, 100)
        except LogCorrupt as damage:
            cursor = reader.skip(cursor, damage)
            continue
        if not records:
            break
        found += len(records)
    assert found == report.records


def test_what_a_killed_sealer_left_goes(folder: Path) -> None:
    """A half-made file, and a plain segment whose sealed form is there: both go, and nothing is read twice."""
    ids = ids_read(folder)
    plain = segment_path(folder, "w0", 1)
    content = plain.read_bytes()
    seal_segment(folder, "w0", 1)
    plain.write_bytes(content)
    half = sealed_path(folder, "w0", 2).with_suffix(".new")
    half.write_bytes(b"half")
    assert ids_read(folder) == ids
    clean(folder)
    assert not plain.exists()
    assert not half.exists()
    assert ids_read(folder) == ids


def test_one_process_seals_at_a_time(folder: Path) -> None:
    """The lock is the kernel's: a second holder is refused while the first one lives."""
    refused = pytest.raises(LogBusy, match="another process seals")
    with sealing(folder, wait=False), refused, sealing(folder, wait=False):
        pass
    with sealing(folder, wait=False):
        pass


def test_what_is_erased_is_erased_in_sealed_segments_too(folder: Path) -> None:
    """The payload is gone from the file, the others are there, and the chain still verifies."""
    marked = record(data=b"find me in here".ljust(4_000, b"."))
    write(folder, [[marked, record()]])
    seal(folder)
    count = len(ids_read(folder))
    found = erase(folder, Wanted(ids=frozenset({marked.id})), lambda _ids: None)
    assert (found.ids, found.payloads, found.damage) == ([marked.id], 1, [])
    gone = LogReader(folder).find(marked.id)
    assert gone is not None
    assert gone.payload is None
    report = LogReader(folder).verify()
    assert (report.first_bad, report.records) == (None, count)
    for number in numbers(folder, "w0"):
        with Segment(folder, "w0", number) as segment:
            assert b"find me in here" not in segment.read(segment.size, 0)

import json
from pathlib import Path
from time import time_ns

import pytest

from monitors.log.errors import LogCorrupt
from monitors.log.frame import PREFIX
from monitors.log.reader import LogReader
from monitors.log.record import new_id
from monitors.log.segment import HEADER_BYTES, MARK_OFFSET
from tests.monitors.log.logbook import Logbook, flip, ids_read, record


def follow(reader: LogReader, cursor: dict[str, tuple[int, int]]) -> tuple[list[str], list[LogCorrupt]]:
    """Read to the end as the monitor does: at damage, note it and go on behind it."""
    ids: list[str] = []
    damage: list[LogCorrupt] = []
    while True:
        try:
            records, cursor = reader.read(cursor, 10)
        except LogCorrupt as error:
            damage.append(error)
            assert len(damage) < 20, "no way around the damage"
            cursor = reader.skip(cursor, error)
            continue
        if not records:
            return ids, damage
        ids += [one.id for one in records]


def frame_offsets(book: Logbook, number: int = 1) -> list[int]:
    """Where the frames of a segment begin."""
    raw = book.path(number).read_bytes()
    marker = raw[HEADER_BYTES : HEADER_BYTES + 8]
    offsets, offset = [], HEADER_BYTES
    while raw[offset : offset + 8] == marker:
        offsets.append(offset)
        _marker, _checksum, head_bytes, bodies_bytes = PREFIX.unpack_from(raw, offset)
        offset += PREFIX.size + head_bytes + bodies_bytes
    return offsets


def test_a_follower_reads_on_where_it_stood(tmp_path: Path) -> None:
    """A cursor goes through JSON, and another reader goes on from it."""
    book = Logbook(tmp_path)
    first = book.write_one_by_one(3)
    records, cursor = LogReader(tmp_path).read({})
    assert [one.id for one in records] == first
    second = book.write_one_by_one(2)
    records, _cursor = LogReader(tmp_path).read(json.loads(json.dumps(cursor)))
    assert [one.id for one in records] == second
    book.close()


def test_a_busy_writer_does_not_starve_the_others(tmp_path: Path) -> None:
    """A lagging follower with a small limit reads from every writer before it has read all of the first."""
    books = [Logbook(tmp_path, name) for name in ("w0", "w1", "w2")]
    for book in books:
        book.write_one_by_one(30)
        book.close()
    reader = LogReader(tmp_path)
    cursor: dict[str, tuple[int, int]] = {}
    for _ in range(6):
        _records, cursor = reader.read(cursor, 10)
    assert set(cursor) == {"w0", "w1", "w2"}
    reader.close()


def test_end_is_behind_everything(tmp_path: Path) -> None:
    """A follower that begins at the end reads only what comes later."""
    book = Logbook(tmp_path)
    book.write_one_by_one(3)
    reader = LogReader(tmp_path)
    cursor = reader.end()
    assert reader.read(cursor) == ([], cursor)
    later = book.write([record()])
    assert [one.id for one in reader.read(cursor)[0]] == later
    reader.close()
    book.close()


def test_a_prediction_written_long_after_its_admission_is_found(tmp_path: Path) -> None:
    """The id tells the admission; a record that waited an hour, or came from a clock ahead, is found all the same."""
    book = Logbook(tmp_path, segment_bytes=5_000)
    hour_ns = 3_600 * 10**9
    made = [record(now_ns=time_ns() + shift * hour_ns) for shift in (0, -1, 5, 0, -24, 0)]
    for one in made:
        book.write([one])
        book.write_one_by_one(5)
    book.close()
    for one in made:
        found = LogReader(tmp_path).find(one.id.upper())
        assert found is not None
        assert (found.id, found.payload) == (one.id, one.payload)
    assert LogReader(tmp_path).find(new_id(time_ns() - hour_ns)) is None


def test_records_since_a_moment(tmp_path: Path) -> None:
    """All writers' records from a moment on, in the order of time, with payloads when asked."""
    books = [Logbook(tmp_path, name, 5_000) for name in ("w0", "w1")]
    start = 1_700_000_000
    for second in range(40):
        books[second % 2].write([record(now_ns=(start + second) * 10**9)])
    for book in books:
        book.close()
    reader = LogReader(tmp_path)
    assert [one.time - start for one in reader.records(since=start + 25.5)] == list(range(26, 40))
    assert all(one.payload is not None for one in reader.records(since=start + 30, with_payload=True))
    assert len(list(reader.records())) == 40


def test_damage_is_reported_with_writer_and_number_and_then_passed(tmp_path: Path) -> None:
    """A flipped bit in the middle: everything before is read first, then it is said, then everything behind."""
    book = Logbook(tmp_path)
    ids = book.write_one_by_one(9)
    book.close()
    flip(book.path(), frame_offsets(book)[4] + 30)
    read, damage = follow(LogReader(tmp_path), {})
    assert read == ids[:4] + ids[5:]
    assert [(one.writer, one.seq, one.kind) for one in damage] == [("w0", 4, "damaged frame")]
    report = LogReader(tmp_path).verify()
    assert (report.records, report.bad) == (8, 1)
    assert report.first_bad is not None
    assert (report.first_bad["writer"], report.first_bad["seq"], report.first_bad["kind"]) == ("w0", 4, "altered")
    assert LogReader(tmp_path).find(ids[5]) is not None
    with pytest.raises(LogCorrupt, match="seq 4"):
        LogReader(tmp_path).find(ids[4])


def test_every_byte_of_a_segment_is_watched(tmp_path: Path) -> None:
    """Wherever a byte of header, mark or frames is flipped, `verify` says so, and never raises."""
    book = Logbook(tmp_path)
    book.write_one_by_one(2)
    book.close()
    content = book.path().read_bytes()
    covered = [*range(148), *range(MARK_OFFSET, MARK_OFFSET + 72), *range(HEADER_BYTES, len(content), 3)]
    for offset in covered:
        flip(book.path(), offset)
        assert LogReader(tmp_path).verify().first_bad is not None, f"byte {offset}"
        book.path().write_bytes(content)
    assert LogReader(tmp_path).verify().first_bad is None


def test_a_damaged_payload_is_never_shown(tmp_path: Path) -> None:
    """Headers are still followed, but `find` refuses what is not what was written."""
    book = Logbook(tmp_path)
    ids = book.write_one_by_one(3)
    book.close()
    flip(book.path(), frame_offsets(book)[2] - 1)
    assert ids_read(tmp_path) == ids
    with pytest.raises(LogCorrupt, match="damaged payload"):
        LogReader(tmp_path).find(ids[1])
    with pytest.raises(LogCorrupt, match="damaged payload"):
        list(LogReader(tmp_path).records(with_payload=True))


def test_a_missing_segment_is_reported(tmp_path: Path) -> None:
    """A follower that stands before a removed segment is told what is missing, and may go on behind it."""
    book = Logbook(tmp_path, segment_bytes=5_000)
    ids = book.write_one_by_one(12)
    book.close()
    book.path(2).unlink()
    read, damage = follow(LogReader(tmp_path), {})
    assert len(damage) == 1
    assert damage[0].kind == "missing records"
    first = damage[0].seq
    assert 0 < len(read) < len(ids)
    assert read == ids[:first] + ids[first + len(ids) - len(read) :]
    report = LogReader(tmp_path).verify()
    assert report.first_bad is not None
    assert report.first_bad["kind"] == "missing"


def test_a_segment_in_another_ones_place_is_reported(tmp_path: Path) -> None:
    """Segments know their number: two that were swapped are damage, not history."""
    book = Logbook(tmp_path, segment_bytes=5_000)
    book.write_one_by_one(12)
    book.close()
    one, two = book.path(1).read_bytes(), book.path(2).read_bytes()
    book.path(1).write_bytes(two)
    book.path(2).write_bytes(one)
    assert LogReader(tmp_path).verify().first_bad is not None


def test_a_frame_from_elsewhere_is_reported(tmp_path: Path) -> None:
    """A whole good frame put in another one's place breaks the chain of numbers and digests."""
    book = Logbook(tmp_path)
    book.write_one_by_one(4)
    book.close()
    first, second, third, _fourth = frame_offsets(book)
    content = book.path().read_bytes()
    assert second - first == third - second
    book.path().write_bytes(content[:first] + content[second:third] + content[first:second] + content[third:])
    report = LogReader(tmp_path).verify()
    assert report.first_bad is not None
    assert report.first_bad["kind"] == "reordered"

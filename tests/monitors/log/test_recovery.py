from pathlib import Path

import pytest

from monitors.log.errors import LogBusy
from monitors.log.frame import MARKER_BYTES
from monitors.log.reader import LogReader
from monitors.log.recovery import hold, recover_all
from monitors.log.segment import HEADER_BYTES, MARK_OFFSET, Segment
from tests.monitors.log.logbook import Logbook, flip, ids_read, record


class Crash:
    """A log whose writer died while it wrote: `count` frames are in the file, and by the mark `known` are durable."""

    def __init__(self, folder: Path, known: int, count: int, data: bytes = b"x") -> None:
        book = Logbook(folder)
        self.path = book.path()
        self.folder = folder
        self.ids: list[str] = []
        mark = b""
        self.offsets: list[int] = []
        for position in range(count):
            if position == known:
                mark = self.path.read_bytes()[MARK_OFFSET:HEADER_BYTES]
            self.offsets.append(self.path.stat().st_size)
            self.ids += book.write([record(data=data)])
        content = self.path.read_bytes()
        book.close()
        self.path.write_bytes(content[:MARK_OFFSET] + mark + content[HEADER_BYTES:])


def test_whole_frames_behind_the_mark_are_kept(tmp_path: Path) -> None:
    """Between sync and mark nobody knows whether answers left: what is whole counts, and is shown from then on."""
    crash = Crash(tmp_path, known=2, count=5)
    assert ids_read(tmp_path) == crash.ids[:2]
    assert recover_all(tmp_path) == []
    assert ids_read(tmp_path) == crash.ids
    assert LogReader(tmp_path).verify().first_bad is None


def test_recovery_done_twice_is_recovery_done_once(tmp_path: Path) -> None:
    """It may itself be killed, and runs again."""
    crash = Crash(tmp_path, known=2, count=4)
    recover_all(tmp_path)
    content = crash.path.read_bytes()
    recover_all(tmp_path)
    assert crash.path.read_bytes() == content


def test_damage_before_good_frames_is_reported_and_stops_nobody(tmp_path: Path) -> None:
    """Behind the mark, too, a bad frame with a good one behind it is corruption: nothing is cut, a writer starts."""
    crash = Crash(tmp_path, known=2, count=5)
    flip(crash.path, crash.offsets[3] + 40)
    size = crash.path.stat().st_size
    (damage,) = recover_all(tmp_path)
    assert (damage.writer, damage.seq, damage.offset) == ("w0", 3, crash.offsets[3])
    assert crash.path.stat().st_size == size
    book = Logbook(tmp_path)
    book.write([record()])
    book.close()
    report = LogReader(tmp_path).verify()
    assert (report.records, report.bad) == (5, 1)
    assert [one.seq for one in LogReader(tmp_path).read({})[0]] == [0, 1, 2]


def test_a_client_cannot_make_a_torn_tail_look_like_damage(tmp_path: Path) -> None:
    """A payload that holds a whole good frame (of another segment) is a payload: torn, it is cut like any other."""
    other = Logbook(tmp_path / "other")
    other.write([record()])
    other.close()
    frame = other.path().read_bytes()[HEADER_BYTES:]
    crash = Crash(tmp_path / "log", known=1, count=2, data=frame + b"." * 100)
    content = crash.path.read_bytes()
    assert frame in content
    crash.path.write_bytes(content[:-50])
    assert recover_all(tmp_path / "log") == []
    assert ids_read(tmp_path / "log") == crash.ids[:1]
    with Segment(tmp_path / "log", "w0", 1) as segment:
        assert segment.header.marker != frame[:MARKER_BYTES]


def test_what_was_durable_and_is_gone_is_reported(tmp_path: Path) -> None:
    """A file that ends before its mark is no torn tail. The writer starts, and its numbers leave room for the lost."""
    book = Logbook(tmp_path)
    book.write_one_by_one(5)
    content = book.path().read_bytes()
    book.close()
    book.path().write_bytes(content[:-10])
    (damage,) = recover_all(tmp_path)
    assert (damage.kind, damage.seq) == ("cut short", 4)
    again = Logbook(tmp_path)
    again.write([record()])
    again.close()
    with Segment(tmp_path, "w0", 2) as segment:
        assert segment.header.first_seq == 5
    assert LogReader(tmp_path).verify().bad > 0


@pytest.mark.parametrize("offset", [20, MARK_OFFSET + 3])
def test_a_damaged_header_or_mark_stops_no_writer(tmp_path: Path, offset: int) -> None:
    """One of both is enough to go on with numbers that were never given before."""
    book = Logbook(tmp_path)
    book.write_one_by_one(5)
    book.close()
    flip(book.path(), offset)
    again = Logbook(tmp_path)
    ids = again.write([record()])
    again.close()
    with Segment(tmp_path, "w0", 2) as segment:
        assert segment.header.first_seq == 5
    found = LogReader(tmp_path).find(ids[0])
    assert found is not None
    assert found.seq == 5
    # A mark is made again from the frames; a header can't be, and its segment stays reported.
    assert (LogReader(tmp_path).verify().first_bad is None) == (offset > MARK_OFFSET)


def test_without_header_and_mark_numbers_still_are_never_given_twice(tmp_path: Path) -> None:
    """Nobody knows then how many records there were, but surely fewer than bytes."""
    book = Logbook(tmp_path)
    book.write_one_by_one(5)
    book.close()
    flip(book.path(), 20)
    flip(book.path(), MARK_OFFSET + 3)
    again = Logbook(tmp_path)
    again.write([record()])
    again.close()
    with Segment(tmp_path, "w0", 2) as segment:
        assert segment.header.first_seq == book.path().stat().st_size


def test_a_half_made_segment_is_no_segment(tmp_path: Path) -> None:
    """A writer that dies while it makes a segment leaves a file that nobody reads, and the next one removes it."""
    book = Logbook(tmp_path)
    ids = book.write_one_by_one(2)
    book.close()
    half = book.path(2).with_suffix(".new")
    half.write_bytes(b"SNOW")
    assert ids_read(tmp_path) == ids
    assert recover_all(tmp_path) == []
    assert not half.exists()


def test_living_writers_are_left_alone(tmp_path: Path) -> None:
    """Recovery beside a running writer does not touch its segments."""
    living = Logbook(tmp_path, "living")
    living.write([record()])
    assert recover_all(tmp_path) == []
    assert len(LogReader(tmp_path).read({})[0]) == 1
    living.write([record()])
    with pytest.raises(LogBusy):
        hold(tmp_path, "living")
    living.close()
    assert LogReader(tmp_path).verify().records == 2


def test_no_log_needs_no_recovery(tmp_path: Path) -> None:
    """A home that never served has no folder yet."""
    assert recover_all(tmp_path / "log") == []

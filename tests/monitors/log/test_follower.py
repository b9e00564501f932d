"""Named cursors on disk: gaps by numbers, lag, and what retention and other processes see of them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monitors.log import cursors
from monitors.log.cursors import drop, end_of, first_needed, lag, read_standing, standings, take_name
from monitors.log.errors import LogBusy, LogError
from monitors.log.reader import LogReader
from monitors.log.record import Record
from monitors.log.segment import CURSORS
from tests.monitors.log.logbook import Logbook, flip, record

HOUR_NS = 3_600 * 10**9


def gaps(folder: Path, name: str = "export") -> list[tuple[str, int, int, str]]:
    """The gaps that are kept under a name."""
    standing = read_standing(folder, name)
    assert standing is not None
    return [(one.writer, one.first_seq, one.last_seq, one.reason) for one in standing.gaps]


def read_all(folder: Path, name: str = "export") -> list[Record]:
    """Read to the end under a name, a new follower each time, and commit."""
    found: list[Record] = []
    while True:
        follower = LogReader(folder).follow(name)
        records = follower.read(10)
        follower.commit()
        if not records:
            return found
        found += records


def test_a_hole_that_retention_made_is_a_gap_from_number_to_number(tmp_path: Path) -> None:
    """Segments that went before they were read: the follower says which numbers it missed, counts them, and goes on;
    another writer is not touched by it.
    """
    book, other = Logbook(tmp_path, segment_bytes=5_000), Logbook(tmp_path, "w1")
    book.write_one_by_one(5)
    read = read_all(tmp_path)
    book.write_one_by_one(30)
    kept = other.write_one_by_one(3)
    book.close()
    other.close()
    for number in range(1, 4):
        book.path(number).unlink()
    rest = read_all(tmp_path)
    first = min(one.seq for one in rest if one.writer == "w0")
    assert first > 5
    assert [one.seq for one in rest if one.writer == "w0"] == list(range(first, 35))
    assert [one.id for one in rest if one.writer == "w1"] == kept
    assert gaps(tmp_path) == [("w0", len(read), first - 1, "missing records")]
    standing = read_standing(tmp_path, "export")
    assert standing is not None
    assert (standing.lost, standing.gap_count, standing.records) == (first - 5, 1, 5 + len(rest))


def test_a_writer_whose_beginning_is_gone_is_a_gap_from_its_first_number(tmp_path: Path) -> None:
    """A cursor that has never read of a writer expects its number 0."""
    book = Logbook(tmp_path, segment_bytes=5_000)
    book.write_one_by_one(20)
    book.close()
    book.path(1).unlink()
    first = read_all(tmp_path)[0].seq
    assert gaps(tmp_path) == [("w0", 0, first - 1, "missing records")]


def test_damage_is_a_gap_with_its_reason(tmp_path: Path) -> None:
    """A frame that can't be read is passed, and told by its numbers, once."""
    book = Logbook(tmp_path)
    book.write_one_by_one(3)
    offset = end_of(tmp_path).places["w0"][1]
    book.write_one_by_one(3)
    book.close()
    flip(book.path(), offset + 30)
    assert [one.seq for one in read_all(tmp_path)] == [0, 1, 2, 4, 5]
    assert gaps(tmp_path) == [("w0", 3, 3, "damaged frame")]


def test_a_damaged_payload_costs_only_itself(tmp_path: Path) -> None:
    """The record comes without it; those beside it in the frame come whole."""
    book = Logbook(tmp_path)
    book.write([record(data=b"a" * 100), record(data=b"b" * 100)])
    book.close()
    flip(book.path(), book.path().read_bytes().index(b"a" * 100) + 7)
    found = LogReader(tmp_path).follow("export").read(with_payload=True)
    assert [one.payload is None for one in found] == [True, False]


def test_lag_is_counted_in_records_bytes_and_seconds(tmp_path: Path) -> None:
    """What is durable behind a standing, over segments and writers; nothing is behind the end."""
    old = time.time_ns() - HOUR_NS
    books = [Logbook(tmp_path, "w0", 5_000), Logbook(tmp_path, "w1")]
    for book in books:
        for _ in range(20):
            book.write([record(now_ns=old)])
        book.close()
    now = old / 1e9 + 3_600
    all_of_it = lag(tmp_path, cursors.Standing(), now)
    assert all_of_it.records == 40
    assert all_of_it.seconds == pytest.approx(3_600, abs=0.01)
    follower = LogReader(tmp_path).follow("export")
    follower.read(25)
    some = lag(tmp_path, follower.standing, now)
    assert some.records == 40 - follower.standing.records
    assert 0 < some.bytes < all_of_it.bytes
    assert lag(tmp_path, end_of(tmp_path), now) == cursors.Lag(0, 0, 0.0)


def test_retention_sees_the_slowest(tmp_path: Path) -> None:
    """The oldest segment that somebody has yet to read, by writer; nobody follows: none."""
    book = Logbook(tmp_path, segment_bytes=5_000)
    book.write_one_by_one(30)
    assert first_needed(tmp_path, "w0") is None
    read_all(tmp_path, "fast")
    newest = first_needed(tmp_path, "w0")
    assert newest is not None
    assert newest > 2
    slow = LogReader(tmp_path).follow("slow")
    slow.read(12)
    slow.commit()
    assert first_needed(tmp_path, "w0") == slow.standing.places["w0"][0] < newest
    assert first_needed(tmp_path, "w1") == 0
    drop(tmp_path, "slow")
    assert first_needed(tmp_path, "w0") == newest
    book.close()


def test_a_name_is_one_process_s(tmp_path: Path) -> None:
    """A second one under the same name is refused, and so is dropping it, until the first is dead, by kill -9 too."""
    code = "import sys, pathlib, monitors.log.cursors as c; c.take_name(pathlib.Path(sys.argv[1]), 'export'); print(1)"
    code += "; sys.stdout.flush(); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        with pytest.raises(LogBusy):
            take_name(tmp_path, "export")
        with pytest.raises(LogBusy):
            drop(tmp_path, "export")
        process.kill()
    os.close(take_name(tmp_path, "export"))
    drop(tmp_path, "export")
    with pytest.raises(LogError, match="none of this name"):
        drop(tmp_path, "export")


def test_a_cursor_that_cannot_be_read_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    """Nobody begins anew in silence because of a damaged file."""
    read_all(tmp_path)
    (tmp_path / CURSORS / "export" / "cursor.json").write_text(json.dumps({"places": 3}))
    with pytest.raises(LogError, match="snowgate log cursors --drop export"):
        LogReader(tmp_path).follow("export")
    drop(tmp_path, "export")
    assert standings(tmp_path) == {}


def test_the_folder_of_cursors_is_no_writer(tmp_path: Path) -> None:
    """Readers take it for none, and nobody can write under its name; a name that is no folder's is refused."""
    read_all(tmp_path)
    assert LogReader(tmp_path).verify().bad == 0
    with pytest.raises(ValueError, match="expected up to 64"):
        Logbook(tmp_path, CURSORS)
    with pytest.raises(ValueError, match="expected up to 64"):
        LogReader(tmp_path).follow("../x")

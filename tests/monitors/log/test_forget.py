"""Forgetting: payloads and salts are overwritten in place, beside everybody who writes and reads."""

import threading
from pathlib import Path
from time import time_ns

import pytest

from monitors.log import forget
from monitors.log.forget import Found, Wanted, find
from monitors.log.frame import erased_body
from monitors.log.reader import LogReader
from monitors.log.record import new_id
from monitors.log.segment import HEADER_BYTES, Segment
from monitors.log.tensors import collect
from tests.monitors.log.logbook import Logbook, flip, record

SECRET = b"a face that asked to be forgotten"


def erase(folder: Path, wanted: Wanted) -> Found:
    """Erase, and hold it against what was noted before."""
    noted: list[str] = []
    found = forget.erase(folder, wanted, noted.extend)
    assert noted == found.ids
    return found


def test_only_what_is_wanted_goes(tmp_path: Path) -> None:
    """Of two units one is erased from every segment; its headers, the other's payloads and the chain stay."""
    book = Logbook(tmp_path, segment_bytes=6_000)
    theirs, others = [], []
    for _ in range(12):
        theirs += book.write([record(data=SECRET, group=1)])
        others += book.write([record(group=2)])
    wanted = Wanted(groups=frozenset({1}))
    assert (find(tmp_path, wanted).payloads, LogReader(tmp_path).find(theirs[0]) is not None) == (12, True)
    erased = erase(tmp_path, wanted)
    assert (sorted(erased.ids), erased.payloads, erased.damage) == (sorted(theirs), 12, [])
    assert len(list((tmp_path / "w0").glob("*.seg"))) > 3
    assert SECRET not in b"".join(one.read_bytes() for one in (tmp_path / "w0").glob("*.seg"))
    book.close()
    records = {one.id: one for one in LogReader(tmp_path).records(with_payload=True)}
    assert [records[one].payload for one in theirs] == [None] * 12
    assert {records[one].payload_state for one in theirs} == {"erased"}
    assert all(records[one].payload is not None for one in others)
    assert records[theirs[0]].signals, "the header is no payload"
    report = LogReader(tmp_path).verify()
    assert (report.records, report.bad) == (24, 0)
    assert erase(tmp_path, wanted).payloads == 0


def test_predictions_by_id(tmp_path: Path) -> None:
    """Single predictions are found by the time in their ids, also one that was written long after it."""
    book = Logbook(tmp_path, segment_bytes=6_000)
    late = record(now_ns=time_ns() - 3_600 * 10**9)
    ids = book.write([record() for _ in range(20)] + [late] + [record() for _ in range(20)])
    erased = erase(tmp_path, Wanted(ids=frozenset({ids[3], late.id, new_id(time_ns())})))
    assert (sorted(erased.ids), erased.payloads) == (sorted([ids[3], late.id]), 2)
    book.close()
    kept = [one for one in LogReader(tmp_path).records(with_payload=True) if one.payload is not None]
    assert len(kept) == 39
    with pytest.raises(ValueError, match="version 7"):
        Wanted(ids=frozenset({"camera-7"}))


def test_a_large_tensor_goes_when_its_last_record_does(tmp_path: Path) -> None:
    """The file that two units' records name stays for the second one, and goes with it."""
    book = Logbook(tmp_path, inline_bytes_max=16)
    ids = book.write([record(data=SECRET, group=group) for group in (1, 2)])
    erase(tmp_path, Wanted(groups=frozenset({1})))
    assert collect(tmp_path).files == 0
    other = LogReader(tmp_path).find(ids[1])
    assert other is not None
    assert other.payload is not None
    assert other.payload.inputs[0].data == SECRET
    erase(tmp_path, Wanted(groups=frozenset({2})))
    assert collect(tmp_path).files == 1
    assert LogReader(tmp_path).verify().bad == 0
    book.close()


def test_beside_a_writer_and_readers(tmp_path: Path) -> None:
    """Forgetting goes on in the live segment while it is written, read and verified: nobody sees damage."""
    book = Logbook(tmp_path, segment_bytes=200_000)
    ids = book.write([record(data=bytes(20_000), group=number % 2) for number in range(20)])
    stop, failures = threading.Event(), list[BaseException]()

    def read() -> None:
        reader = LogReader(tmp_path)
        try:
            while not stop.is_set():
                assert reader.verify().bad == 0
                assert reader.find(ids[0]) is not None
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for one in readers:
        one.start()
    for number in range(15):
        ids += book.write([record(data=bytes(20_000), group=number % 2), record(data=SECRET, group=1)])
        erase(tmp_path, Wanted(groups=frozenset({1})))
    stop.set()
    for one in readers:
        one.join(30)
    book.close()
    assert failures == []
    records = list(LogReader(tmp_path).records(with_payload=True))
    assert [one.id for one in records if one.payload is None] == [one.id for one in records if one.group == 1]
    assert len(records) == len(ids)


def test_damage_on_the_way_hides_nothing_behind_it(tmp_path: Path) -> None:
    """A damaged frame is told, and what is good behind it is erased all the same."""
    book = Logbook(tmp_path)
    ids = book.write_one_by_one(5)
    book.close()
    with Segment(tmp_path, "w0", 1) as segment:
        second = list(segment.frames(HEADER_BYTES, segment.mark().end))[1]
    flip(book.path(), second.start.offset + 40)
    erased = erase(tmp_path, Wanted(groups=frozenset({7})))
    assert erased.ids == [ids[0], *ids[2:]]
    assert [one.kind for one in erased.damage] == ["damaged frame"]


def test_what_was_interrupted_is_done_again(tmp_path: Path) -> None:
    """A power cut leaves half a payload: `verify` says so until it is forgotten once more."""
    book = Logbook(tmp_path)
    book.write([record(data=SECRET * 100)])
    book.close()
    with Segment(tmp_path, "w0", 1) as segment:
        (entry,) = next(segment.frames(HEADER_BYTES, segment.mark().end)).entries()
    with book.path().open("r+b") as file:
        file.seek(entry.body_offset)
        file.write(erased_body(entry.body_bytes)[: entry.body_bytes // 2])
    assert LogReader(tmp_path).verify().bad == 1
    assert erase(tmp_path, Wanted(groups=frozenset({7}))).payloads == 1
    assert LogReader(tmp_path).verify().bad == 0
    assert SECRET not in book.path().read_bytes()


def test_a_frame_that_a_dead_writer_left_is_not_spared(tmp_path: Path) -> None:
    """What lies behind an old mark would be shown after recovery: it is recovered first."""
    book = Logbook(tmp_path)
    mark = book.path().read_bytes()[512:HEADER_BYTES]
    book.write([record(data=SECRET)])
    book.close()
    with book.path().open("r+b") as file:
        file.seek(512)
        file.write(mark)
    assert erase(tmp_path, Wanted(groups=frozenset({7}))).payloads == 1
    assert SECRET not in book.path().read_bytes()

import resource
import threading
from functools import partial
from pathlib import Path

import pytest

from monitors.log import writer as writing
from monitors.log.errors import LogBusy, LogFull, RecordUnwritable
from monitors.log.reader import LogReader
from monitors.log.record import Tensor, new_id
from monitors.log.segment import HEADER_BYTES, Segment, numbers
from monitors.log.writer import SegmentWriter
from tests.conftest import wait_until
from tests.monitors.log.logbook import Logbook, ids_read, record


def test_what_waits_goes_out_in_one_frame(tmp_path: Path) -> None:
    """While one batch is with the disk the next one gathers: 50 records that wait need one frame, not 50."""
    gate, arrived, batches = threading.Event(), threading.Event(), []

    def done(tokens: list[object], _error: OSError | None) -> None:
        batches.append(len(tokens))
        arrived.set()
        gate.wait(30)

    writer = SegmentWriter(tmp_path, "w0", done)
    writer.append(record(), 0)
    assert arrived.wait(30)
    for token in range(50):
        writer.append(record(), token)
    gate.set()
    writer.close()
    assert batches == [1, 50]
    with Segment(tmp_path, "w0", 1) as segment:
        frames = list(segment.frames(4096, segment.mark().end))
    assert [frame.start.count for frame in frames] == [1, 50]


def test_a_lone_record_is_written_on_the_callers_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing waits it is durable, its token handed back, before the call returns; both ways keep the order."""
    monkeypatch.setattr(writing, "SYNC_SECONDS_MAX", 60.0)  # However busy the disk is that this runs on.
    threads: list[int] = []
    writer = SegmentWriter(tmp_path, "w0", lambda tokens, _error: threads.extend(threading.get_ident() for _ in tokens))
    here, ids = threading.get_ident(), []
    for _turn in range(20):
        one = record()
        wait_until(partial(writer.append_now, one, one.id), what="the writer to be idle")
        assert threads[-1] == here
        ids.append(one.id)
        assert ids_read(tmp_path) == ids
        for _more in range(3):
            other = record()
            writer.append(other, other.id)
            ids.append(other.id)
    writer.close()
    assert not writer.append_now(record(), 0)
    assert ids_read(tmp_path) == ids
    assert len(threads) == 80
    assert [one.seq for one in LogReader(tmp_path).read({})[0]] == list(range(80))


def test_a_busy_writer_and_a_slow_disk_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the writer's thread writes, and after a slow sync, a record is refused here and goes its usual way."""
    gate, arrived = threading.Event(), threading.Event()

    def done(_tokens: list[object], _error: OSError | None) -> None:
        arrived.set()
        gate.wait(30)

    writer = SegmentWriter(tmp_path, "w0", done)
    writer.append(record(), 0)
    assert arrived.wait(30)
    assert not writer.append_now(record(), 1)
    gate.set()
    # Every sync of a real disk takes longer than no time at all.
    monkeypatch.setattr(writing, "SYNC_SECONDS_MAX", 0.0)
    assert not writer.append_now(record(), 1)
    writer.close()
    assert len(ids_read(tmp_path)) == 1


def test_a_record_that_cannot_be_encoded_fails_alone(tmp_path: Path) -> None:
    """An integer that msgpack can't hold, or an id that tells no time: its token gets the error, others are written."""
    book = Logbook(tmp_path)
    good, huge, strange = record(), record(), record()
    assert huge.payload is not None
    huge.payload.parameters = {"seed": 1 << 80}
    strange.id = "0"
    book.write([good, huge, strange])
    book.close()
    assert book.durable == [good.id]
    assert set(book.refused) == {huge.id, strange.id}
    assert all(isinstance(error, RecordUnwritable) for error in book.refused.values())
    assert [one.seq for one in LogReader(tmp_path).read({})[0]] == [0]


def test_a_full_queue_refuses(tmp_path: Path) -> None:
    """When the disk is behind, `append` says so at once; when it has caught up, the log goes on."""
    gate, arrived = threading.Event(), threading.Event()

    def done(_tokens: list[object], _error: OSError | None) -> None:
        arrived.set()
        gate.wait(30)

    writer = SegmentWriter(tmp_path, "w0", done)
    writer.append(record(), 0)
    assert arrived.wait(30)
    # Tensors that share their bytes: a full queue, without the memory of one.
    part = bytes(1 << 20)
    large = record()
    assert large.payload is not None
    large.payload.inputs = [Tensor("x", "UINT8", [len(part)], part)] * 64
    for _ in range(writing.WAITING_BYTES_MAX // (65 << 20)):
        writer.append(large, 0)
    with pytest.raises(LogFull, match="3 records wait for the disk"):
        writer.append(large, 0)
    writer._waiting.clear()
    writer._waiting_bytes = 0
    writer.append(record(), 1)
    gate.set()
    writer.close()
    assert len(ids_read(tmp_path)) == 2


def test_a_record_larger_than_a_frame_gets_its_own(tmp_path: Path) -> None:
    """Frames end at 8 MiB, so that a small record never waits for a gigabyte; nothing is split or lost."""
    book = Logbook(tmp_path, segment_bytes=16 << 20)
    ids = book.write([record(data=bytes(writing.FRAME_BYTES_MAX + 1)), record(), record(data=bytes(1 << 20)), record()])
    book.close()
    assert book.durable == ids == ids_read(tmp_path)
    found = LogReader(tmp_path).find(ids[0])
    assert found is not None
    assert found.payload is not None
    assert len(found.payload.inputs[0].data) == writing.FRAME_BYTES_MAX + 1


def test_a_segment_ends_by_its_age(tmp_path: Path) -> None:
    """With an age of nothing every frame begins a segment of its own, and no segment is closed without any."""
    done = threading.Semaphore(0)
    writer = SegmentWriter(tmp_path, "w0", lambda _tokens, _error: done.release(), segment_seconds=0.0)
    for _ in range(3):
        writer.append(record(), None)
        assert done.acquire(timeout=30)
    writer.close()
    assert numbers(tmp_path, "w0") == [1, 2, 3]
    assert LogReader(tmp_path).verify().records == 3


def test_closed_takes_no_more(tmp_path: Path) -> None:
    """A record appended after `close` would never be written, so it is refused."""
    book = Logbook(tmp_path)
    book.close()
    with pytest.raises(LogFull, match="closed"):
        book.writer.append(record(), 0)


def test_a_name_belongs_to_one_living_writer(tmp_path: Path) -> None:
    """A second writer of the same name would tear the first one's frames apart; it is told so."""
    book = Logbook(tmp_path)
    with pytest.raises(LogBusy, match="'w0'"):
        Logbook(tmp_path)
    book.close()
    Logbook(tmp_path).close()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "w" * 65, "ä"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    """Names become folders: nothing outside the log's own folder can be meant by one."""
    with pytest.raises(ValueError, match="log writer"):
        Logbook(tmp_path, name)


def test_segments_end_at_their_size(tmp_path: Path) -> None:
    """A segment that has reached its size is closed, and the next one goes on: same chain, no number missing."""
    book = Logbook(tmp_path, segment_bytes=8_000)
    ids = book.write_one_by_one(30)
    book.close()
    assert book.path(4).exists()
    assert ids_read(tmp_path) == ids
    assert LogReader(tmp_path).verify().first_bad is None
    for number in (1, 2, 3):
        with Segment(tmp_path, "w0", number) as segment:
            assert segment.mark().closed
            assert segment.mark().end == book.path(number).stat().st_size


def test_epochs_count_openings(tmp_path: Path) -> None:
    """Each opening of a writer begins a segment of its own with the next epoch, and numbers go on."""
    for epoch in (1, 2, 3):
        book = Logbook(tmp_path)
        book.write([record()])
        book.close()
        with Segment(tmp_path, "w0", epoch) as segment:
            assert (segment.header.epoch, segment.header.first_seq) == (epoch, epoch - 1)


def test_nothing_stays_open(tmp_path: Path) -> None:
    """Writers and readers give back every file descriptor."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    book = Logbook(tmp_path, segment_bytes=5_000)
    ids = book.write_one_by_one(20)
    reader = LogReader(tmp_path)
    reader.read({})
    reader.find(ids[3])
    reader.find(new_id(0))
    reader.verify()
    reader.close()
    book.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_after_an_error_the_writer_tries_the_disk_by_itself(tmp_path: Path) -> None:
    """Nobody appends any more, and yet its owner hears when there is room again; what was tried leaves no trace."""
    said: list[tuple[list[object], OSError | None]] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = SegmentWriter(tmp_path, "w0", lambda tokens, error: said.append((tokens, error)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (HEADER_BYTES, hard))
    try:
        writer.append(record(), "lost")
        wait_until(lambda: said, what="the failure")
        wait_until(lambda: writer._pause == writing.RETRY_SECONDS, what="a try that failed too")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    wait_until(lambda: len(said) == 2, what="the word that all is well")
    ((lost, error), well) = said
    assert lost == ["lost"]
    assert error is not None
    assert well == ([], None)
    segment = tmp_path / "w0" / "0000000001.seg"
    assert segment.stat().st_size == HEADER_BYTES
    assert [one.name for one in segment.parent.glob("*.seg")] == [segment.name]
    good = record()
    writer.append(good, "kept")
    writer.close()
    assert said[2:] == [(["kept"], None)]
    assert ids_read(tmp_path) == [good.id]
    assert LogReader(tmp_path).verify().first_bad is None


def test_a_writer_opens_while_the_disk_is_full(tmp_path: Path) -> None:
    """A worker must start then, as some models are served unlogged: the writer says at once how it is, and later."""
    said: list[tuple[list[object], OSError | None]] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    Logbook(tmp_path).close()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        writer = SegmentWriter(tmp_path, "w0", lambda tokens, error: said.append((tokens, error)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(tokens, error is None) for tokens, error in said] == [([], False)]
    wait_until(lambda: len(said) == 2, what="room")
    assert said[1] == ([], None)
    writer.append(record(), 0)
    writer.close()
    assert said[2:] == [([0], None)]
    assert len(ids_read(tmp_path)) == 1

"""Large tensors in files of their own: written before the frame that names them, once, and gone when nothing does."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from monitors.log import tensors
from monitors.log.errors import LogCorrupt
from monitors.log.frame import erased_body
from monitors.log.reader import LogReader
from monitors.log.record import Record, Tensor
from monitors.log.recovery import recover_all
from monitors.log.segment import HEADER_BYTES, MARK_OFFSET
from monitors.log.tensors import Collected, TensorFiles, collect
from monitors.log.writer import SegmentWriter
from tests.monitors.log.logbook import Logbook, flip, ids_read, record

LIMIT = 4_096
LARGE = bytes(range(250)) * 40


def files(folder: Path) -> list[Path]:
    """All files of tensors."""
    return sorted((folder / "tensors").glob("??/*"))


def found(folder: Path, prediction_id: str) -> Record:
    """Find a record that is there, with its payload."""
    one = LogReader(folder).find(prediction_id)
    assert one is not None
    return one


def only_input(folder: Path, prediction_id: str) -> Tensor:
    """Find a prediction's one input."""
    payload = found(folder, prediction_id).payload
    assert payload is not None
    (tensor,) = payload.inputs
    return tensor


def test_a_large_tensor_comes_back_from_its_file(tmp_path: Path) -> None:
    """It is not in the segment; whoever reads the record has its bytes, and the small ones' as ever."""
    book = Logbook(tmp_path, inline_bytes_max=LIMIT)
    large, small, limit = book.write([record(data=LARGE), record(), record(data=bytes(LIMIT))])
    book.close()
    (file,) = files(tmp_path)
    assert file.read_bytes() == LARGE
    assert LARGE not in book.path().read_bytes()
    tensor = only_input(tmp_path, large)
    assert (tensor.data, tensor.data_ref) == (LARGE, f"sha256:{file.parent.name}{file.stem}")
    assert [only_input(tmp_path, one).data_ref for one in (small, limit)] == [None, None]
    walked = {one.id: one for one in LogReader(tmp_path).records(with_payload=True)}
    payload = walked[large].payload
    assert payload is not None
    assert payload.inputs[0].data == LARGE
    assert [walked[one].tensor_files for one in (large, small)] == [1, 0]


def test_a_file_is_there_before_its_record_is_durable(tmp_path: Path) -> None:
    """When the writer says that a record is on disk, the file that it names is, under its name and whole."""
    seen: list[list[bytes]] = []
    done = threading.Event()

    def on_durable(_tokens: list[Any], error: OSError | None) -> None:
        assert error is None
        seen.append([one.read_bytes() for one in files(tmp_path)])
        done.set()

    writer = SegmentWriter(tmp_path, "w0", on_durable, inline_bytes_max=LIMIT)
    one = record(data=LARGE)
    assert not writer.append_now(one, one.id), "the event loop's thread must not wait for two more syncs"
    writer.append(one, one.id)
    assert done.wait(20)
    writer.close()
    assert seen[0] == [LARGE]
    assert one.payload is not None
    assert one.payload.inputs[0].data == LARGE, "the record is its owner's, and stays as it was"


def test_the_same_bytes_are_kept_once(tmp_path: Path) -> None:
    """Two writers, three records, one file; collecting leaves it as long as one of them names it."""
    first, second = (Logbook(tmp_path, name, inline_bytes_max=LIMIT) for name in ("w0", "w1"))
    ids = [*first.write([record(data=LARGE), record(data=LARGE)]), *second.write([record(data=LARGE)])]
    assert len(files(tmp_path)) == 1
    assert collect(tmp_path) == Collected()
    assert [only_input(tmp_path, one).data for one in ids] == [LARGE] * 3
    first.close()
    second.close()


def test_a_file_that_is_gone_or_altered_is_said_to_be(tmp_path: Path) -> None:
    """A reader says that it is gone, or refuses what is not what was written; `verify` names the record."""
    book = Logbook(tmp_path, inline_bytes_max=LIMIT)
    gone, altered = (book.write([record(data=bytes([value]) * 9_000)])[0] for value in (1, 2))
    book.close()
    assert LogReader(tmp_path).verify().bad == 0
    first, second = (str(only_input(tmp_path, one).data_ref)[7:] for one in (gone, altered))
    tensors.tensor_path(tmp_path, first).unlink()
    flip(tensors.tensor_path(tmp_path, second), 5)
    tensor = only_input(tmp_path, gone)
    assert (tensor.data, tensor.withheld, tensor.shape) == (b"", "gone", [9_000])
    with pytest.raises(LogCorrupt, match="does not have the digest"):
        LogReader(tmp_path).find(altered)
    report = LogReader(tmp_path).verify()
    assert report.first_bad is not None
    assert (report.bad, report.first_bad["kind"], report.first_bad["seq"]) == (2, "missing", 0)
    assert ids_read(tmp_path) == [gone, altered], "who follows needs no payload"


def test_what_no_record_names_is_collected(tmp_path: Path) -> None:
    """With the segment goes what only its records named; so does what a writer that died left half made."""
    book = Logbook(tmp_path, segment_bytes=5_000, inline_bytes_max=LIMIT)
    book.write([record(data=LARGE)])
    book.write([record() for _ in range(20)])
    book.write([record(data=b"x" * 9_000)])
    book.close()
    unfinished = files(tmp_path)[0].with_suffix(".4711.new")
    unfinished.write_bytes(b"half")
    book.path(1).unlink()
    assert collect(tmp_path) == Collected(2, len(LARGE) + 4)
    assert [one.read_bytes()[:1] for one in files(tmp_path)] == [b"x"]
    assert collect(tmp_path) == Collected()


def test_a_file_is_not_collected_before_its_frame_is_there(tmp_path: Path) -> None:
    """Between a file and the frame that names it, nobody can see whom it belongs to: collecting waits."""
    (tmp_path / "w0").mkdir()
    writer = TensorFiles(tmp_path, LIMIT)
    writer.moved(record(data=LARGE))
    removed: list[Collected] = []
    thread = threading.Thread(target=lambda: removed.append(collect(tmp_path)), daemon=True)
    thread.start()
    thread.join(0.2)
    assert len(files(tmp_path)) == 1
    assert not removed
    writer.settled()
    thread.join(20)
    assert removed == [Collected(1, len(LARGE))], "and then it was given up: no frame names it"


def test_a_frame_behind_the_mark_keeps_its_file(tmp_path: Path) -> None:
    """A writer died after its sync, before its mark: recovery keeps that frame, and its file is still there."""
    book = Logbook(tmp_path / "log", inline_bytes_max=LIMIT)
    book.write([record()])
    mark = book.path().read_bytes()[MARK_OFFSET:HEADER_BYTES]
    (last,) = book.write([record(data=LARGE)])
    book.close()
    with book.path().open("r+b") as segment:
        segment.seek(MARK_OFFSET)
        segment.write(mark)
    assert LogReader(tmp_path / "log").find(last) is None
    assert collect(tmp_path / "log") == Collected()
    assert recover_all(tmp_path / "log") == []
    assert only_input(tmp_path / "log", last).data == LARGE


def test_what_is_collected_is_overwritten(tmp_path: Path) -> None:
    """A second name for the file shows what became of its bytes."""
    book = Logbook(tmp_path / "log", segment_bytes=5_000, inline_bytes_max=LIMIT)
    book.write([record(data=LARGE)])
    book.write([record() for _ in range(20)])
    book.write([record()])
    book.close()
    (file,) = files(tmp_path / "log")
    os.link(file, tmp_path / "kept")
    book.path(1).unlink()
    assert collect(tmp_path / "log").files == 1
    assert (tmp_path / "kept").read_bytes() == erased_body(len(LARGE))


def test_a_full_disk_refuses_that_record_alone(tmp_path: Path) -> None:
    """A file that can't be written fails its record; the others of its batch are durable, and so is what comes next."""
    book = Logbook(tmp_path, inline_bytes_max=LIMIT)
    (tmp_path / "tensors").write_text("in the way")
    small, large = book.write([record(), record(data=LARGE)])
    assert small in book.durable
    assert isinstance(book.refused[large], OSError)
    (tmp_path / "tensors").unlink()
    (again,) = book.write([record(data=LARGE)])
    assert again in book.durable
    book.close()


def test_no_writer_is_called_like_the_folder(tmp_path: Path) -> None:
    """The folder of tensors is nobody's series of segments, for readers and for writers."""
    book = Logbook(tmp_path, inline_bytes_max=LIMIT)
    book.write([record(data=LARGE)])
    book.close()
    assert list(LogReader(tmp_path).end()) == ["w0"]
    with pytest.raises(ValueError, match="tensors"):
        Logbook(tmp_path, "tensors")

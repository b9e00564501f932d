"""The log under real faults: killed writers, torn tails, flipped bits, full disks, syncs that fail.

The promise under test is one: what was reported durable is found again, and what is not there is said, not passed over.
"""

import errno
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from monitors.log.errors import LogCorrupt
from monitors.log.reader import LogReader
from monitors.log.recovery import recover_all
from monitors.log.segment import HEADER_BYTES, MARK_OFFSET, Segment
from tests.faults.evidence import Figures, rounds
from tests.monitors.log.logbook import Logbook, ids_read, record

PROGRAM = Path(__file__).with_name("log_writer.py")
ROOT = Path(__file__).parents[2]
SECONDS_MAX = 30


class Writer:
    """A writing process."""

    def __init__(
        self, folder: Path, segment_bytes: int = 1 << 20, environment: Mapping[str, str] = {}, file_bytes: int = 0
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), "w0", str(segment_bytes), str(file_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # or `communicate` would miss what a `readline` before it has read ahead
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )

    def say(self, line: str) -> None:
        """Give an order."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def write(self, count: int) -> dict[str, Any]:
        """Have records written and return what became of them."""
        self.say(str(count))
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS_MAX)
        assert ready, "the writer said nothing"
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def kill(self) -> bytes:
        """Kill it, and return what it had said that nobody had read."""
        self.process.send_signal(signal.SIGKILL)
        said, _ = self.process.communicate(timeout=SECONDS_MAX)
        return bytes(said)

    def end(self) -> None:
        """Let it close the log and exit."""
        self.process.communicate(timeout=SECONDS_MAX)
        assert self.process.returncode == 0


def test_kill_9_at_any_moment_loses_nothing(tmp_path: Path, figures: Figures) -> None:
    """Many writers, one after the other on one log, each killed at a random moment: every id they told is there."""
    chance = random.Random(15)
    durable: list[str] = []
    for _ in range(rounds(15)):
        writer = Writer(tmp_path, segment_bytes=100_000)
        writer.say("stream")
        assert writer.process.stdout is not None
        said = writer.process.stdout.readline()
        try:
            # The fault's own moment, not a wait for something: anywhere in the first 80 ms of writing.
            writer.process.wait(chance.uniform(0, 0.08))
        except subprocess.TimeoutExpired:
            said += writer.kill()
        assert writer.process.returncode == -signal.SIGKILL
        complete = said[: said.rfind(b"\n")].decode()
        durable += complete.split("\n")
        figures.rounds += 1
    assert len(durable) >= figures.rounds
    assert recover_all(tmp_path) == []
    figures.check_ids(tmp_path, durable)


@pytest.fixture
def crashed(tmp_path: Path) -> tuple[Path, list[str], int]:
    """A log as a crash leaves it while the last frame is written: the mark is before that frame.

    Returns the segment, the ids, and the offset of the last frame.
    """
    book = Logbook(tmp_path / "log")
    ids = book.write_one_by_one(4)
    end = book.path().stat().st_size
    mark = book.path().read_bytes()[MARK_OFFSET:HEADER_BYTES]
    ids += book.write([record()])
    content = book.path().read_bytes()
    book.close()
    book.path().write_bytes(content[:MARK_OFFSET] + mark + content[HEADER_BYTES:])
    return book.path(), ids, end


def test_a_torn_tail_is_cut_wherever_it_is_torn(crashed: tuple[Path, list[str], int], figures: Figures) -> None:
    """Cut at every byte of the last frame: the frames before it stay, nothing of it is shown, and the log goes on."""
    path, ids, end = crashed
    folder, content = path.parents[1], path.read_bytes()
    for size in range(end, len(content)):
        path.write_bytes(content[:size])
        assert ids_read(folder) == ids[:4], "before recovery"
        assert recover_all(folder) == []
        assert path.stat().st_size == end
        assert ids_read(folder) == ids[:4]
        assert LogReader(folder).verify().first_bad is None
        figures.rounds += 1
    book = Logbook(folder)
    more = book.write_one_by_one(2)
    book.close()
    figures.check_ids(folder, ids[:4] + more)


def test_a_tail_of_garbage_is_cut(crashed: tuple[Path, list[str], int], figures: Figures) -> None:
    """Lost pages leave zeros, and disks leave anything: every byte of the last frame altered, one after the other."""
    path, ids, end = crashed
    folder, content = path.parents[1], path.read_bytes()
    for offset in range(end, len(content), 7):
        path.write_bytes(content[:offset] + bytes(len(content) - offset))
        assert recover_all(folder) == []
        assert ids_read(folder) == ids[:4]
        altered = bytearray(content)
        altered[offset] ^= 0x10
        path.write_bytes(altered)
        assert recover_all(folder) == []
        figures.check_ids(folder, ids[:4])
        figures.rounds += 1


def test_a_flipped_bit_is_never_passed_over(tmp_path: Path, figures: Figures) -> None:
    """Bits flipped all over a log: `verify` names writer and seq, a follower meets it too, or the payload refuses."""
    chance = random.Random(3)
    book = Logbook(tmp_path)
    for _ in range(20):
        book.write([record(data=os.urandom(300)) for _ in range(5)])
    book.close()
    content = book.path().read_bytes()
    with Segment(tmp_path, "w0", 1) as segment:
        frames = [frame.start for frame in segment.frames(HEADER_BYTES, segment.mark().end)]
    for _ in range(rounds(60)):
        offset = chance.randrange(HEADER_BYTES, len(content))
        altered = bytearray(content)
        altered[offset] ^= 1 << chance.randrange(8)
        book.path().write_bytes(altered)
        (hit,) = (frame for frame in frames if frame.offset <= offset < frame.end)
        report = LogReader(tmp_path).verify()
        assert report.first_bad is not None, f"byte {offset}"
        assert report.first_bad["writer"] == "w0"
        assert hit.first_seq <= report.first_bad["seq"] < hit.end_seq
        with pytest.raises(LogCorrupt) as damage:
            list(LogReader(tmp_path).records(with_payload=True))
        assert damage.value.writer == "w0"
        assert hit.first_seq <= damage.value.seq < hit.end_seq
        figures.rounds += 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not made or made.returncode != 0:
        pytest.skip("not run: mounting a tmpfs is not permitted here; the test with a file size limit ran instead")
    yield folder
    # Lazily: when the test fails, its writer still lives, and a mount must not stay behind.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_refuses_and_loses_nothing(small_disk: Path, figures: Figures) -> None:
    """What was told durable is there, the rest is told to have failed; with room again, the same writer goes on."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    writer = Writer(small_disk / "log")
    durable: list[str] = []
    refused: dict[str, int] = {}
    while len(refused) < 200:
        answer = writer.write(40)
        durable += answer["durable"]
        refused |= answer["refused"]
    assert set(refused.values()) == {errno.ENOSPC}
    assert len(durable) >= 400
    figures.check_ids(small_disk / "log", durable)
    ballast.unlink()
    later = writer.write(40)
    assert not later["refused"]
    writer.kill()
    assert recover_all(small_disk / "log") == []
    figures.check_ids(small_disk / "log", durable + later["durable"])
    assert not set(refused) & set(ids_read(small_disk / "log"))


def test_a_short_write_at_a_file_size_limit_loses_nothing(tmp_path: Path, figures: Figures) -> None:
    """The kernel writes a part of a frame and says so: it is refused, and the next one goes to another segment."""
    writer = Writer(tmp_path, file_bytes=200_000)
    durable: list[str] = []
    refused: list[str] = []
    for _ in range(40):
        answer = writer.write(30)
        durable += answer["durable"]
        refused += answer["refused"]
    assert refused
    assert len(durable) > 600
    writer.kill()
    assert recover_all(tmp_path) == []
    figures.check_ids(tmp_path, durable)
    assert not set(refused) & set(ids_read(tmp_path))


@pytest.mark.parametrize(("fault", "number"), [("eio", errno.EIO), ("short", errno.ENOSPC), ("enospc", errno.ENOSPC)])
def test_after_a_failure_a_segment_is_never_written_again(
    preloaded: Callable[[str], Path], tmp_path: Path, figures: Figures, fault: str, number: int
) -> None:
    """A sync fails or a write comes out short, once: that batch is refused, and the next goes to another segment.

    The frame whose sync failed is whole in the old segment; it is not shown, and recovery cuts it, because its numbers
    were given again.
    """
    order = tmp_path / "fault"
    folder = tmp_path / "log"
    writer = Writer(folder, environment={"LD_PRELOAD": str(preloaded("failing_disk")), "FAULT_FILE": str(order)})
    first = writer.write(20)
    assert not first["refused"]
    order.write_text(fault)
    failed = writer.write(1 if fault == "eio" else 20)
    assert not order.exists(), "the fault was met"
    assert set(failed["refused"].values()) == {number}
    path = folder / "w0" / "0000000001.seg"
    left = path.read_bytes()
    later = writer.write(20)
    assert not later["refused"]
    assert path.read_bytes() == left
    durable = first["durable"] + failed["durable"] + later["durable"]
    figures.check_ids(folder, durable)
    writer.kill()
    assert recover_all(folder) == []
    assert path.stat().st_size <= len(left)
    figures.check_ids(folder, durable)
    assert ids_read(folder) == durable


def test_a_failure_of_the_first_batch_leaves_no_segment(
    preloaded: Callable[[str], Path], tmp_path: Path, figures: Figures
) -> None:
    """A segment with nothing durable in it is removed, or a full disk would gather them; a follower does not mind."""
    order = tmp_path / "fault"
    folder = tmp_path / "log"
    writer = Writer(folder, environment={"LD_PRELOAD": str(preloaded("failing_disk")), "FAULT_FILE": str(order)})
    order.write_text("eio")
    failed = writer.write(1)
    assert len(failed["refused"]) == 1
    reader = LogReader(folder)
    _records, cursor = reader.read({})
    answer = writer.write(5)
    assert [one.id for one in reader.read(cursor)[0]] == answer["durable"]
    assert [one.name for one in (folder / "w0").glob("*.seg")] == ["0000000001.seg"]
    reader.close()
    writer.end()
    figures.check_ids(folder, answer["durable"])


def test_a_disk_that_lies_is_found_out(preloaded: Callable[[str], Path], tmp_path: Path) -> None:
    """A disk that writes half and says all makes the log lose what it had told: the check after the faults says so."""
    order = tmp_path / "fault"
    folder = tmp_path / "log"
    writer = Writer(folder, environment={"LD_PRELOAD": str(preloaded("failing_disk")), "FAULT_FILE": str(order)})
    first = writer.write(20)
    order.write_text("lie")
    lied = writer.write(20)
    assert not lied["refused"]
    writer.end()
    assert LogReader(folder).verify().bad > 0
    with pytest.raises(LogCorrupt):
        Figures().check_ids(folder, first["durable"] + lied["durable"])

import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from bundles.signing import Keys
from gateway.notary import HomeNotary
from monitors.log import checkpoints
from monitors.log.checkpoints import FILE, begin_at, begun, heads, holds, read_checkpoints, take_checkpoint, thinned
from monitors.log.segment import numbers, segment_path
from monitors.log.signed import TAIL_BYTES
from monitors.log.verify import verify
from tests.monitors.log.forger import forge, rewrite, set_mark
from tests.monitors.log.logbook import Logbook, record

TIME = "2026-11-25T02:00:00.000000Z"
ROOT = Path(__file__).parents[3]
TAKING = """
import sys
from pathlib import Path
from bundles.signing import Keys
from gateway.notary import HomeNotary
from monitors.log.checkpoints import take_checkpoint
notary = HomeNotary(Keys(Path(sys.argv[2])))
for _ in range(40):
    take_checkpoint(Path(sys.argv[1]), notary, "2026-11-25T02:00:00Z")
"""


@pytest.fixture
def notary(tmp_path: Path) -> HomeNotary:
    """A home's keys."""
    return HomeNotary(Keys(tmp_path / "keys"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of two writers, closed."""
    for name in ("w0", "w1"):
        book = Logbook(tmp_path / "log", name)
        book.write_one_by_one(5)
        book.close()
    return tmp_path / "log"


def test_a_checkpoint_says_where_all_chains_stand(log: Path, notary: HomeNotary) -> None:
    """The heads are the durable ends, each line covers the one before, and its signature is the home's."""
    first = take_checkpoint(log, notary, TIME)
    assert [(one.writer, one.seq) for one in first.checkpoint.heads] == [("w0", 5), ("w1", 5)]
    assert all(holds(log, one) for one in first.checkpoint.heads)
    book = Logbook(log, "w1")
    book.write([record()])
    second = take_checkpoint(log, notary, TIME)
    book.close()
    assert [(one.writer, one.segment, one.seq) for one in second.checkpoint.heads] == [("w0", 1, 5), ("w1", 2, 6)]
    assert second.checkpoint.number == 2
    lines = (log / FILE).read_bytes().splitlines()
    assert second.checkpoint.previous == sha256(lines[0]).hexdigest()
    read = read_checkpoints(log, notary)
    assert [one.checkpoint for one in read] == [first.checkpoint, second.checkpoint]
    assert {one.key for one in read} == {Keys(log.parent / "keys").signer().public_key.keyid}


def test_heads_hold_while_the_log_goes_on(log: Path, notary: HomeNotary) -> None:
    """A place on a chain is still on it after more frames, more segments, and an empty segment that came and went."""
    book = Logbook(log, "w0", segment_bytes=6_000)
    found = heads(log)
    for _ in range(12):
        book.write([record(data=bytes(500))])
        assert all(holds(log, one) for one in found)
        found += heads(log)
    book.close()
    Logbook(log, "w0").close()
    empty = numbers(log, "w0")[-1]
    assert heads(log)[0].segment < empty
    segment_path(log, "w0", empty).unlink()
    assert all(holds(log, one) for one in [*found, *heads(log)])


def test_what_was_signed_and_is_gone_is_carried_on(log: Path, notary: HomeNotary) -> None:
    """A new checkpoint does not whitewash: of a writer that vanished the old head stays, until its files are back."""
    signed = take_checkpoint(log, notary, TIME).checkpoint.heads
    shutil.move(log / "w1", log.parent / "w1")
    for _ in range(3):
        taken = take_checkpoint(log, notary, TIME)
        assert taken.lost == [signed[1]]
        assert sorted(taken.checkpoint.heads, key=lambda one: one.writer) == signed
    # Also when the newest line is all that is left.
    (log / FILE).write_bytes((log / FILE).read_bytes().splitlines(keepends=True)[-1])
    bad = verify(log, notary).first_bad
    assert bad is not None
    assert (bad["writer"], bad["seq"], bad["kind"]) == ("w1", 0, "missing")
    shutil.move(log.parent / "w1", log / "w1")
    assert take_checkpoint(log, notary, TIME).lost == []
    assert verify(log, notary).first_bad is None


def test_a_log_that_was_rewritten_between_two_checkpoints_stays_bad(log: Path, notary: HomeNotary) -> None:
    """The writer goes on behind what a forger mended: the checkpoints after it say so as well as those before it."""
    take_checkpoint(log, notary, TIME)
    forge(log, "w0", rewrite(2))
    book = Logbook(log, "w0")
    book.write_one_by_one(3)
    taken = take_checkpoint(log, notary, TIME)
    book.close()
    assert [(one.writer, one.seq) for one in taken.lost] == [("w0", 5)]
    assert [(one.writer, one.seq) for one in taken.checkpoint.heads] == [("w0", 5), ("w0", 8), ("w1", 5)]
    (log / FILE).write_bytes((log / FILE).read_bytes().splitlines(keepends=True)[-1])
    bad = verify(log, notary).first_bad
    assert bad is not None
    assert (bad["writer"], bad["seq"], bad["until_seq"], bad["kind"]) == ("w0", 0, 5, "altered")


def test_numbers_that_were_given_again_stay_bad(log: Path, notary: HomeNotary) -> None:
    """The tail is cut while nothing runs, and the writer writes other records under the same numbers."""
    take_checkpoint(log, notary, TIME)
    set_mark(log, "w1", 1, frames=3, closed=True, cut=True)
    book = Logbook(log, "w1")
    book.write_one_by_one(4)
    assert [one.seq for one in take_checkpoint(log, notary, TIME).lost] == [5]
    book.close()
    bad = verify(log, notary).first_bad
    assert bad is not None
    assert (bad["writer"], bad["kind"], bad["until_seq"]) == ("w1", "altered", 5)


def test_words_that_nobody_trusted_signed_count_for_nothing(log: Path, notary: HomeNotary, tmp_path: Path) -> None:
    """A line that a stranger appended, from which a writer is left out, does not make the next one leave it out."""
    take_checkpoint(log, notary, TIME)
    shutil.move(log / "w1", log.parent / "w1")
    (log / FILE).rename(tmp_path / "kept")
    take_checkpoint(log, HomeNotary(Keys(tmp_path / "stranger")), TIME)
    strangers = (log / FILE).read_bytes()
    # As many as are looked at first, and more.
    for count in (1, TAIL_BYTES // len(strangers) + 2):
        (log / FILE).write_bytes((tmp_path / "kept").read_bytes() + strangers * count)
        taken = take_checkpoint(log, notary, TIME)
        assert [one.writer for one in taken.lost] == ["w1"]


def test_a_file_that_was_put_back_does_not_pass_for_the_newest(log: Path, notary: HomeNotary) -> None:
    """What is known from elsewhere counts: numbers go on from there, and so does what was signed."""
    take_checkpoint(log, notary, TIME)
    old = (log / FILE).read_bytes()
    kept = take_checkpoint(log, notary, TIME)
    (log / FILE).write_bytes(old)
    shutil.rmtree(log / "w0")
    taken = take_checkpoint(log, notary, TIME, kept=kept.envelope)
    assert taken.checkpoint.number == 3
    assert [one.writer for one in taken.lost] == ["w0"]


def test_a_torn_line_is_cut(log: Path, notary: HomeNotary) -> None:
    """What a process left of a line when it died is no line, for readers and for the next one who appends."""
    take_checkpoint(log, notary, TIME)
    whole = (log / FILE).read_bytes()
    for size in (1, 100, len(whole) - 1):
        (log / FILE).write_bytes(whole + whole[:size])
        assert len(read_checkpoints(log, notary)) == 1
        assert verify(log, notary).first_bad is None
    take_checkpoint(log, notary, TIME)
    assert (log / FILE).read_bytes().startswith(whole)
    assert len(read_checkpoints(log, notary)) == 2
    assert verify(log, notary).first_bad is None


def test_several_processes_append_in_turn(log: Path, notary: HomeNotary, tmp_path: Path) -> None:
    """Control and the sealer at once: no line is lost, and each covers the one before it."""
    command = [sys.executable, "-c", TAKING, str(log), str(tmp_path / "keys")]
    notary.sign(b"{}", "text/plain")
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [one.wait(60) for one in running] == [0, 0, 0]
    read = [one.checkpoint for one in read_checkpoints(log, notary)]
    assert [one.number for one in read if one is not None] == list(range(1, 121))
    assert verify(log, notary).first_bad is None


def test_old_ones_are_thinned(log: Path, notary: HomeNotary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file stays below its limit: the newest all stay, of those before one an hour or a day; what is left holds."""
    monkeypatch.setattr(checkpoints, "BYTES_MAX", 64 * 1024)
    moment = datetime(2026, 11, 1, tzinfo=UTC)
    for _ in range(200):
        moment += timedelta(minutes=7)
        take_checkpoint(log, notary, moment.isoformat().replace("+00:00", "Z"))
    lines = (log / FILE).read_bytes().splitlines(keepends=True)
    assert sum(map(len, lines)) <= checkpoints.BYTES_MAX + len(lines[-1])
    read = [one.checkpoint for one in read_checkpoints(log, notary)]
    found = [one for one in read if one is not None]
    assert len(found) == len(lines)
    assert [one.number for one in found] == sorted({one.number for one in found})
    assert [one.number for one in found[-20:]] == list(range(181, 201))
    assert found[0].time[:10] == "2026-11-01"
    assert verify(log, notary).first_bad is None
    whole = [line.rstrip(b"\n") for line in lines]
    assert thinned(whole)[-20:] == whole[-20:]


def test_where_a_chain_begins_is_remembered(log: Path, notary: HomeNotary) -> None:
    """Retention says it once; the checkpoints after it say it too, and no more ask for what was before."""
    book = Logbook(log, "w0")
    book.write_one_by_one(2)
    take_checkpoint(log, notary, TIME)
    begin = begin_at(log, "w0", 2)
    assert (begin.seq, begin.segment) == (5, 2)
    take_checkpoint(log, notary, TIME, begins=[begin])
    segment_path(log, "w0", 1).unlink()
    for _ in range(2):
        taken = take_checkpoint(log, notary, TIME)
        assert (taken.lost, taken.checkpoint.begins) == ([], [begin])
        assert begun(log, notary) == {"w0": 2}
    earlier = msgspec.structs.replace(begin, segment=1, seq=0)
    assert take_checkpoint(log, notary, TIME, begins=[earlier]).checkpoint.begins == [begin], "never back again"
    book.close()
    assert verify(log, notary).first_bad is None

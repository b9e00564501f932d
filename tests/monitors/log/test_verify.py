"""A real log, of three writers over several segments with restarts, altered in every way: what verify says of each."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bundles.signing import Keys
from gateway.notary import HomeNotary
from monitors.log.checkpoints import begin_at, read_checkpoints, take_checkpoint
from monitors.log.contract import Report
from monitors.log.erasures import note_erasures
from monitors.log.recovery import recover_all
from monitors.log.segment import HEADER_BYTES, Segment, numbers, segment_path
from monitors.log.signed import Envelope
from monitors.log.verify import verify
from tests.monitors.log.forger import drop, erase, filled, forge, frames_of, rewrite, set_mark
from tests.monitors.log.logbook import Logbook, ids_read, record

WRITERS = ("w0", "w1", "w2")
ROUNDS = 4
TRIES = 40


@dataclass
class Signed:
    """A log with checkpoints, the notary that signed them, and the log as it was halfway."""

    folder: Path
    notary: HomeNotary
    halfway: Path
    newest: Envelope

    def verify(self) -> Report:
        """Verify as a home with the key does."""
        return verify(self.folder, self.notary)

    def first_bad(self) -> dict[str, Any]:
        """What is wrong first; something must be."""
        found = self.verify().first_bad
        assert found is not None
        return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """Write the log: each round opens the writers anew, and a checkpoint is taken after every few frames."""
    folder = tmp_path_factory.mktemp("signed")
    log, halfway, notary = folder / "log", folder / "halfway", HomeNotary(Keys(folder / "keys"))
    kinds = ["answered", "refused", "answered", "shadow"]
    for turn in range(ROUNDS):
        books = [Logbook(log, name, segment_bytes=9_000) for name in WRITERS]
        for step in range(4):
            for book in books:
                for _ in range(3):
                    book.write([record(kinds[(turn + step + n) % 4], data=bytes(200 + 30 * n)) for n in range(2)])
            taken = take_checkpoint(log, notary, f"2026-11-25T0{turn}:0{step}:00Z")
            assert taken.lost == []
            if (turn, step) == (1, 1):
                shutil.copytree(log, halfway)
        for book in books:
            book.close()
    taken = take_checkpoint(log, notary, "2026-11-25T09:00:00Z")
    assert min(len(filled(log, name)) for name in WRITERS) >= ROUNDS
    return Signed(log, notary, halfway, taken.envelope)


@pytest.fixture
def log(written: Signed, tmp_path: Path) -> Signed:
    """The log, to be altered."""
    folder = Path(shutil.copytree(written.folder, tmp_path / "log"))
    return Signed(folder, written.notary, written.halfway, written.newest)


def test_what_was_written_is_good(log: Signed) -> None:
    """Each record counts once, nothing is bad, and all of it is signed."""
    report = log.verify()
    assert report.first_bad is None
    assert report.records == ROUNDS * 4 * 3 * 2 * len(WRITERS) == len(ids_read(log.folder))
    assert report.records == report.answered + report.refused + report.shadow + report.tombstones
    assert (report.tombstones, min(report.refused, report.shadow) > 0) == (0, True)
    assert report.checkpoint is not None
    assert report.checkpoint["seqs"] == dict.fromkeys(WRITERS, ROUNDS * 4 * 3 * 2)
    assert report.checkpoint["records_behind"] == 0
    assert report.checkpoint["key"] == read_checkpoints(log.folder, log.notary)[0].key is not None


def test_any_altered_byte_is_named(log: Signed) -> None:
    """One byte, anywhere that was written: writer, segment and frame are named, with a key and without."""
    chance = random.Random(1)
    for _ in range(TRIES):
        writer = chance.choice(WRITERS)
        number = chance.choice(filled(log.folder, writer))
        frames, path = frames_of(log.folder, writer, number), segment_path(log.folder, writer, number)
        content = path.read_bytes()
        offset = chance.choice([chance.randrange(HEADER_BYTES), *[chance.randrange(HEADER_BYTES, frames[-1].end)] * 3])
        path.write_bytes(
            content[:offset] + bytes([content[offset] ^ (1 << chance.randrange(8))]) + content[offset + 1 :]
        )
        hit = [frame for frame in frames if frame.offset <= offset < frame.end] or frames
        for notary in (log.notary, None):
            bad = verify(log.folder, notary).first_bad
            assert bad is not None, offset
            assert (bad["writer"], bad["segment"], bad["kind"]) == (writer, number, "altered"), (offset, bad)
            assert hit[0].first_seq <= bad["seq"] < hit[-1].end_seq, (offset, bad)
        path.write_bytes(content)


def test_any_removed_frame_is_named(log: Signed) -> None:
    """Cut out of its file: it is missing, by its first number."""
    chance = random.Random(2)
    for _ in range(TRIES):
        writer = chance.choice(WRITERS)
        number = chance.choice(filled(log.folder, writer))
        frame = chance.choice(frames_of(log.folder, writer, number))
        path = segment_path(log.folder, writer, number)
        content = path.read_bytes()
        path.write_bytes(content[: frame.offset] + content[frame.end :])
        for notary in (log.notary, None):
            bad = verify(log.folder, notary).first_bad
            assert bad is not None
            place = (bad["writer"], bad["segment"], bad["seq"], bad["kind"])
            assert place == (writer, number, frame.first_seq, "missing"), bad
        path.write_bytes(content)


def test_any_two_swapped_frames_are_named(log: Signed) -> None:
    """The order within a segment: the place of the first of the two is named."""
    chance = random.Random(3)
    for _ in range(TRIES):
        writer = chance.choice(WRITERS)
        number = chance.choice(
            [one for one in filled(log.folder, writer) if len(frames_of(log.folder, writer, one)) > 1]
        )
        one, other = sorted(chance.sample(frames_of(log.folder, writer, number), 2), key=lambda frame: frame.offset)
        path = segment_path(log.folder, writer, number)
        content = path.read_bytes()
        between = content[one.end : other.offset]
        swapped = content[other.offset : other.end] + between + content[one.offset : one.end]
        path.write_bytes(content[: one.offset] + swapped + content[other.end :])
        for notary in (log.notary, None):
            bad = verify(log.folder, notary).first_bad
            assert bad is not None
            place = (bad["writer"], bad["segment"], bad["seq"], bad["kind"])
            assert place == (writer, number, one.first_seq, "reordered"), bad
        path.write_bytes(content)


@pytest.mark.parametrize("writer", WRITERS)
def test_any_removed_segment_is_named(log: Signed, writer: str) -> None:
    """The first, one in the middle, the last: without a key the last is not missed, for nothing says that it was."""
    for number in filled(log.folder, writer):
        path = segment_path(log.folder, writer, number)
        first_seq, content = frames_of(log.folder, writer, number)[0].first_seq, path.read_bytes()
        path.unlink()
        bad = log.first_bad()
        assert (bad["writer"], bad["seq"], bad["kind"]) == (writer, first_seq, "missing"), bad
        path.write_bytes(content)
    last = [number for number in numbers(log.folder, writer) if number >= filled(log.folder, writer)[-1]]
    for number in last:
        segment_path(log.folder, writer, number).unlink()
    assert log.first_bad()["kind"] == "missing"
    (log.folder / "checkpoints").unlink()
    assert verify(log.folder).first_bad is None


@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_that_vanished_is_missed(log: Signed, writer: str) -> None:
    """Folder and all: the checkpoint over all writers names it."""
    shutil.rmtree(log.folder / writer)
    bad = log.first_bad()
    assert (bad["writer"], bad["seq"], bad["kind"], bad["until_seq"]) == (writer, 0, "missing", ROUNDS * 4 * 3 * 2)


@pytest.mark.parametrize("writer", WRITERS)
def test_an_old_copy_of_a_segment_is_noticed(log: Signed, writer: str) -> None:
    """As a restored backup is: what was written to it since is missing, from the first number on."""
    number = filled(log.halfway, writer)[-1]
    old = segment_path(log.halfway, writer, number)
    path = segment_path(log.folder, writer, number)
    assert path.stat().st_size > old.stat().st_size, "it was written on after the copy"
    shutil.copy(old, path)
    bad = log.first_bad()
    end_seq = frames_of(log.halfway, writer, number)[-1].end_seq
    assert (bad["writer"], bad["seq"], bad["kind"]) == (writer, end_seq, "missing"), bad


@pytest.mark.parametrize("writer", WRITERS)
def test_a_segment_under_another_name_is_noticed(log: Signed, writer: str) -> None:
    """Two files swapped are out of order, not damaged."""
    one, other = (segment_path(log.folder, writer, number) for number in filled(log.folder, writer)[1:3])
    content = one.read_bytes()
    shutil.copy(other, one)
    other.write_bytes(content)
    bad = log.first_bad()
    assert (bad["writer"], bad["segment"], bad["kind"]) == (writer, filled(log.halfway, writer)[1], "reordered")


def test_a_rewritten_log_is_noticed_with_a_key_and_only_then(log: Signed) -> None:
    """Somebody changes one record, or leaves it out, and mends all sums and digests behind it.

    Every sum holds then. What was signed does not: the numbers between two checkpoints are named, the record's among
    them. Without checkpoints nothing is noticed, as docs/log.md says.
    """
    chance = random.Random(4)
    for change in (rewrite, drop):
        for _ in range(12):
            writer, seq = chance.choice(WRITERS), chance.randrange(ROUNDS * 24)
            kept = Path(shutil.copytree(log.folder / writer, log.folder.parent / "kept"))
            forge(log.folder, writer, change(seq))
            bad = log.first_bad()
            assert bad["writer"] == writer
            assert bad["kind"] == "altered", bad
            assert bad["seq"] <= seq < bad["until_seq"] <= bad["seq"] + 8, "a checkpoint was taken every six records"
            forged = shutil.move(log.folder / "checkpoints", log.folder.parent / "aside")
            assert verify(log.folder).first_bad is None
            assert log.first_bad()["kind"] == "missing", "that there is no checkpoint is noticed where there is a key"
            shutil.move(forged, log.folder / "checkpoints")
            shutil.rmtree(log.folder / writer)
            shutil.move(kept, log.folder / writer)
    assert log.verify().first_bad is None


def test_a_forger_cannot_sign(log: Signed, tmp_path: Path) -> None:
    """A rewritten log with checkpoints by another key is noticed, and so is one whose signed words were changed."""
    forge(log.folder, "w1", rewrite(5))
    kept = (log.folder / "checkpoints").read_bytes()
    stranger = HomeNotary(Keys(tmp_path / "stranger"))
    take_checkpoint(log.folder, stranger, "2026-11-25T10:00:00Z")
    bad = log.first_bad()
    assert (bad["writer"], bad["seq"], bad["kind"]) == ("checkpoints", ROUNDS * 4 + 2, "altered")
    assert "does not trust" in bad["message"]
    (log.folder / "checkpoints").unlink()
    take_checkpoint(log.folder, stranger, "2026-11-25T10:00:00Z")
    assert log.first_bad()["kind"] == "altered"
    lines = kept.splitlines(keepends=True)
    (log.folder / "checkpoints").write_bytes(
        lines[0].replace(b'"payload":"e', b'"payload":"f', 1) + b"".join(lines[1:])
    )
    assert log.first_bad()["seq"] == 1
    (log.folder / "checkpoints").write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    assert (log.first_bad()["kind"], log.first_bad()["seq"]) == ("reordered", 2)


def test_a_cut_tail_is_noticed_up_to_the_last_checkpoint(log: Signed) -> None:
    """The newest frames are cut and the mark is put back: what was signed is missing, what was not is not missed."""
    number = filled(log.folder, "w2")[-1]
    frames = frames_of(log.folder, "w2", number)
    for later in numbers(log.folder, "w2"):
        if later > number:
            segment_path(log.folder, "w2", later).unlink()
    set_mark(log.folder, "w2", number, frames=len(frames) - 1, closed=True, cut=True)
    bad = log.first_bad()
    assert (bad["writer"], bad["seq"], bad["kind"]) == ("w2", frames[-1].first_seq, "missing")
    (log.folder / "checkpoints").unlink()
    assert verify(log.folder).first_bad is None


def test_an_old_mark_hides_nothing(log: Signed) -> None:
    """A mark put back, as by a power cut: what is behind it is vouched for and found, and recovery takes it up."""
    number = filled(log.folder, "w0")[-1]
    before = ids_read(log.folder)
    for later in numbers(log.folder, "w0"):
        if later > number:
            segment_path(log.folder, "w0", later).unlink()
    set_mark(log.folder, "w0", number, frames=1)
    assert len(ids_read(log.folder)) < len(before)
    report = log.verify()
    assert (report.first_bad, report.records) == (None, len(before))
    assert recover_all(log.folder) == []
    assert sorted(ids_read(log.folder)) == sorted(before)
    # Closed, it would hide them from recovery; then they are missed.
    set_mark(log.folder, "w0", number, frames=1, closed=True)
    assert log.first_bad()["kind"] == "missing"


def test_an_old_mark_before_another_segment_hides_nothing(log: Signed) -> None:
    """The segment behind it says up to where it went."""
    number = filled(log.folder, "w0")[0]
    before = log.verify().records
    set_mark(log.folder, "w0", number, frames=1)
    report = verify(log.folder)
    assert (report.first_bad, report.records) == (None, before)


def test_a_log_put_back_to_an_older_state_is_noticed_by_what_was_kept_elsewhere(log: Signed) -> None:
    """All files as they were once, checkpoints too: only a checkpoint from elsewhere contradicts them."""
    assert verify(log.halfway, log.notary).first_bad is None
    bad = verify(log.halfway, log.notary, [log.newest]).first_bad
    assert bad is not None
    assert (bad["writer"], bad["kind"]) == ("checkpoints", "missing")
    shutil.copy(log.folder / "checkpoints", log.folder.parent / "aside")
    shutil.rmtree(log.folder)
    shutil.copytree(log.halfway, log.folder)
    shutil.move(log.folder.parent / "aside", log.folder / "checkpoints")
    assert (log.first_bad()["writer"], log.first_bad()["kind"]) == ("w0", "missing")


def test_a_tombstone_counts_once(log: Signed) -> None:
    """A record whose payload was erased counts as a tombstone and no more as what it was; the chain holds.

    That is so where a signed note says that it was to go; without the note somebody altered it, and only who has the
    key can tell.
    """
    before = log.verify()
    number = filled(log.folder, "w0")[0]
    with Segment(log.folder, "w0", number) as segment:
        found = [one.record() for frame in segment.frames(HEADER_BYTES, segment.mark().end) for one in frame.entries()]
    for one in found[:3]:
        erase(log.folder, "w0", number, one.seq)
    bad = log.first_bad()
    assert (bad["writer"], bad["seq"], bad["kind"]) == ("w0", found[0].seq, "altered")
    assert verify(log.folder).first_bad is None
    note_erasures(log.folder, log.notary, "2026-11-25T10:00:00Z", [one.id for one in found[:3]])
    after = log.verify()
    assert (after.first_bad, after.records, after.tombstones) == (None, before.records, 3)
    assert after.answered == before.answered - [one.kind for one in found[:3]].count("answered")
    assert after.records == after.answered + after.refused + after.shadow + after.tombstones


def test_a_note_of_an_erasure_must_be_signed(log: Signed, tmp_path: Path) -> None:
    """Who has no key can't erase and say that it was to be: the note is altered, and so is the payload."""
    number = filled(log.folder, "w0")[0]
    with Segment(log.folder, "w0", number) as segment:
        one = next(next(segment.frames(HEADER_BYTES, segment.mark().end)).entries()).record()
    erase(log.folder, "w0", number, one.seq)
    note_erasures(log.folder, HomeNotary(Keys(tmp_path / "stranger")), "2026-11-25T10:00:00Z", [one.id])
    report = log.verify()
    assert report.first_bad is not None
    assert (report.bad, report.first_bad["writer"], report.first_bad["kind"]) == (2, "erasures", "altered")


def test_retention_begins_the_chain_later(log: Signed) -> None:
    """What a signed checkpoint gave up is not missed, also when its files are still there; anything more is."""
    number = filled(log.folder, "w1")[2]
    begin = begin_at(log.folder, "w1", number)
    whole = log.verify()
    taken = take_checkpoint(log.folder, log.notary, "2026-11-25T11:00:00Z", begins=[begin])
    assert taken.lost == []
    report = log.verify()
    assert (report.first_bad, report.records) == (None, whole.records - begin.seq)
    for gone in numbers(log.folder, "w1"):
        if gone < number:
            segment_path(log.folder, "w1", gone).unlink()
    assert log.verify() == report
    assert take_checkpoint(log.folder, log.notary, "2026-11-25T12:00:00Z").checkpoint.begins == [begin]
    segment_path(log.folder, "w1", number).unlink()
    bad = log.first_bad()
    assert (bad["writer"], bad["seq"], bad["kind"]) == ("w1", begin.seq, "missing")


def test_retention_during_a_walk_is_not_damage(log: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that go, properly, while they are walked: the walk begins again and finds nothing wrong."""
    number = filled(log.folder, "w2")[2]

    def told(_records: int, _walked: int, _total: int) -> None:
        first = segment_path(log.folder, "w2", numbers(log.folder, "w2")[0])
        if first.name < segment_path(log.folder, "w2", number).name:
            begins = [begin_at(log.folder, "w2", number)]
            take_checkpoint(log.folder, log.notary, "2026-11-25T11:00:00Z", begins=begins)
            for gone in numbers(log.folder, "w2"):
                if gone < number:
                    segment_path(log.folder, "w2", gone).unlink()

    report = verify(log.folder, log.notary, progress=told)
    assert report.first_bad is None
    assert report.records == verify(log.folder, log.notary).records


def test_progress_ends_at_the_end(log: Signed) -> None:
    """What is told grows up to all records, and to no more bytes than there are."""
    told: list[tuple[int, int, int]] = []
    report = verify(log.folder, log.notary, progress=lambda *figures: told.append(figures))
    assert told == sorted(told)
    assert told[-1][0] == report.records
    assert told[-1][1] <= told[-1][2]


def test_a_kind_that_is_none_is_said(tmp_path: Path) -> None:
    """The law at rest has four kinds of records; one of a fifth would break it, and is bad."""
    book = Logbook(tmp_path)
    book.write([record(), record("guessed"), record()])
    book.close()
    report = verify(tmp_path)
    assert report.first_bad is not None
    assert (report.records, report.first_bad["seq"], report.first_bad["kind"]) == (2, 1, "altered")

"""`snowgate log verify`: what it prints, for scripts and for people."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bundles.home import Home
from gateway.checkpoints import KEY, checkpoint_json
from gateway.notary import HomeNotary
from monitors.log.checkpoints import take_checkpoint
from state import Change
from state.sqlite import SqliteState
from tests.gateway.test_cli import run
from tests.monitors.log.logbook import Logbook, record


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with two writers' records, and one checkpoint before the last of them, in its log and in its state."""
    home = Home(tmp_path / "home").make()
    state = SqliteState(home.state)
    for name in ("w0", "w1"):
        book = Logbook(home.log, name)
        book.write([record(), record("refused"), record("shadow")])
        book.write_one_by_one(4)
        book.close()
    taken = take_checkpoint(home.log, HomeNotary(home.keys()), "2026-11-25T02:00:00.000000Z")
    state.commit(Change(KEY, checkpoint_json(taken)))
    state.close()
    book = Logbook(home.log, "w1")
    book.write_one_by_one(2)
    book.close()
    return home


def verify(capsys: pytest.CaptureFixture[str], home: Home, *more: str) -> tuple[int, dict[str, Any]]:
    """Run it for a script."""
    code, out, _err = run(capsys, "log", "verify", "--home", str(home.path), "-o", "json", *more)
    return code, json.loads(out)


def told(capsys: pytest.CaptureFixture[str], home: Home) -> tuple[int, str]:
    """Run it for a human."""
    code, out, _err = run(capsys, "log", "verify", "--home", str(home.path))
    return code, out


def test_a_script_gets_the_counts(capsys: pytest.CaptureFixture[str], home: Home) -> None:
    """The law at rest, null where nothing is bad, and what a key covers."""
    code, report = verify(capsys, home)
    assert code == 0
    assert report["first_bad"] is None
    counts = [report[name] for name in ("records", "answered", "refused", "shadow", "tombstones")]
    assert counts == [16, 12, 2, 2, 0]
    assert (report["checkpoint"]["seqs"], report["checkpoint"]["records_behind"]) == ({"w0": 7, "w1": 7}, 2)


def test_a_human_is_told_what_it_rests_on(capsys: pytest.CaptureFixture[str], home: Home) -> None:
    """In a sentence each: that it is good, what a change on purpose could not have touched, and what it could."""
    code, out = told(capsys, home)
    assert code == 0
    assert "Good:" in out
    assert "w0 seq 7, w1 seq 7" in out
    assert "Behind it are 2 records" in out


def test_a_human_is_told_what_to_do(capsys: pytest.CaptureFixture[str], home: Home) -> None:
    """The file, what is wrong with it, what may have done it, and the next command."""
    path = home.log / "w0" / "0000000001.seg"
    content = path.read_bytes()
    path.write_bytes(content[:-5] + b"xxxxx")
    code, out = told(capsys, home)
    assert code == 1
    assert "BAD in 1 place." in out
    assert "altered: writer w0, segment 1, from seq 6 on" in out
    assert str(path) in out
    for word in ("cp -a", "dmesg", "backup", "snowgate log verify"):
        assert word in out
    bad = verify(capsys, home)[1]["first_bad"]
    assert (bad["writer"], bad["segment"], bad["seq"], bad["kind"]) == ("w0", 1, 6, "altered")


def test_without_a_key_it_says_so(capsys: pytest.CaptureFixture[str], home: Home) -> None:
    """A copy of a home without its keys: nothing is made in it, and accidents are what is noticed."""
    shutil.rmtree(home.path / "keys")
    code, out = told(capsys, home)
    assert code == 0
    assert "No key is here" in out
    assert "bundle trust" in out
    assert not (home.path / "keys").exists()
    shutil.rmtree(home.log / "w0")
    assert verify(capsys, home)[0] == 1
    (home.log / "checkpoints").unlink()
    home.state.unlink()
    (home.path / "refs.git").mkdir()
    code, out = told(capsys, home)
    assert code == 0
    assert "Not signed" in out


def test_what_state_and_files_have_kept_counts(capsys: pytest.CaptureFixture[str], home: Home, tmp_path: Path) -> None:
    """The log is put back, checkpoints too: live state knows a newer one, and so does a copy that lies elsewhere."""
    shutil.copytree(home.log, tmp_path / "old")
    taken = take_checkpoint(home.log, HomeNotary(home.keys()), "2026-11-25T03:00:00.000000Z")
    shutil.copy(home.log / "checkpoints", tmp_path / "kept")
    shutil.rmtree(home.log)
    shutil.move(tmp_path / "old", home.log)
    assert verify(capsys, home)[0] == 0, "nothing here knows"
    code, report = verify(capsys, home, "--checkpoint", str(tmp_path / "kept"))
    assert (code, report["first_bad"]["writer"], report["first_bad"]["kind"]) == (1, "checkpoints", "missing")
    state = SqliteState(home.state)
    state.commit(Change(KEY, checkpoint_json(taken)))
    state.close()
    assert verify(capsys, home)[0] == 1


def test_a_file_that_is_no_copy_is_wrong_usage(capsys: pytest.CaptureFixture[str], home: Home, tmp_path: Path) -> None:
    """Not a finding about the log: the file is named, with what was expected."""
    (tmp_path / "other").write_text("{}\nhello\n")
    code, out, err = run(capsys, "log", "verify", "--home", str(home.path), "--checkpoint", str(tmp_path / "other"))
    assert (code, out) == (2, "")
    assert "line 2" in err
    assert "copy of log/checkpoints" in err

"""`snowgate log cursors` on a real log."""

import json
import os
from pathlib import Path

import pytest

from bundles.home import Home
from monitors.log.cursors import take_name
from monitors.log.reader import LogReader
from tests.gateway.test_cli import run
from tests.monitors.log.logbook import Logbook


def test_cursors_are_listed_with_their_lag_and_dropped(capsys: pytest.CaptureFixture[str], home: Home) -> None:
    """Where each stands, how far behind, and what it lost; one that is in use can't be dropped, one that is not can."""
    (home.path / "state.db").touch()
    book = Logbook(home.log, segment_bytes=5_000)
    book.write_one_by_one(4)
    follower = LogReader(home.log).follow("export")
    follower.read(4)
    follower.commit()
    book.write_one_by_one(20)
    book.close()
    code, out, _err = run(capsys, "log", "cursors", "--home", str(home.path), "-o", "json")
    (row,) = json.loads(out)
    assert code == 0
    assert (row["name"], row["records"], row["lag"]["records"], row["lost"]) == ("export", 4, 20, 0)
    assert row["in_use"] is False
    assert row["writers"]["w0"]["next_seq"] == 4
    _lose_a_segment(home.log)
    descriptor = take_name(home.log, "export")
    code, out, err = run(capsys, "log", "cursors", "--home", str(home.path), "--drop", "export")
    assert code == 1
    assert "living process" in err
    code, out, _err = run(capsys, "log", "cursors", "--home", str(home.path), "-o", "json")
    (row,) = json.loads(out)
    (gap,) = row["gaps"]
    assert row["in_use"] is True
    assert gap["last_seq"] - gap["first_seq"] + 1 == row["lost"] > 0
    os.close(descriptor)
    code, out, _err = run(capsys, "log", "cursors", "--home", str(home.path), "--drop", "export", "-o", "json")
    assert (code, json.loads(out)) == (0, [])


def _lose_a_segment(folder: Path) -> None:
    """Remove what the cursor has yet to read, as retention does, and read on."""
    for number in (1, 2, 3):
        (folder / "w0" / f"{number:010d}.seg").unlink()
    follower = LogReader(folder).follow("export")
    while follower.read():
        follower.commit()

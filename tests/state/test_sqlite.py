import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from state import Change
from state.sqlite import SqliteState

PROCESSES = 4
COMMITS = 20
ADD = """
import sys
from pathlib import Path
from state import Change, Conflict
from state.sqlite import SqliteState

state, left = SqliteState(Path(sys.argv[1])), int(sys.argv[2])
while left:
    document = state.get("counter")
    count, revision = (0, 0) if document is None else (document.body["n"], document.revision)
    try:
        state.commit(Change("counter", {"n": count + 1}, revision))
    except Conflict:
        continue
    left -= 1
"""


def test_processes_open_a_new_home_at_once_and_lose_no_change(tmp_path: Path) -> None:
    """Control, worker and monitor start together on a file that is not there yet; each one's changes all count."""
    path = tmp_path / "state.db"
    command = [sys.executable, "-c", ADD, str(path), str(COMMITS)]
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE) for _ in range(PROCESSES)]
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()
    state = SqliteState(path)
    document = state.get("counter")
    assert document is not None
    assert document.body["n"] == PROCESSES * COMMITS
    assert state.version() == PROCESSES * COMMITS
    state.close()


def test_another_connection_sees_a_commit_at_once(tmp_path: Path) -> None:
    """A poller in another process has a connection of its own: it sees a commit the next time it looks."""
    one, other = SqliteState(tmp_path / "state.db"), SqliteState(tmp_path / "state.db")
    before = other.version()
    one.commit(Change("routes/signs", {"weight": 1}))
    assert other.version() != before
    assert other.list("routes/") == one.list("routes/")
    one.close()
    other.close()


def test_a_commit_is_on_disk_before_it_is_reported(tmp_path: Path) -> None:
    """The settings that make a commit survive a power cut: a write-ahead log, synced at every commit."""
    state = SqliteState(tmp_path / "state.db")
    connection = state._connection
    assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    assert connection.execute("pragma synchronous").fetchone() == (2,)
    state.close()


def test_a_full_disk_fails_the_commit_and_not_the_store(tmp_path: Path) -> None:
    """No page more may be had: the commit raises and changes nothing, and a smaller one still goes."""
    state = SqliteState(tmp_path / "state.db")
    first = state.commit(Change("small", {"n": 1}))
    pages = state._connection.execute("pragma page_count").fetchone()
    assert pages is not None
    state._connection.execute(f"pragma max_page_count = {pages[0]}")
    with pytest.raises(apsw.FullError):
        state.commit(Change("small", {"n": 2}), Change("large", {"text": "x" * 100_000}))
    assert state.version() == first
    assert state.commit(Change("small", {"n": 3}, first)) == first + 1
    state.close()


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A folder that is not there: said when the home is opened, not at the first change."""
    with pytest.raises(apsw.CantOpenError):
        SqliteState(tmp_path / "nowhere" / "state.db")

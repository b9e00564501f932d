"""What every store of live state must do; a second implementation joins by a line in IMPLEMENTATIONS."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from state import Change, Conflict, State
from state.sqlite import SqliteState

IMPLEMENTATIONS: dict[str, Callable[[Path], State]] = {"sqlite": lambda folder: SqliteState(folder / "state.db")}


@pytest.fixture(params=IMPLEMENTATIONS)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    """A store, empty."""
    opened = IMPLEMENTATIONS[request.param](tmp_path)
    yield opened
    opened.close()


def test_what_is_committed_is_read(state: State) -> None:
    """A document comes back as it was, with the revision of its commit; what is not there is None."""
    revision = state.commit(Change("routes/signs", {"weight": 1, "unicode": "Schnee ❄"}))
    document = state.get("routes/signs")
    assert document is not None
    assert (document.body, document.revision) == ({"weight": 1, "unicode": "Schnee ❄"}, revision)
    assert state.get("routes/other") is None


def test_list_is_by_prefix_and_sorted(state: State) -> None:
    """Only keys with the prefix, in order; a neighbour that sorts between is not in it."""
    state.commit(*(Change(key, {"key": key}) for key in ("a/2", "a/1", "a0", "b/1", "a/1/x")))
    assert [one.key for one in state.list("a/")] == ["a/1", "a/1/x", "a/2"]
    assert [one.key for one in state.list("")] == ["a/1", "a/1/x", "a/2", "a0", "b/1"]


def test_compare_and_swap(state: State) -> None:
    """A change at the wrong revision is refused and says which; at the right one it is made."""
    first = state.commit(Change("k", {"n": 1}, 0))
    with pytest.raises(Conflict) as refused:
        state.commit(Change("k", {"n": 2}, 0))
    assert (refused.value.key, refused.value.expected, refused.value.found) == ("k", 0, first)
    assert state.commit(Change("k", {"n": 2}, first)) > first


def test_all_or_nothing(state: State) -> None:
    """One refused change takes the others of its commit with it."""
    state.commit(Change("there", {}))
    before = state.version()
    with pytest.raises(Conflict):
        state.commit(Change("new", {"n": 1}), Change("there", {}, 0))
    assert state.get("new") is None
    assert state.version() == before


def test_delete(state: State) -> None:
    """A deleted document is gone, and may be made again as new."""
    state.commit(Change("k", {}))
    state.commit(Change("k", None))
    assert state.get("k") is None
    state.commit(Change("k", {"again": True}, 0))


def test_a_delete_can_expect_a_revision(state: State) -> None:
    """What changed since it was read is not deleted, and what is not there can't be at a revision."""
    first = state.commit(Change("k", {}))
    second = state.commit(Change("k", {"n": 2}, first))
    with pytest.raises(Conflict) as refused:
        state.commit(Change("k", None, first))
    assert refused.value.found == second
    with pytest.raises(Conflict) as refused:
        state.commit(Change("other", {}, second))
    assert (refused.value.key, refused.value.found) == ("other", 0)
    state.commit(Change("k", None, second))
    assert state.list("") == []


def test_one_commit_is_one_revision(state: State) -> None:
    """All documents of a commit get the same revision, which is the store's; the others keep theirs."""
    first = state.commit(Change("a", {}))
    second = state.commit(Change("b", {}), Change("c", {}))
    assert [one.revision for one in state.list("")] == [first, second, second]


def test_what_cannot_be_json_changes_nothing(state: State) -> None:
    """A body that is no JSON is refused before anything is written."""
    before = state.version()
    with pytest.raises(TypeError):
        state.commit(Change("a", {}), Change("b", {"set": {1, 2}}))
    assert (state.get("a"), state.version()) == (None, before)


def test_version_tells_of_every_commit(state: State) -> None:
    """A poller sees that something changed, and sees nothing when nothing did."""
    before = state.version()
    assert state.version() == before
    state.commit(Change("k", {}))
    assert state.version() != before


def test_exactly_one_of_many_wins(state: State) -> None:
    """Eight threads add 25 each to one counter by compare-and-swap: not one is lost."""
    state.commit(Change("counter", {"n": 0}))

    def add() -> None:
        for _ in range(25):
            while True:
                document = state.get("counter")
                assert document is not None
                try:
                    state.commit(Change("counter", {"n": document.body["n"] + 1}, document.revision))
                except Conflict:
                    continue
                break

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    final = state.get("counter")
    assert final is not None
    assert final.body == {"n": 200}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_lasts(implementation: str, tmp_path: Path) -> None:
    """Closed and opened again, everything is there, and revisions go on."""
    first = IMPLEMENTATIONS[implementation](tmp_path)
    revision = first.commit(Change("k", {"n": 1}))
    first.close()
    second = IMPLEMENTATIONS[implementation](tmp_path)
    assert second.get("k") is not None
    assert second.commit(Change("l", {})) > revision
    second.close()

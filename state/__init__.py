"""Live state: what is, as small JSON documents with revisions.

Routes, rollouts, incidents, baselines, the monitor's checkpoint: each document has one writer that owns it, and every
change is a compare-and-swap, so that two who decide at once can't both win. Several changes go in one commit, all or
nothing. A follower polls `version`, which costs microseconds, and reads again when it differs.

The embedded implementation is SQLite (`state.sqlite`); the contract is in `tests/contracts/test_state.py`, and another
store joins by one line there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

MUST_NOT_EXIST = 0


@dataclass(frozen=True, slots=True)
class Document:
    """One document as it was read: `revision` is the store's count of commits at its last change, from 1."""

    key: str
    revision: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a commit.

    `body` None deletes. `expected` is the revision that the document must have: None for whatever is there,
    0 (`MUST_NOT_EXIST`) for nothing there.
    """

    key: str
    body: Mapping[str, Any] | None
    expected: int | None = None


class Conflict(Exception):
    """Somebody else changed the document first: read it again, and decide again."""

    def __init__(self, key: str, expected: int, found: int) -> None:
        super().__init__(f"{key}: at revision {found}, expected {expected}; somebody else changed it first")
        self.key = key
        self.expected = expected
        self.found = found


class State(Protocol):
    """The store of all live state of one home."""

    def get(self, key: str) -> Document | None:
        """Return the document, or None."""
        ...

    def list(self, prefix: str) -> list[Document]:
        """Return all documents whose key begins with `prefix`, sorted by key."""
        ...

    def commit(self, *changes: Change) -> int:
        """Make all changes or none, durably, and return the store's new revision, which each of them now has.

        Raises:
            Conflict: a document is not at the revision that its change expects.
        """
        ...

    def version(self) -> int:
        """Return a number that differs from the last one iff anybody committed since; costs microseconds."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...

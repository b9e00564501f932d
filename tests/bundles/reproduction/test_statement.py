"""Whose verdicts count, and which of them."""

from pathlib import Path
from typing import Any

from bundles import signing
from bundles.home import Home
from bundles.packing import pack
from bundles.reproduction.statement import PREDICATE_TYPE, REHEARSAL_TYPE, attach, last, reproductions
from tests.conftest import write_model


def result(verdict: str, kind: str, time: str) -> dict[str, Any]:
    """Return the least that a verdict is signed with."""
    return {"verdict": verdict, "kind": kind, "time": time, "floor": None, "digest": "left out"}


def test_the_newest_of_whom_we_trust(tmp_path: Path) -> None:
    """Of several the newest; a rehearsal is shown and is never the last; a stranger's word is not heard."""
    home, stranger = Home(tmp_path / "home").make(), Home(tmp_path / "stranger").make()
    packed = pack(home, write_model(tmp_path / "model"), model="signs")
    attach(home, packed.digest, "signs", result("identical", "reproduction", "2026-01-02T00:00:00Z"))
    attach(home, packed.digest, "signs", result("different", "reproduction", "2026-01-01T00:00:00Z"))
    attach(home, packed.digest, "signs", result("equivalent", "rehearsal", "2026-01-03T00:00:00Z"))
    said = {"snowgate": result("data-lost", "reproduction", "2026-01-04T00:00:00Z")}
    forged = signing.sign(packed.digest, "signs", PREDICATE_TYPE, said, stranger.keys().signer())
    home.store().attach(packed.digest, forged)
    found = reproductions(home.store(), packed.digest, home.keys().trusted())
    assert [one["verdict"] for one in found] == ["equivalent", "identical", "different"]
    assert (last(found) or {})["verdict"] == "identical"
    assert last(found[:1]) is None
    assert all("digest" not in one for one in found)


def test_a_rehearsal_is_no_test_result(tmp_path: Path) -> None:
    """A policy that asks for a test or a reproduction can't take it for one: its type is another."""
    home = Home(tmp_path / "home").make()
    packed = pack(home, write_model(tmp_path / "model"), model="signs")
    attach(home, packed.digest, "signs", result("equivalent", "rehearsal", "2026-01-03T00:00:00Z"))
    attach(home, packed.digest, "signs", result("different", "reproduction", "2026-01-03T00:00:00Z"))
    trusted = home.keys().trusted()
    opened = [signing.verify(one, packed.digest, trusted)[1] for one in home.store().attestations(packed.digest)]
    results = {one["predicateType"]: one["predicate"].get("result") for one in opened[1:]}
    assert results == {REHEARSAL_TYPE: "PASSED", PREDICATE_TYPE: "FAILED"}

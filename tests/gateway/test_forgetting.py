"""Forgetting as an operator asks for it: who, why, how much; and never the unit in the clear."""

import json
from pathlib import Path
from time import time_ns
from typing import Any

import pytest

from gateway.forgetting import forget
from gateway.keys import read_unit_key, unit_hash, unit_key_file
from gateway.operations import OperationError
from monitors.log.reader import LogReader
from monitors.log.record import new_id
from tests.gateway.conftest import Story
from tests.monitors.log.logbook import Logbook, record

UNIT = "jürgen@example.org"


@pytest.fixture
def logged(story: Story) -> list[str]:
    """Three predictions of one unit, as the gateway hashes a header that a client sent as UTF-8; their ids."""
    key = read_unit_key(unit_key_file(story.home))
    book = Logbook(story.home.log, "w7")
    arrived = UNIT.encode().decode("latin-1")
    ids = book.write([record(data=b"their face", group=unit_hash(arrived, key)) for _ in range(3)])
    book.close()
    return ids


def audit(story: Story) -> list[dict[str, Any]]:
    """The entries about forgetting."""
    entries = [one.body for one in story.state.list("audit/")]
    return [one for one in entries if one["action"] in ("forget", "forgotten")]


def test_a_unit_is_forgotten(story: Story, logged: list[str]) -> None:
    """Its payloads are gone, other predictions stay; two entries say who and why, and how many, not whose."""
    told = forget(story.home, story.state, unit=UNIT, ids=(), actor="ada", reason="ticket 4711")
    assert (told["records"], told["payloads"], told["tensor_files"]) == (3, 3, 0)
    for one in logged:
        shown = story.operations.prediction(one)
        assert (shown["payload_kept"], shown["payload_state"], shown["inputs"]) == (False, "erased", [])
    assert story.operations.prediction(story.answered)["unit"] == "camera-7"
    assert LogReader(story.home.log).verify().bad == 0
    before, after = audit(story)
    assert (before["action"], after["action"]) == ("forget", "forgotten")
    for entry in (before, after):
        assert (entry["actor"], entry["reason"], entry["details"]["payloads"]) == ("ada", "ticket 4711", 3)
        assert entry["subject"] == told["subject"]
    assert UNIT not in json.dumps([told, before, after], ensure_ascii=False)
    again = forget(story.home, story.state, unit=UNIT, ids=(), actor="ada", reason="once more")
    assert (again["records"], again["payloads"]) == (3, 0)


def test_single_predictions_are_forgotten(story: Story, logged: list[str]) -> None:
    """By their ids, written in either case; the unit's other predictions stay."""
    told = forget(story.home, story.state, unit=None, ids=[logged[0].upper()], actor="ada", reason="wrong picture")
    assert (told["subject"], told["payloads"]) == (f"prediction {logged[0]}", 1)
    assert [story.operations.prediction(one)["payload_kept"] for one in logged] == [False, True, True]


def test_what_was_said_of_them_is_forgotten(story: Story, logged: list[str]) -> None:
    """The labels of a unit's predictions go with its payloads; those of others stay."""
    labels = [{"prediction_id": one, "value": "their diagnosis"} for one in (*logged, story.answered)]
    assert story.operations.label(labels, actor="ada")["accepted"] == 4
    told = forget(story.home, story.state, unit=UNIT, ids=(), actor="ada", reason="ticket 4711")
    assert told["labels"] == 3
    assert [len(story.operations.prediction(one)["labels"]) for one in (*logged, story.answered)] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("unit", "ids", "reason", "words", "status"),
    [
        (UNIT, [], " ", "needs a reason", 422),
        (None, [], "why", "nobody is named", 422),
        (None, ["camera-7"], "why", "UUID of version 7", 422),
        ("somebody", [], "why", "no prediction of this unit", 404),
        (None, [new_id(time_ns())], "why", "none of these predictions", 404),
    ],
)
def test_what_cannot_be_forgotten_is_said(
    story: Story, unit: str | None, ids: list[str], reason: str, words: str, status: int
) -> None:
    """No reason, nobody named, no id, nobody there: said in words, and nothing is in the audit log."""
    unit_key_file(story.home)
    with pytest.raises(OperationError, match=words) as refused:
        forget(story.home, story.state, unit=unit, ids=ids, actor="ada", reason=reason)
    assert refused.value.status == status
    assert audit(story) == []


def test_damage_is_no_success(story: Story, logged: list[str]) -> None:
    """Where the log can't be read nobody can say that a unit is gone: the command fails and names the place."""
    path = story.home.log / "w7" / "0000000001.seg"
    content = bytearray(path.read_bytes())
    content[4_096 + 24] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(OperationError, match=r"can't be read.*damaged frame") as refused:
        forget(story.home, story.state, unit=None, ids=[story.answered, logged[0]], actor="ada", reason="why")
    assert refused.value.status == 500


def test_a_home_without_units(story: Story, tmp_path: Path) -> None:
    """Looking for a unit makes no key: without one no unit was ever hashed here."""
    with pytest.raises(OperationError, match="never logged a unit"):
        forget(story.home, story.state, unit=UNIT, ids=(), actor="ada", reason="why")
    assert not (story.home.path / "keys" / "unit.key").exists()

"""`snowgate incident`, on incidents as the monitor writes them."""

import json
from typing import Any

import pytest

from bundles.home import Home
from monitors.signals import Shift
from monitors.story import opened
from state import Change
from state.sqlite import SqliteState
from tests.gateway.test_cli import run


def with_incident(home: Home) -> dict[str, Any]:
    """Put an incident into the home, made by the monitor's own code."""
    shift = Shift(
        version="2",
        signal="class",
        tier="page",
        detector="categorical",
        onset=1_750_000_000.0,
        time=1_750_000_060.0,
        observed={"0": 0.9, "1": 0.1},
        expected={"0": 0.5, "1": 0.5},
        evidence=12.0,
        limit=9.0,
        rows=300,
        sentence="class 0 has 90 % of the answers, 50 % were expected",
    )
    body = opened("signs", "sha256:" + "0" * 64, "production", [shift])
    state = SqliteState(home.state)
    state.commit(Change(f"incidents/{body['id']}", body))
    state.close()
    return body


def test_an_incident_is_listed_shown_acknowledged_and_decided(capsys: pytest.CaptureFixture[str], home: Home) -> None:
    """The way of an incident through the command line; each step is noted with the one who took it."""
    body = with_incident(home)
    place = ("--home", str(home.path), "-o", "json")
    listed = json.loads(run(capsys, "incident", "list", *place)[1])
    assert [one["id"] for one in listed] == [body["id"]]
    assert {"id", "model", "version", "state", "onset", "signals"} <= listed[0].keys()
    assert {"name", "observed", "expected"} <= listed[0]["signals"][0].keys()
    assert json.loads(run(capsys, "incident", "show", body["id"], *place)[1])["state"] == "open"
    assert json.loads(run(capsys, "incident", "ack", body["id"], *place)[1])["state"] == "acknowledged"
    decide = ("incident", "decide", body["id"], "model-broken", "--reason", "it snows")
    decided = json.loads(run(capsys, *decide, *place)[1])
    assert decided["state"] == "decided"
    assert decided["decision"]["verdict"] == "model-broken"
    assert decided["decision"]["actor"] == decided["history"][-1]["actor"] != "monitor"
    code, _out, err = run(capsys, "incident", "ack", body["id"], *place)
    assert code == 1
    assert "is decided" in err


def test_a_human_reads_what_shifted_and_what_to_type(capsys: pytest.CaptureFixture[str], home: Home) -> None:
    """The table form holds the sentence, and the two questions with their commands."""
    body = with_incident(home)
    code, out, _err = run(capsys, "incident", "show", body["id"], "--home", str(home.path))
    assert code == 0
    assert "class 0 has 90 % of the answers" in out
    assert f"snowgate incident decide {body['id']} world-changed" in out
    assert f"snowgate incident decide {body['id']} model-broken" in out


def test_wrong_words_are_refused(capsys: pytest.CaptureFixture[str], home: Home) -> None:
    """An unknown id, an unknown verdict, and a decision without a reason."""
    body = with_incident(home)
    place = ("--home", str(home.path))
    code, _out, err = run(capsys, "incident", "show", "nothing", *place)
    assert code == 1
    assert "snowgate incident list" in err
    code, _out, err = run(capsys, "incident", "decide", body["id"], "broken", "--reason", "x", *place)
    assert code == 2
    assert "model-broken" in err
    code, _out, err = run(capsys, "incident", "decide", body["id"], "model-broken", *place)
    assert code == 2
    assert "--reason" in err
    code, _out, err = run(capsys, "incident", "decide", body["id"], "model-broken", "--reason", " ", *place)
    assert code == 1
    assert "reason" in err

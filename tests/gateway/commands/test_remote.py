"""`--server`: the same answers through a gateway's control port as from the files of its home."""

import json

import pytest

from tests.conftest import Gateway
from tests.gateway.test_cli import run


def both(capsys: pytest.CaptureFixture[str], gateway: Gateway, *arguments: str) -> tuple[str, str]:
    """Run a command on the home and on the server; return both standard outputs."""
    code, from_home, err = run(capsys, *arguments, "--home", str(gateway.home))
    assert code == 0, err
    code, from_server, err = run(capsys, *arguments, "--server", gateway.control)
    assert code == 0, err
    return from_home, from_server


def test_the_server_says_what_the_files_say(capsys: pytest.CaptureFixture[str], gateway: Gateway) -> None:
    """Bundles, rollouts and incidents are the same by either way, in JSON and for a human."""
    for arguments in (
        ("bundle", "list", "-o", "json"),
        ("bundle", "show", "signs@1", "-o", "json"),
        ("rollout", "get", "signs", "-o", "json"),
        ("rollout", "list", "-o", "json"),
        ("rollout", "get", "signs"),
        ("incident", "list", "-o", "json"),
    ):
        from_home, from_server = both(capsys, gateway, *arguments)
        assert from_home == from_server, arguments


def test_all_models_at_a_glance(capsys: pytest.CaptureFixture[str], gateway: Gateway) -> None:
    """One line a model: the versions with their shares, and how many of their runners are ready, in every form."""
    told, _same = both(capsys, gateway, "rollout", "list")
    words = told.splitlines()[1]
    for part in ("signs", "production", "version 1, 70 %", "version 2, 30 %", "version 1 1/1", "version 2 1/1"):
        assert part in words
    assert both(capsys, gateway, "rollout", "list", "-o", "name")[0] == "signs\n"
    (one,) = json.loads(both(capsys, gateway, "rollout", "list", "-o", "json")[0])
    assert [each["weight"] for each in one["actual"]["variants"]] == [7_000, 3_000]
    assert '- "model": "signs"' in both(capsys, gateway, "rollout", "list", "-o", "yaml")[0]


def test_a_prediction_is_found_by_either_way(capsys: pytest.CaptureFixture[str], gateway: Gateway) -> None:
    """The id of an answer leads to its record and, with --chain, to the bundle, the code and the people."""
    status, _document, headers = gateway.call(values=[1.0, 2.0, 3.0], Snowgate_Unit="someone")
    assert status == 200
    name = headers["Snowgate-Prediction-Id"]
    from_home, from_server = both(capsys, gateway, "prediction", "show", name, "--chain", "-o", "json")
    shown = json.loads(from_home)
    assert shown == json.loads(from_server)
    assert shown["id"] == name
    assert shown["unit"] == "someone"
    assert shown["bundle"] == headers["Snowgate-Bundle"]
    assert shown["inputs"][0]["data"] == [1.0, 2.0, 3.0]
    assert shown["provenance"]["bundle"]["digest"] == shown["bundle"]
    told, _same = both(capsys, gateway, "prediction", "show", name, "--chain")
    assert name in told
    assert "└ bundle" in told


def test_what_the_server_refuses_is_said_in_its_words(capsys: pytest.CaptureFixture[str], gateway: Gateway) -> None:
    """A refusal ends with 1 and the same sentence by either way."""
    for arguments in (
        ("bundle", "show", "signs@99"),
        ("incident", "show", "nothing"),
        ("rollout", "get", "nothing"),
        ("deploy", "signs@99"),
    ):
        code, out, from_home = run(capsys, *arguments, "--home", str(gateway.home))
        assert (code, out) == (1, "")
        code, out, from_server = run(capsys, *arguments, "--server", gateway.control)
        assert (code, out) == (1, "")
        assert from_home == from_server


def test_no_server_there(capsys: pytest.CaptureFixture[str], gateway: Gateway) -> None:
    """Nobody at the address, and the data port in place of the control port, are said with what to type."""
    for url in ("http://127.0.0.1:1", gateway.url):
        code, out, err = run(capsys, "bundle", "list", "--server", url)
        assert (code, out) == (1, "")
        assert url in err
        assert "control port" in err

"""`snowgate deploy` and `snowgate rollout`, on a home that nobody serves."""

import json
from pathlib import Path

import pytest

from bundles.home import Home
from bundles.packing import Packed, pack
from tests.conftest import write_model
from tests.gateway.test_cli import run


def test_deploy_says_what_is_desired(capsys: pytest.CaptureFixture[str], home: Home, packed: Packed) -> None:
    """Without a gateway, a deployment is noted and takes effect when one starts."""
    code, out, err = run(capsys, "deploy", "signs@1", "--to", "production", "--home", str(home.path), "-o", "json")
    assert code == 0, err
    deployed = json.loads(out)
    assert deployed["desired"]["version"] == "1"
    assert deployed["desired"]["digest"] == packed.digest
    _code, out, _err = run(capsys, "rollout", "get", "signs", "--home", str(home.path), "-o", "json")
    assert json.loads(out)["desired"]["version"] == "1"


def test_waiting_for_nobody_times_out(capsys: pytest.CaptureFixture[str], home: Home, packed: Packed) -> None:
    """`--wait` without a gateway ends with 4, and says that none serves the home."""
    arguments = ("--home", str(home.path), "--timeout", "0.2")
    code, _out, err = run(capsys, "deploy", "signs@1", "--wait", *arguments)
    assert code == 4
    assert "is a gateway serving this home?" in err
    assert run(capsys, "rollout", "status", "signs", *arguments)[0] == 4


def test_deploy_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str], home: Home, packed: Packed) -> None:
    """An unknown version ends with 1, a share that is none with 2."""
    code, _out, err = run(capsys, "deploy", "signs@9", "--home", str(home.path))
    assert code == 1
    assert "signs@9" in err
    code, _out, err = run(capsys, "deploy", "signs@1", "--canary", "100", "--home", str(home.path))
    assert code == 2
    assert "1<=x<=99" in err


def test_a_canary_is_promoted_or_aborted(capsys: pytest.CaptureFixture[str], home: Home, tmp_path: Path) -> None:
    """Promotion and abortion change what is desired; a bundle that was aborted needs --again and a reason."""
    pack(home, write_model(tmp_path / "one"), model="signs")
    pack(home, write_model(tmp_path / "two", sign=2.0), model="signs")
    place = ("--home", str(home.path))
    assert run(capsys, "deploy", "signs@1", *place)[0] == 0
    code, _out, err = run(capsys, "rollout", "promote", "signs", *place)
    assert code == 1
    assert "no canary" in err
    assert run(capsys, "deploy", "signs@2", "--canary", "10", *place)[0] == 0
    code, _out, err = run(capsys, "rollout", "abort", "signs", *place)
    assert code == 2
    assert "--reason" in err
    assert run(capsys, "rollout", "abort", "signs", "--reason", "worse", *place)[0] == 0
    code, _out, err = run(capsys, "deploy", "signs@2", *place)
    assert code == 1
    assert "worse" in err
    assert "--again" in err
    code, _out, err = run(capsys, "deploy", "signs@2", "--again", *place)
    assert code == 1
    assert "--reason" in err
    assert run(capsys, "deploy", "signs@2", "--again", "--reason", "mended", "--canary", "5", *place)[0] == 0
    assert run(capsys, "rollout", "promote", "signs", *place)[0] == 0
    _code, out, _err = run(capsys, "rollout", "get", "signs", *place, "-o", "json")
    assert json.loads(out)["desired"] | {"version": "2", "canary": None} == json.loads(out)["desired"]


def test_withdraw(capsys: pytest.CaptureFixture[str], home: Home, packed: Packed) -> None:
    """What was deployed is desired no more; a second time, and for what never was, there is nothing to withdraw."""
    place = ("--home", str(home.path))
    assert run(capsys, "deploy", "signs@1", *place)[0] == 0
    code, out, err = run(capsys, "withdraw", "signs", "--from", "production", *place, "-o", "json")
    assert code == 0, err
    assert json.loads(out)["desired"] is None
    for model in ("signs", "nope"):
        code, _out, err = run(capsys, "withdraw", model, *place)
        assert code == 1
        assert f"{model} is not deployed in production" in err
    history = home.refs().history("refs/environments/production/signs")
    assert [one.digest for one in history] == [None, packed.digest]

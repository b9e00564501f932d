"""`snowgate bundle reproduce` and `train --floor-seeds`: what is printed, and how they end."""

import json
import sys
from pathlib import Path

import pytest

from bundles.home import Home
from bundles.packing import Packed
from tests.bundles.reproduction.trained import write_project
from tests.gateway.test_cli import run

KEYS = {
    *("agreement", "by", "cause", "changed", "digest", "environment", "floor", "floor_agreements", "interval", "kind"),
    *("lost", "margin", "max_difference", "metrics", "model", "model_digest", "reason", "reproduced_digest", "rows"),
    *("seconds", "time", "verdict", "version"),
}


def test_from_training_to_a_verdict(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train --floor-seeds` keeps a floor in the bundle; a verdict that does not pass ends with 1, and has all keys."""
    monkeypatch.chdir(write_project(tmp_path / "project"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    place = ("--home", str(tmp_path / "home"), "-o", "json")
    command = ("--", sys.executable, "train.py", "--seed", "1")
    code, out, err = run(
        capsys, "train", *place, "--model", "clouds", "--floor-seeds", "2", "--data-in-bundle", "0", *command
    )
    assert code == 0, err
    assert "in the lock without a hash" in err
    digest = json.loads(out)["digest"]
    shown = json.loads(run(capsys, "bundle", "show", digest, *place)[1])
    assert "eval/floor.json" in [one["path"] for one in shown["files"]]
    assert shown["reproductions"] == []
    assert [one["reproduced"] for one in json.loads(run(capsys, "bundle", "list", *place)[1])] == [None]
    Path("data", "train.npz").unlink()
    code, out, err = run(capsys, "bundle", "reproduce", "clouds@1", *place)
    result = json.loads(out)
    assert (code, result["verdict"], result["digest"]) == (1, "data-lost", digest)
    assert result.keys() == KEYS
    assert "lost: data/train.npz" in err
    shown = json.loads(run(capsys, "bundle", "show", digest, *place)[1])
    assert [one["verdict"] for one in shown["reproductions"]] == ["data-lost"]
    assert [one["reproduced"] for one in json.loads(run(capsys, "bundle", "list", *place)[1])] == ["data-lost"]
    code, out, _err = run(capsys, "bundle", "reproduce", "clouds@1", *place[:2])
    assert "--data-from" in out


def test_what_is_typed_wrong_is_said(capsys: pytest.CaptureFixture[str], home: Home, packed: Packed) -> None:
    """Options without a value, files that are not there, and a bundle that no run has made."""
    place = ("--home", str(home.path))
    for wrong, words in (
        (("--data", "train.npz"), "expected NAME=PATH"),
        (("--data", "train.npz=nowhere"), "no such file"),
        (("--parameter", "width"), "expected NAME=VALUE"),
    ):
        code, _out, err = run(capsys, "bundle", "reproduce", "signs@1", *place, *wrong)
        assert code == 2
        assert words in err
    code, _out, err = run(capsys, "bundle", "reproduce", "signs@1", *place)
    assert code == 1
    assert "no training run was recorded" in err

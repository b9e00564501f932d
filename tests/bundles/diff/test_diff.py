"""Two bundles compared: what was changed is told, part by part, and nothing else is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles.diff import compare
from bundles.home import Home
from bundles.packing import pack
from bundles.recording import record
from gateway.diff_page import page
from tests.conftest import snowgate, write_model

TRAIN = """
import os, pathlib, shutil
out = pathlib.Path(os.environ["SNOWGATE_OUTPUT"])
out.mkdir(exist_ok=True)
rows = open("rows.csv").read().splitlines()
for name in ("model.py", "bundle.toml", "holdout.npz"):
    shutil.copy(pathlib.Path("model_source") / name, out / name)
(out / "metrics.json").write_text('{"accuracy": %s, "night/accuracy": 0.5}' % (len(rows) / 10))
"""


def train(home: Home, folder: Path, *arguments: str, sign: float = 1.0, rows: int = 8) -> str:
    """Train a version in a folder, as a user does, and return its version."""
    write_model(folder / "model_source", sign=sign)
    (folder / "rows.csv").write_text("".join(f"{one},{one}\n" for one in range(rows)))
    (folder / "train.py").write_text(TRAIN)
    record([sys.executable, "train.py", *arguments], output=folder / "out", say=lambda _text: None)
    return pack(home, folder / "out", model="signs").version


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with signs@1, signs@2 that differs in everything, and signs@3, which is signs@1 again."""
    folder = tmp_path_factory.mktemp("diff")
    home = Home(folder / "home").make()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("one", "two", "three"):
            (folder / name).mkdir()
            patch.chdir(folder / name)
            if name == "two":
                (folder / name / "more.py").write_text("'<script>alert(1)</script>'\n")
                train(home, folder / name, "--rate", "0.2", sign=-1.0, rows=9)
            else:
                train(home, folder / name, "--rate", "0.1")
    return home


@pytest.fixture(scope="module")
def found(home: Home) -> dict[str, Any]:
    """What differs between signs@1 and signs@2."""
    return compare(home, "signs@1", "signs@2")


def test_code_is_told_as_git_would(found: dict[str, Any]) -> None:
    """A new file and a changed one, as unified diffs of the trees that ran; what is the same is counted only."""
    files = {one["path"]: one for one in found["code"]["files"]}
    assert found["code"]["compared"] == "source"
    assert files["more.py"]["change"] == "added"
    assert "+'<script>alert(1)</script>'" in files["more.py"]["diff"]
    assert "-parameters = { sign = 1.0 }\n+parameters = { sign = -1.0 }" in files["model_source/bundle.toml"]["diff"]
    assert "train.py" not in files


def test_data_is_told_by_file_and_row(found: dict[str, Any]) -> None:
    """The file that has one more row, with both digests."""
    (rows,) = [one for one in found["data"]["files"] if one["name"] == "rows.csv"]
    assert rows["change"] == "changed"
    assert rows["before"]["sha256"] != rows["after"]["sha256"]
    assert rows["rows"] == {"before": 8, "after": 9, "added": 1, "removed": 0}


def test_parameters_and_metrics_are_told(found: dict[str, Any]) -> None:
    """The option that was given another value, and each metric with its difference, by slice as well."""
    assert {"name": "rate", "change": "changed", "before": "0.1", "after": "0.2"} in found["parameters"]["parameters"]
    (accuracy,) = found["metrics"]["overall"]
    assert (accuracy["before"], accuracy["after"]) == (0.8, 0.9)
    assert accuracy["difference"] == pytest.approx(0.1)
    (night,) = found["metrics"]["slices"]
    assert (night["slice"], night["change"]) == ("night", "unchanged")
    assert found["packages"]["training"]["changes"] == []


def test_predictions_are_told_by_class(found: dict[str, Any]) -> None:
    """The second model says the opposite: no row agrees, each flip has its from and to, each row its index."""
    predictions = found["predictions"]
    assert (predictions["compared"], predictions["agreement"], predictions["flips"]) == (True, 0.0, 1000)
    assert {(one["from"], one["to"]) for one in predictions["from_to"]} == {("0", "1"), ("1", "0")}
    assert sum(one["rows"] for one in predictions["from_to"]) == 1000
    rows = np.random.default_rng(3).normal(size=(1000, 3)).astype(np.float32)
    assert predictions["largest"][0]["row"] == int(np.abs(rows.sum(axis=1)).argmax())


def test_what_is_the_same_is_said_to_be(home: Home) -> None:
    """A version that was trained again in the same way: nothing differs, and all rows agree."""
    found = compare(home, "signs@1", "signs@3")
    assert [found["code"]["files"], found["data"]["files"], found["parameters"]["parameters"]] == [[], [], []]
    assert (found["predictions"]["agreement"], found["predictions"]["max_difference"]) == (1.0, 0.0)


def test_who_is_not_trusted_is_not_run(home: Home, tmp_path: Path) -> None:
    """In a home that does not trust the signer the predictions are left out, with the reason; the rest is compared."""
    home.keys()  # The bundles are signed with its key.
    stranger = Home(tmp_path / "stranger").make()
    for version in ("1", "2"):
        snowgate_here = [sys.executable, "-m", "gateway.cli", "bundle"]
        file = tmp_path / f"{version}.tar"
        subprocess.run([*snowgate_here, "export", "--home", str(home.path), f"signs@{version}", str(file)], check=True)
        subprocess.run([*snowgate_here, "import", "--home", str(stranger.path), str(file)], check=True)
    found = compare(stranger, "signs@1", "signs@2")
    assert not found["predictions"]["compared"]
    assert "snowgate bundle trust" in found["predictions"]["reason"]
    assert found["code"]["files"]


def test_the_page_escapes_what_bundles_say(found: dict[str, Any]) -> None:
    """Code that looks like a script is shown, not run; and the page asks for nothing from anywhere."""
    text = page(found)
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    assert "http://" not in text
    assert "src=" not in text


def test_the_command_has_what_scripts_ask(home: Home, tmp_path: Path) -> None:
    """`-o json` has the six parts, and the page is written beside it."""
    told = snowgate(home.path, "bundle", "diff", "signs@1", "signs@2", "--html", str(tmp_path / "d.html"))
    assert {"code", "data", "parameters", "packages", "metrics", "predictions"} <= told.keys()
    assert (tmp_path / "d.html").read_text().startswith("<!doctype html>")
    without = snowgate(home.path, "bundle", "diff", "signs@1", "signs@2", "--no-predictions")
    assert json.dumps(without["predictions"]) == '{"compared": false, "reason": "not asked for"}'

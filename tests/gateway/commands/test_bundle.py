"""`snowgate bundle` and `snowgate train`, on real files of a real home."""

import json
import sys
from pathlib import Path

import pytest

from bundles.home import Home
from bundles.packing import Packed
from tests.conftest import write_model
from tests.gateway.test_cli import run

TRAINING = """
import os, pathlib, shutil, sys
for file in pathlib.Path(sys.argv[1]).iterdir():
    shutil.copy(file, os.environ["SNOWGATE_OUTPUT"])
"""


def asked(capsys: pytest.CaptureFixture[str], home: Home, *arguments: str) -> object:
    """Run a command on a home with -o json and return what it printed."""
    code, out, err = run(capsys, *arguments, "--home", str(home.path), "-o", "json")
    assert code == 0, err
    return json.loads(out)


def test_pack_prints_what_scripts_need(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Packing into a home that is not there makes it, and prints digest, model and version, nothing else."""
    home = Home(tmp_path / "home")
    folder = write_model(tmp_path / "model")
    first = asked(capsys, home, "bundle", "pack", str(folder), "--model", "signs")
    assert isinstance(first, dict)
    assert first.keys() == {"digest", "model", "version"}
    assert (first["model"], first["version"]) == ("signs", "1")
    write_model(folder, sign=2.0)
    second = asked(capsys, home, "bundle", "pack", str(folder), "--model", "signs")
    assert isinstance(second, dict)
    assert second["version"] == "2"
    assert second["digest"] != first["digest"]


def test_list_has_its_six_keys(capsys: pytest.CaptureFixture[str], home: Home, packed: Packed) -> None:
    """The list says of each bundle digest, model, version, refs, created, and what came of reproducing it."""
    listed = asked(capsys, home, "bundle", "list")
    assert isinstance(listed, list)
    assert [one.keys() for one in listed] == [{"digest", "model", "version", "refs", "created", "reproduced"}]
    assert listed[0]["digest"] == packed.digest
    code, out, _err = run(capsys, "bundle", "list", "--home", str(home.path))
    assert code == 0
    assert out.startswith("MODEL")
    assert "signs" in out


def test_show_tells_a_human_and_a_script(capsys: pytest.CaptureFixture[str], home: Home, packed: Packed) -> None:
    """A reference by version and one by digest lead to the same bundle, in words and in JSON."""
    shown = asked(capsys, home, "bundle", "show", "signs@1")
    assert isinstance(shown, dict)
    assert shown["digest"] == packed.digest
    assert asked(capsys, home, "bundle", "show", packed.digest) == shown
    _code, out, _err = run(capsys, "bundle", "show", "signs@1", "--home", str(home.path))
    assert packed.digest in out
    assert "input x: FP32 [-1, 3]\n" in out


def test_an_unknown_reference_is_refused(capsys: pytest.CaptureFixture[str], home: Home, packed: Packed) -> None:
    """An unknown version, and words that are no reference, end with 1 and a sentence."""
    for reference in ("signs@9", "nonsense"):
        code, out, err = run(capsys, "bundle", "show", reference, "--home", str(home.path))
        assert (code, out) == (1, "")
        assert reference in err


def test_verify_names_the_altered_file(capsys: pytest.CaptureFixture[str], home: Home, packed: Packed) -> None:
    """An intact bundle verifies; with one flipped byte, verification ends with 1 and names the path in the store."""
    verified = asked(capsys, home, "bundle", "verify", "signs@1")
    assert isinstance(verified, dict)
    assert verified["intact"] is True
    blobs = [
        path
        for path in (home.path / "bundles").rglob("*")
        if path.is_file() and b"larger than 1000" in path.read_bytes()
    ]
    blob = next(path for path in blobs if path.read_bytes().lstrip().startswith(b"import numpy"))
    content = bytearray(blob.read_bytes())
    content[10] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    code, _out, err = run(capsys, "bundle", "verify", "signs@1", "--home", str(home.path))
    assert code == 1
    assert "model.py" in err


def test_trust_wants_a_public_key(capsys: pytest.CaptureFixture[str], home: Home, tmp_path: Path) -> None:
    """A file that is no public key is refused by name."""
    file = tmp_path / "key.pub"
    file.write_text("not a key")
    code, _out, err = run(capsys, "bundle", "trust", str(file), "--home", str(home.path))
    assert code == 1
    assert "key.pub" in err


def test_pack_says_what_is_missing(capsys: pytest.CaptureFixture[str], home: Home, tmp_path: Path) -> None:
    """A folder without a bundle.toml, and a misspelt key in one, are named."""
    code, _out, err = run(capsys, "bundle", "pack", str(tmp_path), "--home", str(home.path))
    assert code == 1
    assert "bundle.toml" in err
    folder = write_model(tmp_path / "model")
    recipe = folder / "bundle.toml"
    recipe.write_text(recipe.read_text().replace("holdout =", "holduot ="))
    code, _out, err = run(capsys, "bundle", "pack", str(folder), "--home", str(home.path))
    assert code == 1
    assert "holdout" in err


def test_train_records_and_packs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that ran stands in the bundle that it made; a command that fails packs nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAINING)
    source = write_model(tmp_path / "source")
    place = ("--home", "home", "-o", "json")
    code, out, err = run(capsys, "train", *place, "--model", "signs", "--", sys.executable, "train.py", str(source))
    assert code == 0, err
    digest = json.loads(out)["digest"]
    shown = json.loads(run(capsys, "bundle", "show", digest, *place)[1])
    assert shown["command"][1:] == ["train.py", str(source)]
    code, out, err = run(capsys, "train", *place, "--model", "signs", "--", sys.executable, "-c", "raise SystemExit(7)")
    assert (code, out) == (1, "")
    assert "7" in err
    assert len(json.loads(run(capsys, "bundle", "list", *place)[1])) == 1


def test_gc_says_what_is_free_again(capsys: pytest.CaptureFixture[str], home: Home, packed: Packed) -> None:
    """What a killed gateway unpacked is first told and then gone, with its size; the sum is on standard error."""
    left = home.run / "1234-1"
    left.mkdir(parents=True)
    (left / "weights").write_bytes(b"x" * 8_192)
    for arguments, words in ((("--dry-run",), "8,192 bytes would be free again"), ((), "8,192 bytes are free again")):
        assert left.exists()
        code, out, err = run(capsys, "bundle", "gc", *arguments, "--home", str(home.path))
        assert (code, words in err) == (0, True), err
        assert [line.split() for line in out.splitlines()[1:]] == [[str(left), "unpacked", "8,192"]]
    assert not left.exists()
    assert "0 bytes" in run(capsys, "bundle", "gc", "--home", str(home.path))[2]

"""Wheels, found by real pip in a folder that is all the index there is."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from bundles.wheels import Wheels, entry
from tests.bundles.wheel import wheel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with two wheels, one of them of a local version."""
    made = tmp_path / "wheels"
    made.mkdir()
    wheel(made, "icicle", "1.2")
    wheel(made, "numpy", "0.0.7+cold")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made))
    return made


def test_what_is_found_is_remembered(tmp_path: Path, folder: Path) -> None:
    """Names and digests of the wheels, in one question; one that is not there costs the others nothing; then none."""
    said: list[str] = []
    pins = {"icicle": "1.2", "nowhere": "9", "numpy": "0.0.7+cold"}
    found = Wheels(tmp_path / "known").find(pins, sys.executable, said.append)
    assert set(found) == {"icicle", "numpy"}
    assert found["numpy"]["name"] == "numpy-0.0.7+cold-py3-none-any.whl"
    content = (folder / "icicle-1.2-py3-none-any.whl").read_bytes()
    assert found["icicle"]["hashes"] == {"sha256": sha256(content).hexdigest()}
    assert said == ["looking up the wheels of 3 packages; next time that is known"]
    for path in folder.iterdir():
        path.unlink()
    assert Wheels(tmp_path / "known").find(pins, sys.executable, said.append) == found
    assert len(said) == 1, "it was looked up a second time"
    assert str(tmp_path) not in json.dumps(found)


def test_without_an_index_nothing_is_known_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that does not answer: no hashes, a sentence, and the next run asks again."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # Nobody listens on `discard`.
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    said: list[str] = []
    assert Wheels(tmp_path / "known").find({"icicle": "1.2"}, sys.executable, said.append) == {}
    assert "the lock has no hashes" in said[-1]
    assert Wheels(tmp_path / "known").find({"icicle": "1.2"}, sys.executable, said.append) == {}
    assert said.count(said[0]) == 2, "what could not be asked was taken for an answer"


def test_no_credential_of_an_index_is_kept() -> None:
    """The address of a wheel stands in the lock without user, password and token."""
    source = {"url": "https://me:s3cret@index.example/a/b-1-py3-none-any.whl?token=s3cret#x"}
    installed = {
        "metadata": {"name": "B", "version": "1"},
        "download_info": source | {"archive_info": {"hash": "sha256=ab"}},
    }
    assert entry(installed)["wheels"] == [
        {
            "name": "b-1-py3-none-any.whl",
            "hashes": {"sha256": "ab"},
            "url": "https://index.example/a/b-1-py3-none-any.whl",
        }
    ]

"""Environments of their own, built by real pip in real virtual environments, from wheels that lie in a folder."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from bundles.environments import Environments, find_python, fits_here
from bundles.errors import EnvironmentFailed
from tests.bundles.wheel import wheel


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all the index there is: a numpy that no one would take for the real one, and a tool."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel(folder, "numpy", "0.0.7")
    wheel(folder, "icicle", "1.2")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_what_was_resolved_is_built_again_from_its_lock(tmp_path: Path, wheels: Path) -> None:
    """Packing locks what it installed; elsewhere the same comes of the lock, once, and nothing but the same."""
    asked = tmp_path / "requirements.txt"
    asked.write_text("numpy\nicicle>=1\n")
    here = Environments(tmp_path / "here")
    built = here.resolve(asked, None, lambda _text: None)
    assert [one.name for one in (tmp_path / "here").iterdir() if one.is_dir()] == [built.python.parent.parent.name]
    assert 'version = "0.0.7"' in built.lock
    wheel(wheels, "icicle", "1.3")
    said: list[str] = []
    elsewhere = Environments(tmp_path / "there")
    python = elsewhere.python_for(built.lock, said.append)
    assert said == ["building its environment: 1 of 2 packages", "building its environment: 2 of 2 packages"]
    shown = "import icicle, numpy; from importlib.metadata import version; print(version('icicle'))"
    done = subprocess.run([str(python), "-I", "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1.2"
    assert elsewhere.python_for(built.lock, said.append) == python
    assert len(said) == 2, "it was built a second time"
    ours = elsewhere.python_for(built.lock, said.append, own=True)
    assert ours == python
    wheel(wheels, "icicle", "1.2", "print('another one of that name')")
    with pytest.raises(EnvironmentFailed, match="HASH"):
        Environments(tmp_path / "third").python_for(built.lock, said.append)
    assert [one.name for one in (tmp_path / "third").iterdir() if one.is_dir()] == []


@pytest.mark.parametrize(
    ("requirements", "words"), [("icicle", "has no numpy, which every runner needs"), ("numpy==9.9", "numpy==9.9")]
)
def test_what_can_not_be_built_is_said(tmp_path: Path, wheels: Path, requirements: str, words: str) -> None:
    """The sentence names what is missing, and nothing half-built is left."""
    asked = tmp_path / "requirements.txt"
    asked.write_text(requirements)
    with pytest.raises(EnvironmentFailed, match=words):
        Environments(tmp_path / "here").resolve(asked, None, lambda _text: None)
    assert list((tmp_path / "here").iterdir()) == []


def test_our_own_environment_serves_where_it_fits(tmp_path: Path) -> None:
    """All packages of a lock are here in the same versions: nothing is built. It is not so when one differs."""
    ours = ".".join(map(str, sys.version_info[:3]))
    here = {"name": "numpy", "version": version("numpy")}
    assert fits_here(ours, [here])
    assert not fits_here(ours, [here, {"name": "numpy", "version": "0.0.7"}])
    assert not fits_here(ours, [here, {"name": "icicle", "version": "1.2"}])
    assert not fits_here("3.99.1", [here])
    lock = f'requires-python = "=={ours}"\n[[packages]]\nname = "numpy"\nversion = "{here["version"]}"\n'
    assert Environments(tmp_path / "none").python_for(lock, lambda _text: None) == Path(sys.executable)
    assert not (tmp_path / "none").exists()


def test_an_interpreter_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    """What was looked for, and what to type; a version that is too old for the runner is refused before."""
    assert find_python(".".join(map(str, sys.version_info[:2])))[0]
    with pytest.raises(EnvironmentFailed, match=r"no Python 3\.99 on this machine.*apt install python3\.99"):
        find_python("3.99")
    with pytest.raises(EnvironmentFailed, match=r"python 3\.8: expected 3\.10 or newer"):
        Environments(tmp_path / "here").resolve(tmp_path / "requirements.txt", "3.8", lambda _text: None)


def test_a_gateway_that_ends_does_not_wait_for_packages(tmp_path: Path, wheels: Path) -> None:
    """After `stop` nothing is installed any more: who waits for it hears so."""
    asked = tmp_path / "requirements.txt"
    asked.write_text("numpy\n")
    environments = Environments(tmp_path / "here")
    environments.stop()
    with pytest.raises(EnvironmentFailed, match="can't be built"):
        environments.resolve(asked, None, lambda _text: None)

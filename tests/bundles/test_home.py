import shutil
import subprocess
from pathlib import Path

import pytest

from bundles.errors import HomeError
from bundles.home import Home


def test_a_home_is_made_where_there_is_none(tmp_path: Path) -> None:
    """Folders above it too; making it again changes nothing."""
    home = Home(tmp_path / "a" / "b").make()
    (home.path / "kept").write_text("")
    assert home.make().path.is_dir()
    assert (home.path / "kept").exists()


def test_one_gateway_serves_a_home(tmp_path: Path) -> None:
    """The second is told who does, and what to do; when the first is gone, the next may."""
    home = Home(tmp_path)
    first = home.lock()
    with pytest.raises(HomeError, match=r"already served by pid \d+"):
        home.lock()
    first.close()
    home.lock().close()


@pytest.mark.parametrize("path", ["file", "file/home"])
def test_a_place_that_cannot_be_a_home(tmp_path: Path, path: str) -> None:
    """One clear sentence with the path and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match=f"home {tmp_path / path}: can't be made or written.*--home"):
        Home(tmp_path / path).lock()


@pytest.mark.skipif(shutil.which("git") is None, reason="it is git that must not see it")
def test_git_does_not_take_a_home_along(tmp_path: Path) -> None:
    """A home in a project's folder holds a private key: `git add --all` must pass it by."""
    home = Home(tmp_path / "my-home").make()
    home.keys().signer()
    for arguments in (("init", "--quiet"), ("add", "--all")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    done = subprocess.run(["git", "ls-files"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == ""

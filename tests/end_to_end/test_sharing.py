"""Two people, two homes, one folder for bundles and one git repository for names: by the commands that they type."""

import subprocess
from pathlib import Path

import pytest

from bundles.home import Home
from tests.bundles.portable import store_bundle
from tests.conftest import snowgate


def git(home: Home, *arguments: str, status: int = 0) -> str:
    """Run git on a home's names."""
    command = ["git", "-C", str(home.path / "refs.git"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode != 0) == bool(status), done.stderr
    return done.stderr if status else done.stdout


@pytest.fixture
def ana(tmp_path: Path) -> Home:
    """A home with signs@1, which production shall serve, and which is work's head."""
    home = Home(tmp_path / "ana")
    digest = store_bundle(home)
    refs = home.refs()
    refs.claim_version("signs", digest, actor="ana", details={"created": "2026-11-01T10:00:00Z"})
    for name in ("refs/heads/signs/main", "refs/environments/production/signs"):
        refs.set(name, digest, expected=None, actor="ana", reason="first")
    return home


def test_names_travel_by_git_and_bundles_beside(ana: Home, tmp_path: Path) -> None:
    """Names come by fetch, the bundle by its digest, and keeps the version that git brought; no weights are in git."""
    subprocess.run(["git", "init", "--bare", "-q", str(tmp_path / "names.git")], check=True)
    git(ana, "push", "-q", str(tmp_path / "names.git"), "refs/*:refs/*")
    pushed = snowgate(ana.path, "bundle", "push", "signs@1", f"file://{tmp_path}/shared:1")
    ben = Home(tmp_path / "ben").make()
    ben.refs()
    git(ben, "fetch", "-q", str(tmp_path / "names.git"), "refs/*:refs/*")
    assert ben.refs().resolve("signs@production")[0] == pushed["digest"]
    assert "not in this home" in snowgate(ben.path, "bundle", "verify", "signs@production", status=1)
    pulled = snowgate(ben.path, "bundle", "pull", f"file://{tmp_path}/shared@{pushed['digest']}")
    assert (pulled["version"], pulled["trusted"], pulled["files_moved"]) == ("1", False, 6)
    ben.store().verify(pushed["digest"])
    listed = git(ben, "rev-list", "--objects", "--all")
    assert {line.partition(" ")[2] for line in listed.splitlines()} == {"", "bundle.json"}


def test_whoever_moves_a_name_first_wins_by_git_too(ana: Home, tmp_path: Path) -> None:
    """Two homes move one name; the second push is refused, and so is a fetch that would lose what was not pushed."""
    subprocess.run(["git", "init", "--bare", "-q", str(tmp_path / "names.git")], check=True)
    name, names = "refs/heads/signs/main", str(tmp_path / "names.git")
    git(ana, "push", "-q", names, name)
    ben = Home(tmp_path / "ben").make()
    ben.refs()
    git(ben, "fetch", "-q", names, f"{name}:{name}")
    for home, digest in ((ana, "1"), (ben, "2")):
        current = home.refs().get(name)
        assert current is not None
        home.refs().set(name, f"sha256:{digest * 64}", expected=current.commit, actor="x", reason="moved")
    git(ana, "push", "-q", names, name)
    assert "rejected" in git(ben, "push", names, name, status=1)
    assert "rejected" in git(ben, "fetch", names, f"{name}:{name}", status=1)
    found = ben.refs().get(name)
    assert found is not None
    assert found.digest == f"sha256:{'2' * 64}"


def test_one_file_from_a_home_to_another(ana: Home, tmp_path: Path) -> None:
    """Export and import as they are typed: it is not trusted there, and what fails leaves no file."""
    exported = snowgate(ana.path, "bundle", "export", "signs@1", str(tmp_path / "signs.tar"))
    imported = snowgate(tmp_path / "ben", "bundle", "import", str(tmp_path / "signs.tar"))
    assert (imported["digest"], imported["version"], imported["trusted"]) == (exported["digest"], "1", False)
    (tmp_path / "cut.tar").write_bytes((tmp_path / "signs.tar").read_bytes()[:3000])
    assert "is cut off" in snowgate(tmp_path / "eve", "bundle", "import", str(tmp_path / "cut.tar"), status=1)
    weights = ana.store().manifest(exported["digest"]).layers[0].digest.removeprefix("sha256:")
    (ana.path / "bundles" / "blobs" / "sha256" / weights).write_bytes(b"WEIGHTS")
    before = sorted(tmp_path.iterdir())
    assert "altered" in snowgate(ana.path, "bundle", "export", "signs@1", str(tmp_path / "bad.tar"), status=1)
    assert sorted(tmp_path.iterdir()) == before

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bundles import source
from bundles.errors import RecordingError
from bundles.source import capture


def git(folder: Path, *arguments: str) -> str:
    """Run git."""
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with one commit of one program."""
    folder = tmp_path / "work"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "train.py").write_text("print(1)\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "begin")
    return folder


def look(folder: Path, *leave_out: Path) -> tuple[dict[str, Any], list[str]]:
    """Capture a folder's code; return the facts and the names in the archive."""
    archive = folder.parent / "source.tar"
    facts = capture(folder, archive, leave_out)
    with tarfile.open(archive) as tar:
        return facts, tar.getnames()


def test_a_clean_tree_is_its_commit(repository: Path) -> None:
    """Nothing changed: the tree is the commit's own, and the archive has its files."""
    facts, names = look(repository)
    assert facts["tree"] == git(repository, "rev-parse", "HEAD^{tree}")
    assert facts["commit"] == git(repository, "rev-parse", "HEAD")
    assert (facts["dirty"], facts["branch"], facts["remote"]) == (False, "main", None)
    assert names == ["train.py"]


def test_a_dirty_tree_is_what_is_on_disk(repository: Path) -> None:
    """Changed, staged, deleted and untracked files are in it as they are; the user's index is left as it was."""
    (repository / "old.py").write_text("")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "more")
    (repository / "train.py").write_text("print(2)\n")
    (repository / "new.py").write_text("")
    (repository / "old.py").unlink()
    before = git(repository, "status", "--porcelain"), git(repository, "count-objects")
    facts, names = look(repository)
    assert facts["dirty"] is True
    assert names == ["new.py", "train.py"]
    assert (git(repository, "status", "--porcelain"), git(repository, "count-objects")) == before
    git(repository, "add", "--all")
    assert facts["tree"] == git(repository, "write-tree"), "it is the tree that git itself would write"


def test_the_archive_has_what_ran(repository: Path) -> None:
    """Content, mode and links; the same tree gives the same bytes, whatever the times of the files."""
    (repository / "run.sh").write_text("#!/bin/sh\n")
    (repository / "run.sh").chmod(0o755)
    (repository / "link.py").symlink_to("train.py")
    first, _names = look(repository)
    (repository / "train.py").touch()
    second, _names = look(repository)
    assert first == second
    with tarfile.open(fileobj=io.BytesIO((repository.parent / "source.tar").read_bytes())) as tar:
        members = {one.name: one for one in tar}
        program = tar.extractfile("train.py")
        assert program is not None
        assert program.read() == b"print(1)\n"
    assert members["run.sh"].mode & 0o100
    assert members["link.py"].linkname == "train.py"
    assert all((one.mtime, one.uid, one.uname) == (0, 0, "") for one in members.values())


def test_what_is_no_code_is_left_out(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output, declared data, ignored files, homes, environments, other repositories; large files are named."""
    monkeypatch.setattr(source, "FILE_BYTES_MAX", 1_000)
    for name in (
        ".gitignore",
        ".env",
        "model/w.bin",
        "data.csv",
        "big.bin",
        ".snowgate/keys/home.pem",
        "env/pyvenv.cfg",
    ):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(
            "ignored.txt\n" if name == ".gitignore" else "x" * (2_000 if "big" in name else 9)
        )
    (repository / "env" / "lib.py").write_text("")
    (repository / "ignored.txt").write_text("")
    git(repository, "init", "--quiet", "inner")
    facts, names = look(repository, repository / "model", repository / "data.csv")
    assert names == [".gitignore", "train.py"]
    assert facts["left_out"] == [
        {"name": ".env", "size": 9, "why": "secret by its name"},
        {"name": "big.bin", "size": 2_000, "why": "large"},
    ]


def test_tracked_files_count_whatever_gitignore_says(repository: Path) -> None:
    """A file that was added by force is part of the commit, so a clean tree stays clean."""
    (repository / ".gitignore").write_text("*.cfg\nmodel\n")
    (repository / "model").mkdir()
    (repository / "model" / "made.bin").write_text("1")
    (repository / "train.cfg").write_text("a")
    git(repository, "add", "--force", "--all")
    git(repository, "commit", "--quiet", "--message", "more")
    (repository / "model" / "made.bin").write_text("2")
    facts, names = look(repository, repository / "model")
    assert facts["dirty"] is False, "only what an earlier run made has changed"
    assert "train.cfg" in names


@pytest.mark.parametrize("tracked", [True, False])
def test_a_token_in_what_is_not_committed_is_refused(repository: Path, tracked: bool) -> None:
    """It would leave this machine in a bundle; the file is named, the token is not printed."""
    token = "ghp_" + "a1B2" * 9
    (repository / ("train.py" if tracked else "new.py")).write_text(f"TOKEN = '{token}'\n")
    with pytest.raises(RecordingError, match=r"(train|new)\.py: looks as if a GitHub token were in it") as caught:
        look(repository)
    assert token not in str(caught.value)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "it was published")
    assert look(repository)[0]["dirty"] is False


def test_many_files_are_taken(repository: Path) -> None:
    """Two thousand untracked files in a hundred folders are one tree, and all of them are in the archive."""
    for folder in range(100):
        (repository / f"part{folder}").mkdir()
        for number in range(20):
            (repository / f"part{folder}" / f"{number}.py").write_text(f"x = {folder * number}\n")
    facts, names = look(repository)
    assert len(names) == 2_001
    git(repository, "add", "--all")
    assert facts["tree"] == git(repository, "write-tree")


def test_attributes_do_not_hide_code(repository: Path) -> None:
    """`git archive` would leave out what .gitattributes marks, and rewrite what it substitutes; what ran is whole."""
    (repository / ".gitattributes").write_text("train.py export-ignore\n*.txt export-subst\n")
    (repository / "a.txt").write_text("$Format:%H$\n")
    _facts, names = look(repository)
    assert names == [".gitattributes", "a.txt", "train.py"]


def test_credentials_are_cut_out_of_the_remote(repository: Path) -> None:
    """A token in the remote's URL is not recorded; the form without a scheme has no password to lose."""
    git(repository, "remote", "add", "origin", "https://me:s3cret@git.example:8443/signs.git")
    assert look(repository)[0]["remote"] == "https://git.example:8443/signs.git"
    git(repository, "remote", "set-url", "origin", "git@git.example:signs.git")
    assert look(repository)[0]["remote"] == "git@git.example:signs.git"


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    """Everything is uncommitted, and recorded all the same."""
    folder = tmp_path / "work"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "train.py").write_text("")
    facts, names = look(folder)
    assert (facts["commit"], facts["dirty"], names) == (None, True, ["train.py"])
    assert len(facts["tree"]) == 40


@pytest.mark.parametrize("binary", [True, False])
def test_no_git_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binary: bool) -> None:
    """Without a repository, or without git itself, the sources are archived and no commit is claimed."""
    if not binary:
        monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    folder = tmp_path / "work"
    for name in ("train.py", "lib/net.py", "weights.bin", ".hidden/a.py", "env/pyvenv.cfg", "env/b.py", "model/c.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    facts, names = look(folder, folder / "model")
    assert names == ["train.py", "lib/net.py"]
    assert {facts[key] for key in ("tree", "commit", "branch", "dirty", "remote")} == {None}
    assert facts["archive"].startswith("sha256:")


@pytest.mark.parametrize("tracked", [True, False])
def test_too_much_code_says_what_to_do(repository: Path, monkeypatch: pytest.MonkeyPatch, tracked: bool) -> None:
    """A tree that holds data is refused before it is read into memory."""
    monkeypatch.setattr(source, "SOURCE_BYTES_MAX", 1_000)
    (repository / "data.py").write_text("#" * 2_000)
    if not tracked:
        (repository / ".git").rename(repository.parent / "away")
    with pytest.raises(RecordingError, match=r"data\.py has .* MiB of it; .*\.gitignore, or declare it"):
        look(repository)


def test_output_into_the_project_itself_keeps_the_code(repository: Path) -> None:
    """With `--into .` nothing can tell code from output; then all of it is code."""
    assert look(repository, repository)[1] == ["train.py"]

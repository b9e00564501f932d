"""The code that runs, as it is on disk at this moment: a git tree, and an archive of it.

A commit says what ran only when nothing was changed since. So the working tree itself is written as a git tree, with
uncommitted and untracked files, through an index and an object folder of our own: the user's repository is read, and
left as it is. What git ignores is left out, and so are the run's output, declared data, homes and environments, and
untracked files so large that they are data; each large one is named.

The archive is made from the tree's objects (`git archive` would leave out what `.gitattributes` tells it to) without
times and owners, so that the same tree gives the same bytes.
"""

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from bundles.digest import sha256_bytes
from bundles.errors import RecordingError

HOME = ".snowgate"
SOURCE_BYTES_MAX = 64 * 1024 * 1024
"""The tree of a project is some megabytes of text; beyond this it holds data that belongs elsewhere."""
FILE_BYTES_MAX = 8 * 1024 * 1024
"""An untracked file of this size is data or a checkpoint, not code that somebody wrote."""
PLAIN_SOURCES = frozenset({".py", ".toml", ".cfg", ".txt", ".md", ".sh", ".ipynb", ".yaml", ".yml"})
ENVIRONMENT_MARK = "pyvenv.cfg"


def capture(directory: Path, archive: Path, leave_out: Sequence[Path]) -> dict[str, Any]:
    """Archive the code in and above `directory`, and return what it is.

    The facts: `directory` (the folder's place in what is archived), `tree`, `commit`, `branch`, `dirty` and `remote`
    (None without git), `left_out` (large untracked files, with their sizes), `archive` (its sha256) and `bytes`.

    Raises:
        RecordingError: there is too much of it.
    """
    # A run that writes into the project's own folder leaves no place to tell code from output: then all is code.
    left_out = [path.resolve() for path in leave_out if not directory.resolve().is_relative_to(path.resolve())]
    top = git(directory, "rev-parse", "--show-toplevel")
    if top is None:
        facts: dict[str, Any] = dict.fromkeys(("tree", "commit", "branch", "dirty", "remote"))
        data = _tar(_plain_files(directory, left_out), directory)
        facts |= {"left_out": [], "directory": "."}
    else:
        facts, data = _from_git(Path(top), left_out)
        facts["directory"] = directory.resolve().relative_to(Path(top).resolve()).as_posix()
    archive.write_bytes(data)
    return facts | {"archive": sha256_bytes(data), "bytes": len(data)}


def git(directory: Path, *arguments: str) -> str | None:
    """Ask git something; None when there is no git, no repository or no answer."""
    try:
        done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=False)
    except (FileNotFoundError, PermissionError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def strip_credentials(url: str) -> str:
    """Cut user and password out of a URL.

    >>> strip_credentials("https://me:s3cret@git.example/signs.git")
    'https://git.example/signs.git'
    """
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.scheme else url


def _from_git(top: Path, left_out: Sequence[Path]) -> tuple[dict[str, Any], bytes]:
    commit = git(top, "rev-parse", "--verify", "--quiet", "HEAD")
    committed = None if commit is None else git(top, "rev-parse", f"{commit}^{{tree}}")
    remote = git(top, "config", "remote.origin.url")
    with tempfile.TemporaryDirectory(prefix="snowgate-") as folder:
        objects = git(top, "rev-parse", "--git-path", "objects") or ".git/objects"
        (Path(folder) / "objects").mkdir()
        variables = {
            "GIT_INDEX_FILE": str(Path(folder) / "index"),
            "GIT_OBJECT_DIRECTORY": str(Path(folder) / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((top / objects).resolve()),
        }
        tree, large = _write_tree(top, commit, left_out, variables)
        data = _tar(_tree_files(top, tree, variables), top)
    facts = {
        "tree": tree,
        "commit": commit,
        "branch": git(top, "symbolic-ref", "--quiet", "--short", "HEAD"),
        "dirty": committed != tree,
        "remote": None if remote is None else strip_credentials(remote),
        "left_out": large,
    }
    return facts, data


def _write_tree(
    top: Path, commit: str | None, left_out: Sequence[Path], variables: Mapping[str, str]
) -> tuple[str, list[dict[str, Any]]]:
    """Write the working tree; return its id, and the untracked files that were too large for it."""
    if commit is not None:
        _git_bytes(top, "read-tree", commit, variables=variables)
    # What the run makes is no part of what ran: where it is tracked, it stays as it was committed.
    changed = _names(_git_bytes(top, "diff-files", "--name-only", "-z", variables=variables))
    taken = [name for name in changed if not _is_below(top / name, left_out)]
    large: list[dict[str, Any]] = []
    untracked = _names(_git_bytes(top, "ls-files", "--others", "--exclude-standard", "-z", variables=variables))
    environments = tuple(name.removesuffix(ENVIRONMENT_MARK) for name in untracked if name.endswith(ENVIRONMENT_MARK))
    for name in untracked:
        # A name that ends with a slash is another repository inside of this one.
        foreign = name.endswith("/") or name.startswith(environments) or HOME in name.split("/")
        if foreign or _is_below(top / name, left_out):
            continue
        size = (top / name).lstat().st_size
        if size > FILE_BYTES_MAX:
            large.append({"name": name, "size": size})
        else:
            taken.append(name)
    update = ("update-index", "--add", "--remove", "--replace", "-z", "--stdin")
    _git_bytes(top, *update, given=b"\0".join(map(os.fsencode, taken)), variables=variables)
    return _git_bytes(top, "write-tree", variables=variables).decode().strip(), large


def _tree_files(top: Path, tree: str, variables: Mapping[str, str]) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, git mode and content of every file of a tree, in git's order. Raises RecordingError."""
    listing = _names(_git_bytes(top, "ls-tree", "-r", "-z", "--long", tree, variables=variables))
    entries = [(name, *fields.split()) for fields, _tab, name in (line.partition("\t") for line in listing)]
    blobs = [(name, int(mode, 8), blob, int(size)) for name, mode, kind, blob, size in entries if kind == "blob"]
    _check_bytes(top, sum(size for _name, _mode, _blob, size in blobs))
    asked = "".join(f"{blob}\n" for _name, _mode, blob, _size in blobs).encode()
    contents = io.BytesIO(_git_bytes(top, "cat-file", "--batch", given=asked, variables=variables))
    for name, mode, _blob, size in blobs:
        contents.readline()
        yield name, mode, contents.read(size)
        contents.readline()


def _plain_files(directory: Path, left_out: Sequence[Path]) -> Iterator[tuple[str, int, bytes]]:
    """Without git: yield the source files below a folder; hidden folders and environments are passed over."""
    total = 0
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name != "__pycache__" and not Path(folder, name, ENVIRONMENT_MARK).exists()
        )
        for name in sorted(names):
            path = Path(folder, name)
            ours = path.suffix in PLAIN_SOURCES and path.is_file() and not _is_below(path, left_out)
            if ours and path.stat().st_size <= FILE_BYTES_MAX:
                data = path.read_bytes()
                total += len(data)
                _check_bytes(directory, total)
                yield path.relative_to(directory).as_posix(), 0o100644, data


def _tar(files: Iterator[tuple[str, int, bytes]], directory: Path) -> bytes:
    """Make an archive that is the same for the same files: `TarInfo` has no times and no owners of itself."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode, data in files:
            member = tarfile.TarInfo(name)
            if mode == 0o120000:
                member.type, member.linkname = tarfile.SYMTYPE, os.fsdecode(data)
                tar.addfile(member)
            else:
                member.size, member.mode = len(data), mode & 0o777
                tar.addfile(member, io.BytesIO(data))
    _check_bytes(directory, buffer.tell())
    return buffer.getvalue()


def _check_bytes(directory: Path, count: int) -> None:
    # An archive has 512 bytes a file and 10 KiB at the end beside the content.
    if count > SOURCE_BYTES_MAX:
        msg = (
            f"{directory}: the code takes {count >> 20} MiB, expected at most {SOURCE_BYTES_MAX >> 20}; "
            "keep data out of it: name it in .gitignore, or declare it with --data"
        )
        raise RecordingError(msg)


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    # The path itself is not resolved: a link in the tree is code even where it leads out.
    return any(path.is_relative_to(folder) for folder in folders)


def _names(listed: bytes) -> list[str]:
    return [os.fsdecode(name) for name in listed.split(b"\0") if name]


def _git_bytes(top: Path, *arguments: str, variables: Mapping[str, str], given: bytes = b"") -> bytes:
    done = subprocess.run(
        ["git", *arguments], cwd=top, input=given, capture_output=True, check=False, env=os.environ | dict(variables)
    )
    if done.returncode != 0:
        msg = f"git {arguments[0]} in {top}: {done.stderr.decode(errors='replace').strip()}"
        raise RecordingError(msg)
    return done.stdout

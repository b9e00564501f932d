"""The code that runs, as it is on disk at this moment: a git tree, and an archive of it.

A commit says what ran only when nothing was changed since. So the working tree itself is written as a git tree, with
uncommitted and untracked files, through an index and an object folder of our own: the user's repository is read, and
left as it is. What git ignores is left out, and so are the run's output, declared data, homes and environments, and
untracked files that are so large that they are data, or are secrets by their names; each of these is named. A token in
what is not committed is refused.

The archive is made from the tree's objects (`git archive` would leave out what `.gitattributes` tells it to) without
times and owners, so that the same tree gives the same bytes. How much there is, is known before anything is written.
"""

import io
import os
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bundles.digest import sha256_file
from bundles.errors import RecordingError
from bundles.secrets import is_secret_file, kind_of, strip_credentials

HOME = ".snowgate"
SOURCE_BYTES_MAX = 256 * 1024 * 1024
"""The tree of a project is some megabytes of text; beyond this it holds data that belongs elsewhere. In an archive a
file takes at least 1 KiB: 100,000 files of a few lines are 100 MiB."""
FILE_BYTES_MAX = 8 * 1024 * 1024
"""An untracked file of this size is data or a checkpoint, not code that somebody wrote."""
PLAIN_SOURCES = frozenset({".py", ".toml", ".cfg", ".txt", ".md", ".sh", ".ipynb", ".yaml", ".yml"})
ENVIRONMENT_MARK = "pyvenv.cfg"
GIT_SECONDS_MAX = 600
"""For one question to git: a million untracked files on a slow disk are listed in a minute or two."""


def capture(directory: Path, archive: Path, leave_out: Sequence[Path]) -> dict[str, Any]:
    """Archive the code in and above `directory`, and return what it is.

    The facts: `directory` (the folder's place in what is archived), `tree`, `commit`, `branch`, `dirty` and `remote`
    (None without git), `left_out` (untracked files that are large or secret, with size and `why`), `archive` (its
    sha256) and `bytes`.

    Raises:
        RecordingError: there is too much of it, or a token in what is not committed.
    """
    # A run that writes into the project's own folder leaves no place to tell code from output: then all is code.
    left_out = [path.resolve() for path in leave_out if not directory.resolve().is_relative_to(path.resolve())]
    top = git(directory, "rev-parse", "--show-toplevel")
    if top is None:
        facts: dict[str, Any] = dict.fromkeys(("tree", "commit", "branch", "dirty", "remote"))
        _tar(_plain_files(directory, left_out), archive)
        facts |= {"left_out": [], "directory": "."}
    else:
        facts = _from_git(Path(top), left_out, archive)
        facts["directory"] = directory.resolve().relative_to(Path(top).resolve()).as_posix()
    return facts | {"archive": sha256_file(archive), "bytes": archive.stat().st_size}


def git(directory: Path, *arguments: str) -> str | None:
    """Ask git something; None when there is no git, no repository or no answer."""
    try:
        done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=False)
    except (FileNotFoundError, PermissionError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _from_git(top: Path, left_out: Sequence[Path], archive: Path) -> dict[str, Any]:
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
        tree, passed_over = _write_tree(top, commit, left_out, variables)
        _tar(_tree_files(top, tree, variables), archive)
    return {
        "tree": tree,
        "commit": commit,
        "branch": git(top, "symbolic-ref", "--quiet", "--short", "HEAD"),
        "dirty": committed != tree,
        "remote": None if remote is None else strip_credentials(remote),
        "left_out": passed_over,
    }


def _write_tree(
    top: Path, commit: str | None, left_out: Sequence[Path], variables: Mapping[str, str]
) -> tuple[str, list[dict[str, Any]]]:
    """Write the working tree; return its id, and the untracked files that are no code."""
    if commit is not None:
        _git_bytes(top, "read-tree", commit, variables=variables)
        _git_bytes(top, "update-index", "-q", "--refresh", variables=variables)
    # What the run makes is no part of what ran: where it is tracked, it stays as it was committed.
    changed = _names(_git_bytes(top, "diff-files", "--name-only", "-z", variables=variables))
    taken = [name for name in changed if not _is_below(top / name, left_out)]
    passed_over: list[dict[str, Any]] = []
    untracked = _names(_git_bytes(top, "ls-files", "--others", "--exclude-standard", "-z", variables=variables))
    environments = tuple(name.removesuffix(ENVIRONMENT_MARK) for name in untracked if name.endswith(ENVIRONMENT_MARK))
    for name in untracked:
        # A name that ends with a slash is another repository inside of this one.
        foreign = name.endswith("/") or name.startswith(environments) or HOME in name.split("/")
        if foreign or _is_below(top / name, left_out):
            continue
        size = (top / name).lstat().st_size
        if size > FILE_BYTES_MAX:
            passed_over.append({"name": name, "size": size, "why": "large"})
        elif is_secret_file(name):
            passed_over.append({"name": name, "size": size, "why": "secret by its name"})
        else:
            taken.append(name)
    there = [(name, (top / name).lstat().st_size) for name in taken if os.path.lexists(top / name)]
    _refuse_too_much(top, there)
    _refuse_tokens(top / name for name, size in there if size <= FILE_BYTES_MAX)
    # Above the threshold, that is all of them, go into one pack: 100,000 loose objects take minutes on a slow disk.
    update = ("-c", "core.bigFileThreshold=1", "update-index", "--add", "--remove", "--replace", "-z", "--stdin")
    _git_bytes(top, *update, given=b"\0".join(map(os.fsencode, taken)), variables=variables)
    return _git_bytes(top, "write-tree", variables=variables).decode().strip(), passed_over


def _tree_files(top: Path, tree: str, variables: Mapping[str, str]) -> Iterator[tuple[str, int, bytes]]:
    """Yield name, git mode and content of every file of a tree, in git's order. Raises RecordingError."""
    listing = _names(_git_bytes(top, "ls-tree", "-r", "-z", "--long", tree, variables=variables))
    entries = [(name, *fields.split()) for fields, _tab, name in (line.partition("\t") for line in listing)]
    blobs = [(name, int(mode, 8), blob, int(size)) for name, mode, kind, blob, size in entries if kind == "blob"]
    _refuse_too_much(top, [(name, size) for name, _mode, _blob, size in blobs])
    with tempfile.TemporaryFile() as asked:
        asked.writelines(f"{blob}\n".encode() for _name, _mode, blob, _size in blobs)
        asked.seek(0)
        command = ["git", "cat-file", "--batch"]
        with subprocess.Popen(
            command, cwd=top, stdin=asked, stdout=subprocess.PIPE, env=os.environ | dict(variables)
        ) as process:
            assert process.stdout is not None, "it was opened as a pipe"
            for name, mode, _blob, size in blobs:
                process.stdout.readline()
                data = process.stdout.read(size)
                if len(data) < size or process.stdout.read(1) != b"\n":
                    raise RecordingError(f"git cat-file in {top}: {name} can't be read; try `git fsck`")
                yield name, mode, data


def _plain_files(directory: Path, left_out: Sequence[Path]) -> Iterator[tuple[str, int, bytes]]:
    """Without git: yield the source files below a folder; hidden folders and environments are passed over."""
    found: list[Path] = []
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
                found.append(path)
    _refuse_too_much(directory, [(path.relative_to(directory).as_posix(), path.stat().st_size) for path in found])
    _refuse_tokens(found)
    for path in found:
        yield path.relative_to(directory).as_posix(), 0o100644, path.read_bytes()


def _tar(files: Iterator[tuple[str, int, bytes]], archive: Path) -> None:
    """Make an archive that is the same for the same files: `TarInfo` has no times and no owners of itself."""
    with tarfile.open(archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode, data in files:
            member = tarfile.TarInfo(name)
            if mode == 0o120000:
                member.type, member.linkname = tarfile.SYMTYPE, os.fsdecode(data)
                tar.addfile(member)
            else:
                member.size, member.mode = len(data), mode & 0o777
                tar.addfile(member, io.BytesIO(data))


def _refuse_too_much(top: Path, files: Sequence[tuple[str, int]]) -> None:
    """Refuse files, by name and size, that make too large an archive: blocks of 512 bytes, one a header."""
    takes = [(name, 512 + -(-size // 512) * 512) for name, size in files]
    total = sum(size for _name, size in takes)
    if total > SOURCE_BYTES_MAX:
        folders: Counter[str] = Counter()
        for name, size in takes:
            folders[f"{name.partition('/')[0]}/" if "/" in name else name] += size
        place, most = folders.most_common(1)[0]
        raise RecordingError(
            f"{top}: {len(takes)} files of code take {_mebibytes(total)}, expected at most "
            f"{_mebibytes(SOURCE_BYTES_MAX)}; {place} has {_mebibytes(most)} of it; keep data out of the code: name it "
            "in .gitignore, or declare it with --data"
        )


def _refuse_tokens(paths: Iterable[Path]) -> None:
    """Refuse a token in code that is nowhere but here; what is committed was published before."""
    for path in paths:
        if path.is_file() and (kind := kind_of(path.read_bytes().decode("latin-1"))):
            raise RecordingError(
                f"{path}: looks as if {kind} were in it, and the code is recorded; take it out and give it by the "
                "environment, or name the file in .gitignore; if it is no secret, commit the file"
            )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.4g} MiB"


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    # The path itself is not resolved: a link in the tree is code even where it leads out.
    return any(path.is_relative_to(folder) for folder in folders)


def _names(listed: bytes) -> list[str]:
    return [os.fsdecode(name) for name in listed.split(b"\0") if name]


def _git_bytes(top: Path, *arguments: str, variables: Mapping[str, str], given: bytes = b"") -> bytes:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=top,
            input=given,
            capture_output=True,
            check=False,
            env=os.environ | dict(variables),
            timeout=GIT_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired as error:
        raise RecordingError(
            f"git {arguments[0]} in {top}: no answer within {GIT_SECONDS_MAX} s; name folders of data in .gitignore"
        ) from error
    if done.returncode != 0:
        msg = f"git {arguments[0]} in {top}: {done.stderr.decode(errors='replace').strip()}"
        raise RecordingError(msg)
    return done.stdout

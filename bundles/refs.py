"""Names for bundles: refs in a bare git repository, moved by compare-and-swap.

    refs/tags/<model>/<version>                 a version, given once and never moved
    refs/heads/<model>/<branch>                 where work goes on
    refs/environments/<environment>/<model>     what is desired to serve there
    refs/proposals/<id>                         a branch's head, proposed for an environment

Each ref points at a commit whose tree holds one small file, `bundle.json`: the digest, and why. So the history of a
ref is the history of what it named, with actor, reason and time, any git server can host it, and no weights are in it.

A ref is moved under git's own lock (`<ref>.lock`), so a `git push` and we exclude each other. Our processes queue
before it on a lock of the operating system, which a killed process cannot leave behind; who holds that may clear away
a `.lock` file that a killed one did.
"""

import fcntl
import os
import re
import shutil
import tempfile
import time
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson
from dulwich.errors import NotGitRepository, ObjectFormatException
from dulwich.file import FileLocked
from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tree
from dulwich.refs import Ref as GitName
from dulwich.repo import Repo

from bundles.errors import BundleError, HomeError, RefConflict, UnknownReference

FILE = b"bundle.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Models, versions, branches and environments: safe as a path, a URL part and a metric label."""
KINDS = {("tags", 4), ("heads", 4), ("environments", 4), ("proposals", 3)}
"""What refs are called, and of how many parts their names are."""
Kind = TypeVar("Kind", Blob, Commit, Tree)
LOCK_SECONDS = 10.0
"""A ref is locked for as long as it takes to write 41 bytes to disk; a lock file of this age was left behind."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A name as it was read; `commit` is what a compare-and-swap compares."""

    name: str
    digest: str | None
    commit: str
    actor: str
    reason: str
    time: str
    details: dict[str, Any] = field(default_factory=dict)


def check_name(kind: str, name: str) -> str:
    """Return a model's, version's, branch's or environment's name when it is a good one. Raises BundleError.

    >>> check_name("model", "signs")
    'signs'
    """
    if not NAME.fullmatch(name) or name.endswith((".lock", ".")) or ".." in name:
        msg = f"{kind} {name[:64]!r}: expected letters, digits, '.', '_' and '-', beginning with a letter or digit"
        raise BundleError(msg)
    return name


def check_ref(name: str) -> str:
    """Return a ref's full name when it is one of the four kinds. Raises BundleError.

    >>> check_ref("refs/environments/production/signs")
    'refs/environments/production/signs'
    """
    parts = name.split("/")
    if parts[0] != "refs" or (*parts[1:2], len(parts)) not in KINDS:
        msg = f"ref {name[:200]!r}: expected refs/tags/…/…, refs/heads/…/…, refs/environments/…/… or refs/proposals/…"
        raise BundleError(msg)
    for part in parts[2:]:
        check_name("ref", part)
    return name


class GitRefs:
    """Refs in a bare git repository."""

    def __init__(self, path: Path) -> None:
        """Open the repository, and make it when it is not there. Raises HomeError."""
        self._path = path
        try:
            if not (path / "HEAD").exists():
                _make_repository(path)
            self._repo = Repo(str(path))
            # Whoever drops this object need not know that git keeps packs open.
            weakref.finalize(self, self._repo.close)
        except OSError as error:
            msg = f"{path}: can't be made: {error.strerror}; give another folder with --home"
            raise HomeError(msg) from error
        except NotGitRepository as error:
            msg = f"{path}: is not a git repository; move it away, or give another folder with --home"
            raise HomeError(msg) from error

    def get(self, name: str) -> Ref | None:
        """Return a ref, or None."""
        commit = self._current(name)
        return None if commit is None else self._read(name, commit)

    def set(
        self,
        name: str,
        digest: str | None,
        *,
        expected: str | None,
        actor: str,
        reason: str,
        details: dict[str, Any] | None = None,
    ) -> Ref:
        """Move a ref from the commit `expected` (None: it must not exist) to `digest` (None: names nothing any more).

        Raises:
            RefConflict: somebody else moved it first.
        """
        check_ref(name)
        with self._alone(name):
            current = self._current(name)
            if expected != (None if current is None else current.decode()):
                # Lost already: nothing needs to be written to say so.
                raise RefConflict(_moved(name))
            commit = self._commit(digest, expected, actor, reason, details or {})
            try:
                if expected is None:
                    moved = self._repo.refs.add_if_new(_git(name), commit)
                else:
                    moved = self._repo.refs.set_if_equals(_git(name), ObjectID(expected.encode()), commit)
            except FileLocked:
                msg = f"{name}: another program is moving it at this moment (git's .lock file is there); try again"
                raise RefConflict(msg) from None
            except OSError as error:
                msg = f"{name}: can't be written in {self._path}: {error.strerror}"
                raise HomeError(msg) from error
        if not moved:
            raise RefConflict(_moved(name))
        return self._read(name, commit)

    def history(self, name: str, limit: int = 100) -> list[Ref]:
        """Return what a ref named, newest first."""
        ref = self.get(name)
        found: list[Ref] = []
        commit = None if ref is None else ObjectID(ref.commit.encode())
        while commit is not None and len(found) < limit:
            found.append(self._read(name, commit))
            parents = self._object(Commit, commit).parents
            commit = parents[0] if parents else None
        return found

    def version(self) -> tuple[tuple[str, bytes | int], ...]:
        """Return something that differs when an environment's ref has moved; costs some 20 microseconds a ref.

        What the refs hold, not when their files were changed: file times tick every few milliseconds only, and two
        moves within a tick would look like one.
        """
        found: list[tuple[str, bytes | int]] = []
        for folder, _folders, names in os.walk(self._path / "refs" / "environments"):
            for name in names:
                path = Path(folder, name)
                try:
                    found.append((str(path), path.read_bytes()))
                except FileNotFoundError:
                    continue  # Only a lock file goes away; the next look sees what it became.
        packed = self._path / "packed-refs"
        if packed.exists():
            found.append((str(packed), packed.stat().st_mtime_ns))
        return tuple(sorted(found))

    def claim_version(
        self,
        model: str,
        digest: str,
        *,
        actor: str,
        details: dict[str, Any],
        reason: str = "packed",
        once: bool = False,
    ) -> str:
        """Give a bundle the next version of its model: a decimal string, never used again.

        With `once` a bundle that has a version keeps it, also when several processes bring it at once: whoever did
        not see another's version in the list of names tries to make the same one, and looks again.
        """
        check_name("model", model)
        while True:
            names = self._names(f"refs/tags/{model}/")
            for name in names if once else ():
                ref = self.get(name)
                if ref is not None and ref.digest == digest:
                    return name.rpartition("/")[2]
            given = (name.rpartition("/")[2] for name in names)
            version = str(max((int(name) for name in given if name.isdecimal()), default=0) + 1)
            try:
                self.set(
                    f"refs/tags/{model}/{version}",
                    digest,
                    expected=None,
                    actor=actor,
                    reason=reason,
                    details={**details, "model": model, "version": version},
                )
            except RefConflict:
                continue
            return version

    def resolve(self, reference: str) -> tuple[str, str, str | None]:
        """Return (digest, model, version) of `model@7`, `model@branch`, `model@environment` or `sha256:…`.

        Raises:
            UnknownReference: saying what there is.
        """
        if reference.startswith("sha256:"):
            return self._by_digest(reference)
        model, at, name = reference.partition("@")
        if not at:
            msg = f"{reference!r}: expected model@version, model@branch, model@environment or sha256:…"
            raise UnknownReference(msg)
        places = (
            f"refs/tags/{model}/{name}",
            f"refs/environments/{name}/{model}",
            f"refs/heads/{model}/{name}",
        )
        for place in places:
            ref = self.get(place) if NAME.fullmatch(model) and NAME.fullmatch(name) else None
            if ref is not None and ref.digest is not None:
                tagged = place.startswith("refs/tags/")
                return ref.digest, model, name if tagged else self.version_of(ref.digest, model)
        known = [ref.rpartition("/")[2] for ref in self._names(f"refs/tags/{model}/")]
        have = f"versions of {model}: {', '.join(known)}" if known else f"no model {model!r} in this home"
        msg = f"{reference!r}: unknown; {have}; `snowgate bundle list` shows all"
        raise UnknownReference(msg)

    def version_of(self, digest: str, model: str) -> str | None:
        """Return the version of a bundle of a model, or None."""
        for ref in self.list(f"refs/tags/{model}/"):
            if ref.digest == digest:
                return ref.name.rpartition("/")[2]
        return None

    def _by_digest(self, reference: str) -> tuple[str, str, str | None]:
        tags = self.list("refs/tags/")
        matches = [(ref.digest, *ref.name.split("/")[2:4]) for ref in tags if (ref.digest or "").startswith(reference)]
        if len(matches) != 1 or len(reference) < len("sha256:") + 6:
            msg = f"{reference!r}: names {len(matches)} bundles, expected one; give more digits, `snowgate bundle list`"
            raise UnknownReference(msg)
        digest, model, version = matches[0]
        return str(digest), str(model), str(version)

    def _names(self, prefix: str) -> list[str]:
        # Only the folder of the prefix, which ends with a slash, is walked: control asks for every model's tags each
        # second, and with a hundred models all refs a hundred times would be half a CPU.
        return sorted(prefix + name.decode() for name in self._repo.refs.subkeys(GitName(prefix.encode())))

    def _current(self, name: str) -> ObjectID | None:
        refs = self._repo.refs
        commit = refs.read_loose_ref(_git(name)) or refs.get_packed_refs().get(_git(name))
        return None if commit is None else ObjectID(commit)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Be the one of our processes that moves refs, and clear away a lock that a killed one left on this ref."""
        try:
            file = (self._path / "snowgate.lock").open("w")
        except OSError as error:
            msg = f"{self._path}: can't be written: {error.strerror}; give another folder with --home"
            raise HomeError(msg) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            left = self._path / f"{name}.lock"
            while left.exists():
                with suppress(FileNotFoundError):
                    if time.time() - left.stat().st_mtime > LOCK_SECONDS:
                        left.unlink()
                time.sleep(0.002)
            yield

    def _object(self, kind: type[Kind], name: ObjectID) -> Kind:
        """Read an object; git's own check (zlib's) sees most damage, the id sees all. Raises KeyError, ValueError."""
        number, data = self._repo.object_store.get_raw(name)
        found = ShaFile.from_raw_string(number, data)
        if found.id != name or not isinstance(found, kind):
            msg = f"object {name.decode()} is altered: a {type(found).__name__} with the id {found.id.decode()}"
            raise ValueError(msg)
        return found

    def _read(self, name: str, commit: ObjectID) -> Ref:
        try:
            found = self._object(Commit, commit)
            tree = self._object(Tree, found.tree)
            document = orjson.loads(self._object(Blob, tree[FILE][1]).as_raw_string())
            digest, when = document.pop("digest"), document.pop("time")
        except (KeyError, ValueError, OSError, zlib.error, ObjectFormatException) as error:
            msg = f"{name}: its commit {commit.decode(errors='replace')[:40]} in {self._path} is damaged: {error}"
            raise HomeError(msg) from error
        actor = found.author.decode().rpartition(" <")[0]
        return Ref(name, digest, commit.decode(), actor, found.message.decode().strip(), when, document)

    def _commit(
        self, digest: str | None, parent: str | None, actor: str, reason: str, details: dict[str, Any]
    ) -> ObjectID:
        now = datetime.now(UTC)
        when = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
        document = {**details, "digest": digest, "time": when}
        blob = Blob.from_string(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
        tree = Tree()
        tree.add(FILE, 0o100644, blob.id)
        commit = Commit()
        commit.tree = tree.id
        commit.parents = [] if parent is None else [ObjectID(parent.encode())]
        # Angle brackets and line ends would end a field of git's format.
        name = re.sub(r"[<>\r\n\0]", "_", actor)
        commit.author = commit.committer = f"{name} <{name.replace(' ', '_')}>".encode()
        commit.author_time = commit.commit_time = int(now.timestamp())
        commit.author_timezone = commit.commit_timezone = 0
        commit.message = (reason.replace("\0", "") + "\n").encode()
        try:
            for one in (blob, tree, commit):
                self._repo.object_store.add_object(one)
        except OSError as error:
            msg = f"{self._path}: can't be written: {error.strerror}; make room, or give another folder with --home"
            raise HomeError(msg) from error
        return commit.id

    def list(self, prefix: str) -> list[Ref]:
        """Return all refs below `prefix`, which ends with a slash, sorted by name."""
        found = (self.get(name) for name in self._names(prefix))
        return [ref for ref in found if ref is not None]


def _moved(name: str) -> str:
    return f"{name}: somebody else moved it first; look at what it is now, and try again"


def _git(name: str) -> GitName:
    return GitName(name.encode())


def _make_repository(path: Path) -> None:
    """Make a bare repository that appears whole, and once: of several processes that make it, one has made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as folder:
        made = Path(folder) / "refs.git"
        repository = Repo.init_bare(str(made), mkdir=True)
        config = repository.get_config()
        # A ref that is on disk must not point at objects that are not.
        config.set((b"core",), b"fsyncObjectFiles", b"true")
        config.write_to_path()
        repository.close()
        try:
            made.rename(path)
        except OSError:
            if not (path / "HEAD").exists():
                raise
            shutil.rmtree(made)

"""Names for bundles: refs in a bare git repository, moved by compare-and-swap.

    refs/tags/<model>/<version>                 a version, given once and never moved
    refs/heads/<model>/<branch>                 where work goes on
    refs/environments/<environment>/<model>     what is desired to serve there

Each ref points at a commit whose tree holds one small file, `bundle.json`: the digest, and why. So the history of a
ref is the history of what it named, with actor, reason and time, any git server can host it, and no weights are in it.
"""

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from dulwich.file import FileLocked
from dulwich.objects import Blob, Commit, ObjectID, Tree
from dulwich.refs import Ref as GitName
from dulwich.repo import Repo

from bundles.errors import BundleError, HomeError, RefConflict, UnknownReference

FILE = b"bundle.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Models, versions, branches and environments: safe as a path, a URL part and a metric label."""
LOCK_SECONDS = 10.0


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


class GitRefs:
    """Refs in a bare git repository."""

    def __init__(self, path: Path) -> None:
        """Open the repository, and make it when it is not there. Raises HomeError."""
        self._path = path
        try:
            if not (path / "HEAD").exists():
                path.mkdir(parents=True, exist_ok=True)
                Repo.init_bare(str(path)).close()
            self._repo = Repo(str(path))
        except OSError as error:
            msg = f"{path}: can't be made: {error.strerror}; give another folder with --home"
            raise HomeError(msg) from error

    def get(self, name: str) -> Ref | None:
        """Return a ref, or None."""
        commit = self._repo.refs.read_loose_ref(_git(name)) or self._repo.refs.get_packed_refs().get(_git(name))
        return None if commit is None else self._read(name, ObjectID(commit))

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
        commit = self._commit(digest, expected, actor, reason, details or {})
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                if expected is None:
                    moved = self._repo.refs.add_if_new(_git(name), commit)
                else:
                    moved = self._repo.refs.set_if_equals(_git(name), ObjectID(expected.encode()), commit)
                break
            except FileLocked:
                if time.monotonic() > deadline:
                    msg = f"{name}: locked for {LOCK_SECONDS:.0f} s; if no process works on it, remove its .lock file"
                    raise RefConflict(msg) from None
                time.sleep(0.005)
        if not moved:
            msg = f"{name}: somebody else moved it first; look at what it is now, and try again"
            raise RefConflict(msg)
        return self._read(name, commit)

    def history(self, name: str, limit: int = 100) -> list[Ref]:
        """Return what a ref named, newest first."""
        ref = self.get(name)
        found: list[Ref] = []
        commit = None if ref is None else ObjectID(ref.commit.encode())
        while commit is not None and len(found) < limit:
            found.append(self._read(name, commit))
            parents = self._object(commit).parents
            commit = parents[0] if parents else None
        return found

    def version(self) -> tuple[tuple[str, int], ...]:
        """Return something that changes when an environment's ref moves; costs a few system calls."""
        root = self._path / "refs" / "environments"
        folders = [root, *root.glob("*")] if root.exists() else []
        packed = self._path / "packed-refs"
        return tuple((str(one), one.stat().st_mtime_ns) for one in (*folders, packed) if one.exists())

    def claim_version(self, model: str, digest: str, *, actor: str, details: dict[str, Any]) -> str:
        """Give a bundle the next version of its model: a decimal string, never used again."""
        check_name("model", model)
        while True:
            taken = [int(ref.rpartition("/")[2]) for ref in self._names(f"refs/tags/{model}/") if ref[-1].isdigit()]
            version = str(max(taken, default=0) + 1)
            try:
                self.set(
                    f"refs/tags/{model}/{version}",
                    digest,
                    expected=None,
                    actor=actor,
                    reason="packed",
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
                return ref.digest, model, self.version_of(ref.digest, model)
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
        return sorted(name.decode() for name in self._repo.refs.allkeys() if name.startswith(prefix.encode()))

    def _object(self, commit: ObjectID) -> Commit:
        found = self._repo.object_store[commit]
        assert isinstance(found, Commit), f"{commit!r} is not a commit"
        return found

    def _read(self, name: str, commit: ObjectID) -> Ref:
        found = self._object(commit)
        tree = self._repo.object_store[found.tree]
        assert isinstance(tree, Tree), "a commit has a tree"
        blob = self._repo.object_store[tree[FILE][1]]
        document = orjson.loads(blob.as_raw_string())
        digest = document.pop("digest")
        when = datetime.fromtimestamp(found.commit_time, UTC).isoformat().replace("+00:00", "Z")
        actor = found.author.decode().rpartition(" <")[0]
        return Ref(name, digest, commit.decode(), actor, found.message.decode().strip(), when, document)

    def _commit(
        self, digest: str | None, parent: str | None, actor: str, reason: str, details: dict[str, Any]
    ) -> ObjectID:
        blob = Blob.from_string(orjson.dumps({"digest": digest, **details}, option=orjson.OPT_INDENT_2) + b"\n")
        tree = Tree()
        tree.add(FILE, 0o100644, blob.id)
        commit = Commit()
        commit.tree = tree.id
        commit.parents = [] if parent is None else [ObjectID(parent.encode())]
        # Angle brackets and line ends would end a field of git's format.
        name = re.sub(r"[<>\r\n\0]", "_", actor)
        commit.author = commit.committer = f"{name} <{name.replace(' ', '_')}>".encode()
        commit.author_time = commit.commit_time = int(time.time())
        commit.author_timezone = commit.commit_timezone = 0
        commit.message = (reason.replace("\0", "") + "\n").encode()
        for one in (blob, tree, commit):
            self._repo.object_store.add_object(one)
        return commit.id

    def list(self, prefix: str) -> list[Ref]:
        """Return all refs whose name begins with `prefix`, sorted."""
        names = sorted(name.decode() for name in self._repo.refs.allkeys() if name.startswith(prefix.encode()))
        found = (self.get(name) for name in names)
        return [ref for ref in found if ref is not None]


def _git(name: str) -> GitName:
    return GitName(name.encode())

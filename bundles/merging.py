"""Merging what two bundles were made from, so that it can be run again: never their weights.

Both sides are compared with the bundle that they have in common. What one side changed is taken, what both changed
alike too; what both changed differently is a conflict, and named. Code is merged by git, file by file and line by
line; parameters by name; data by the places where the run read it, file for file.
"""

import subprocess
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from bundles.errors import MergeConflict, RecordingError
from bundles.recording import options_of

ANCESTORS_MAX = 10_000
"""Bundles that are looked through for a common one: years of daily training, a read of some kilobytes each."""
GIT = ("git", "-c", "user.name=snowgate", "-c", "user.email=snowgate@localhost", "-c", "commit.gpgsign=false")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run is to be given: its command line, parameters that stand beside it, and its data by place."""

    command: list[str]
    parameters: dict[str, str]
    data: dict[str, Mapping[str, Any]]


def common_ancestor(first: str, second: str, parents_of: Callable[[str], Sequence[str]]) -> str | None:
    """Return the nearest bundle from which both were made, or None.

    >>> parents = {"d": ["b"], "c": ["b"], "b": ["a"], "a": []}
    >>> common_ancestor("d", "c", parents.__getitem__), common_ancestor("d", "b", parents.__getitem__)
    ('b', 'b')
    """
    reached = set(_ancestors(first, parents_of))
    return next((one for one in _ancestors(second, parents_of) if one in reached), None)


def _ancestors(start: str, parents_of: Callable[[str], Sequence[str]]) -> Iterable[str]:
    """Yield a bundle and all that it was made from, nearest first."""
    waiting, seen = [start], {start}
    while waiting and len(seen) < ANCESTORS_MAX:
        one = waiting.pop(0)
        yield one
        for parent in parents_of(one):
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)


def three_way(
    base: Mapping[str, Value], ours: Mapping[str, Value], theirs: Mapping[str, Value]
) -> tuple[dict[str, Value], list[str]]:
    """Merge by name; return what comes of it, and the names that both sides changed differently.

    >>> three_way({"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 1, "d": 4}, {"a": 1, "b": 3, "c": 1})
    ({'a': 2, 'b': 3, 'd': 4}, [])
    >>> three_way({"a": 1}, {"a": 2}, {"a": 3})
    ({}, ['a'])
    """
    merged: dict[str, Value] = {}
    conflicts = []
    for name in dict.fromkeys([*ours, *theirs, *base]):
        was, mine, other = base.get(name), ours.get(name), theirs.get(name)
        if mine != other and was not in (mine, other):
            conflicts.append(name)
            continue
        chosen = other if mine == was else mine
        if chosen is not None:
            merged[name] = chosen
    return merged, conflicts


def merge_inputs(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Inputs:
    """Merge what three recorded runs were given; arguments are run records.

    Raises:
        MergeConflict: naming each parameter and each file of data that both sides changed differently.
    """
    conflicts = []
    parameters, clashing = three_way(*(one["parameters"] for one in (base, ours, theirs)))
    conflicts += [
        f"parameter {name}: {ours['parameters'].get(name)} here, {theirs['parameters'].get(name)} there"
        for name in clashing
    ]
    digests = [{place: one["sha256"] for place, one in _data(run).items()} for run in (base, ours, theirs)]
    data, clashing = three_way(*digests)
    conflicts += [f"data {place}: changed on both sides" for place in clashing]
    words, clashing = _words(base, ours, theirs)
    conflicts += clashing
    if conflicts:
        raise MergeConflict(conflicts)
    known = {(place, one["sha256"]): one for run in (base, theirs, ours) for place, one in _data(run).items()}
    on_line = {name: value for name, value in parameters.items() if name in _on_line(ours) | _on_line(theirs)}
    command = with_options(words, on_line)
    beside = {name: value for name, value in parameters.items() if name not in on_line}
    return Inputs(command, beside, {place: known[place, digest] for place, digest in data.items()})


def with_options(words: Sequence[str], parameters: Mapping[str, str]) -> list[str]:
    """Give the options of a command line these values, no more and no fewer options.

    >>> with_options(["python", "train.py", "--seed", "1", "--fast", "--width=8"], {"seed": "2", "depth": "3"})
    ['python', 'train.py', '--seed', '2', '--depth', '3']
    """
    given = options_of(words)
    found: list[str] = []
    skip = False
    for position, word in enumerate(words):
        name, equals, _value = word[2:].partition("=")
        if skip:
            skip = False
        elif not word.startswith("--") or len(word) < 3:
            found.append(word)
        else:
            following = words[position + 1] if position + 1 < len(words) else "--"
            skip = not equals and not following.startswith("--")
            if name in parameters:
                found += [f"--{name}={parameters[name]}"] if equals else _option(name, parameters[name], valued=skip)
    for name, value in parameters.items():
        if name not in given:
            found += _option(name, value, valued=value != "true")
    return found


def _option(name: str, value: str, *, valued: bool) -> list[str]:
    return [f"--{name}", value] if valued else [f"--{name}"]


def _words(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Choose whose command line to go on with: they may differ in their options only, or on one side."""
    plain = [with_options(run["command"], {}) for run in (base, ours, theirs)]
    if plain[1] not in (plain[0], plain[2]) and plain[2] != plain[0]:
        return [], [f"command: {' '.join(plain[1])} here, {' '.join(plain[2])} there"]
    return list((theirs if plain[1] == plain[0] and plain[2] != plain[0] else ours)["command"]), []


def _on_line(run: Mapping[str, Any]) -> set[str]:
    return set(options_of(run["command"]))


def _data(run: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {one.get("place", one["name"]): one for one in run["data"]}


def merge_code(folder: Path, base: bytes, ours: bytes, theirs: bytes) -> None:
    """Merge three source archives by git into a folder, which becomes a repository with the result as its head.

    Raises:
        MergeConflict: naming the files that both sides changed in the same places.
        RecordingError: git can't be run, or an archive can't be unpacked.
    """
    _git(folder, "init", "--quiet", "--initial-branch=base")
    for branch, archive in (("base", base), ("theirs", theirs), ("ours", ours)):
        if branch != "base":
            _git(folder, "checkout", "--quiet", "-b", branch, "base")
        _replace(folder, archive)
        _git(folder, "add", "--all", "--force")
        _git(folder, "commit", "--quiet", "--allow-empty", "--no-verify", "--message", branch)
    merged = _run(folder, "merge", "--quiet", "--no-edit", "theirs")
    if merged.returncode != 0:
        names = _git(folder, "diff", "--name-only", "--diff-filter=U", "-z").split("\0")
        conflicts = [f"code {name}: changed on both sides in the same place" for name in names if name]
        raise MergeConflict(conflicts or [f"code: {merged.stdout.strip() or merged.stderr.strip()}"])


def _replace(folder: Path, archive: bytes) -> None:
    """Let a folder hold what an archive holds, and nothing else of what git knows."""
    _git(folder, "rm", "-r", "--quiet", "--ignore-unmatch", ".")
    try:
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            # Where git was not told to ignore them, they are in the archive, and differ without a meaning.
            tar.extractall(folder, [one for one in tar if "__pycache__" not in one.name.split("/")], filter="data")
    except (tarfile.TarError, OSError) as error:
        msg = f"code/source.tar: can't be unpacked: {error}"
        raise RecordingError(msg) from error


def _git(folder: Path, *arguments: str) -> str:
    done = _run(folder, *arguments)
    if done.returncode != 0:
        msg = f"git {arguments[0]}: {done.stderr.strip()}"
        raise RecordingError(msg)
    return done.stdout


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run([*GIT, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        msg = f"git: can't be started: {error.strerror}; merging code needs it"
        raise RecordingError(msg) from error

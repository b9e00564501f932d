"""Code: the two trees that really ran, file by file, as git would show it; no repository or history is needed.

Compared is `code/source.tar` of both. Where one of them has none (it was packed from a folder, without a recorded run),
the files under `model/` are compared instead, which is the code that serves.
"""

import difflib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bundles.bundle import MODEL_PREFIX, SOURCE, Bundle
from bundles.errors import CorruptBundle
from bundles.manifest import DATASET_TYPE, WEIGHT_TYPE

FILES_MAX = 500
"""Files that are listed as changed: more than a reviewer reads, and 100 KB of JSON."""
FILE_BYTES_MAX = 256 * 1024
FILE_LINES_MAX = 5_000
"""A file of this size takes difflib a second; what is larger was not typed, and is compared by its bytes only."""
DIFF_LINES_MAX = 5_000
"""Lines of all files together that are shown: some hundred screens."""
SOURCE_BYTES_MAX = 128 * 1024 * 1024
"""Twice of what the recorder archives."""
LINK_MODE = 0o120000


@dataclass(frozen=True, slots=True)
class File:
    """A file of a tree; of a link the content is where it leads, of one that is too large to show its digest."""

    mode: int
    size: int
    data: bytes


def code(first: Bundle, second: Bundle) -> dict[str, Any]:
    """Compare the recorded source trees.

    Returns `compared` (`source` or `model`), what each tree was (`first`, `second`), the changed `files`, each with its
    unified `diff` or the reason why there is none, how many are `unchanged`, and what was `cut`. Raises CorruptBundle.
    """
    recorded = all(SOURCE in bundle.manifest.files() for bundle in (first, second))
    trees = [_source(bundle) if recorded else _model(bundle) for bundle in (first, second)]
    files = _files(trees[0], trees[1])
    changed = {one["path"] for one in files} | {one["before"] for one in files if one["before"]}
    return {
        "compared": "source" if recorded else "model",
        "first": first.run().get("code"),
        "second": second.run().get("code"),
        "files": files[:FILES_MAX],
        "unchanged": len(trees[0].keys() & trees[1].keys() - changed),
        "cut": _cut(files),
    }


def _files(before: Mapping[str, File], after: Mapping[str, File]) -> list[dict[str, Any]]:
    """Describe every file that is not the same in both; a removed one whose bytes came back elsewhere was renamed."""
    gone = {before[path]: path for path in sorted(before.keys() - after.keys(), reverse=True)}
    renamed = {path: gone.pop(after[path]) for path in sorted(after.keys() - before.keys()) if after[path] in gone}
    left = DIFF_LINES_MAX
    found = []
    for path in sorted((before.keys() | after.keys()) - set(renamed.values())):
        if path in renamed:
            found.append(_entry(path, "renamed", before=renamed[path]))
        elif before.get(path) != after.get(path):
            entry = _compared(path, before.get(path), after.get(path))
            lines = entry["added"] + entry["removed"]
            if entry["diff"] is not None and (length := entry["diff"].count("\n")) > left:
                entry |= {"diff": None, "not_shown": f"{lines} changed lines, beyond {DIFF_LINES_MAX} lines in all"}
            elif entry["diff"] is not None:
                left -= length
            found.append(entry)
    return found


def _entry(path: str, change: str, **facts: Any) -> dict[str, Any]:
    return {
        "path": path,
        "change": change,
        "before": None,
        "added": 0,
        "removed": 0,
        "diff": None,
        "not_shown": None,
    } | facts


def _compared(path: str, before: File | None, after: File | None) -> dict[str, Any]:
    change = "added" if before is None else "removed" if after is None else "changed"
    texts = [_lines(one) for one in (before, after)]
    if texts[0] is None or texts[1] is None:
        sizes = " → ".join(f"{one.size:,} bytes" for one in (before, after) if one is not None)
        return _entry(path, change, not_shown=f"not text, or too large to compare by lines: {sizes}")
    old, new = ("/dev/null" if one is None else f"{side}/{path}" for side, one in (("a", before), ("b", after)))
    body = [
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(texts[0], texts[1], old, new)
    ]
    head = f"diff --git a/{path} b/{path}\n{_modes(before, after)}"
    return _entry(
        path,
        change,
        added=sum(line.startswith("+") for line in body[2:]),
        removed=sum(line.startswith("-") for line in body[2:]),
        diff=head + "".join(body),
    )


def _modes(before: File | None, after: File | None) -> str:
    if before is None:
        assert after is not None, "a file is in one of the trees"
        return f"new file mode {after.mode:o}\n"
    if after is None:
        return f"deleted file mode {before.mode:o}\n"
    return "" if before.mode == after.mode else f"old mode {before.mode:o}\nnew mode {after.mode:o}\n"


def _lines(file: File | None) -> list[str] | None:
    """Return the lines of a text that is small enough to compare, each with its end; None for anything else."""
    if file is None:
        return []
    if file.size > FILE_BYTES_MAX or b"\0" in file.data:
        return None
    try:
        # Not by `splitlines`, which ends a line at a form feed as well, where git does not.
        lines = io.StringIO(file.data.decode(), newline="\n").readlines()
    except UnicodeDecodeError:
        return None
    return lines if len(lines) <= FILE_LINES_MAX else None


def _source(bundle: Bundle) -> dict[str, File]:
    """Read the recorded archive, in memory. Raises CorruptBundle."""
    size = bundle.manifest.files()[SOURCE].size
    if size > SOURCE_BYTES_MAX:
        raise CorruptBundle(SOURCE, f"has {size} bytes, expected at most {SOURCE_BYTES_MAX}")
    found = {}
    try:
        # "r:" reads no compressed archive: what comes out is no larger than what is there.
        with tarfile.open(fileobj=io.BytesIO(bundle.file(SOURCE)), mode="r:") as archive:
            for member in archive:
                if member.issym():
                    link = member.linkname.encode("utf-8", "surrogateescape")
                    found[member.name] = File(LINK_MODE, len(link), link)
                elif (content := archive.extractfile(member) if member.isreg() else None) is not None:
                    found[member.name] = File(0o100000 | member.mode, member.size, content.read())
    except (tarfile.TarError, UnicodeError, EOFError) as error:
        raise CorruptBundle(SOURCE, f"is not a tar archive ({error})") from error
    return found


def _model(bundle: Bundle) -> dict[str, File]:
    """Return the files of the model but weights and rows; large ones by their digest only."""
    return {
        path.removeprefix(MODEL_PREFIX): File(
            0o100644, one.size, bundle.file(path) if one.size <= FILE_BYTES_MAX else one.digest.encode()
        )
        for path, one in bundle.manifest.files().items()
        if path.startswith(MODEL_PREFIX) and one.media_type not in {WEIGHT_TYPE, DATASET_TYPE}
    }


def _cut(files: list[dict[str, Any]]) -> str | None:
    """Say what is not shown, if anything."""
    hidden = sum(one["not_shown"] is not None for one in files[:FILES_MAX])
    said = []
    if len(files) > FILES_MAX:
        said.append(f"{len(files) - FILES_MAX} of {len(files)} changed files are not listed")
    if hidden:
        said.append(f"{hidden} of the listed files are without their lines")
    return "; ".join(said) or None

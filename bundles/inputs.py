"""The data files of a run: which were declared, which were read, and how many rows they have.

A declared folder stands for what is below it. Where nothing below it was seen to be read, because a library opened it
that is not Python, all its files count as declared.
"""

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from bundles.digest import sha256_file
from bundles.errors import RecordingError

ROLES = ("train", "holdout", "validation", "test")
NOT_DATA = (".py", ".pyc", ".pyi", ".so")
SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", "/lib/", "/var/lib/")
FILES_MAX = 100_000
"""An entry takes 300 bytes in the record: 30 MB. More files belong into archives, or into one table."""
SHOWN_MAX = 20
Declared = Mapping[Path, str | None]
"""Files and folders by their real paths, and what they are for."""


def declarations(data: Sequence[str | Path]) -> dict[Path, str | None]:
    """Read what was declared, `PATH` or `ROLE=PATH`. Raises RecordingError when it is not there.

    >>> list(declarations(["train=."]).values())
    ['train']
    """
    found: dict[Path, str | None] = {}
    for one in data:
        role, equals, rest = str(one).partition("=")
        named = bool(equals) and role in ROLES
        path = Path(rest if named else one)
        if not path.exists():
            raise RecordingError(f"--data {one}: no such file; expected a path, or train=PATH, of a file or folder")
        found[path.resolve()] = role if named else None
    return found


def read_by(
    read: Mapping[str, tuple[int, int]],
    declared: Declared,
    directory: Path,
    leave_out: Sequence[Path],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Return an entry with its digest for each data file: those that were `read`, and those that were declared.

    `read` has size and modification time (ns) when a file was opened first. Raises RecordingError for too many files.
    """
    found: dict[Path, dict[str, Any]] = {}
    ours = [path.resolve() for path in leave_out]
    for name, state in read.items():
        path = Path(name).resolve()
        skipped = path.suffix in NOT_DATA or ".git" in path.parts or str(path).startswith(SYSTEM)
        if path.is_file() and not skipped and not any(map(path.is_relative_to, ours)):
            now = path.stat()
            changed = {} if (now.st_size, now.st_mtime_ns) == state else {"changed_during_run": True}
            found[path] = {"authority": "observed", **changed}
    for place in declared:
        if not any(path.is_relative_to(place) for path in found):
            files = [place] if place.is_file() else [path.resolve() for path in place.rglob("*") if path.is_file()]
            found |= {path: {"authority": "declared"} for path in files}
    if len(found) > FILES_MAX:
        raise RecordingError(
            f"{len(found)} data files, expected at most {FILES_MAX}; put them into archives or a table"
        )
    return [
        {
            "name": str(path.relative_to(directory)) if path.is_relative_to(directory) else path.name,
            "place": os.path.relpath(path, directory),
            "path": path.as_uri(),
            "sha256": sha256_file(path),
            "size": path.stat().st_size,
            "declared": any(map(path.is_relative_to, declared)),
            "role": next((role for place, role in declared.items() if role and path.is_relative_to(place)), None),
            **_table(path, say),
            **facts,
        }
        for path, facts in sorted(found.items())
    ]


def check(entries: Sequence[Mapping[str, Any]], *, strict: bool, observed: bool, say: Callable[[str], None]) -> None:
    """Name the files that were read and not declared. With `strict` raises RecordingError for them."""
    if strict and not observed:
        raise RecordingError("--strict: no Python process was seen, so nobody knows what was read; nothing is packed")
    names = [str(one["name"]) for one in entries if not one["declared"]]
    if not names:
        return
    listed = ", ".join(names[:SHOWN_MAX]) + (f" and {len(names) - SHOWN_MAX} more" if names[SHOWN_MAX:] else "")
    if strict:
        raise RecordingError(
            f"--strict: read and not declared: {listed}; nothing is packed; declare them, as in --data {names[0]}"
        )
    say(f"read and not declared (--data declares; with --strict this is an error): {listed}")


def _table(path: Path, say: Callable[[str], None]) -> dict[str, int]:
    """Count rows and columns of a table where that is cheap: by its header, or by its lines."""
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                return _of(_shape(file))
        if path.suffix == ".npz":
            return _npz(path)
        if path.suffix in {".csv", ".tsv"}:
            with path.open("rb") as file:
                columns = file.readline().count(b"," if path.suffix == ".csv" else b"\t") + 1
                return {"rows": sum(1 for _line in file), "columns": columns}
        if path.suffix == ".parquet":
            return _parquet(path, say)
    except (OSError, ValueError, zipfile.BadZipFile):
        say(f"{path}: can't be read as {path.suffix}; its rows are not counted")
    return {}


def _npz(path: Path) -> dict[str, int]:
    """Count an archive's rows where all its arrays have as many; its columns are the arrays."""
    with zipfile.ZipFile(path) as archive:
        shapes = []
        for name in archive.namelist():
            with archive.open(name) as file:
                shapes.append(_shape(file))
    rows = {shape[0] if shape else None for shape in shapes}
    one = rows.pop() if len(rows) == 1 else None
    return {} if one is None else {"rows": one, "columns": len(shapes)}


def _shape(file: IO[bytes]) -> tuple[int, ...]:
    """Read the shape out of a header of numpy's; an array of objects is not loaded for that."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _order, _dtype = read(file)
    return tuple(shape)


def _of(shape: Sequence[int]) -> dict[str, int]:
    return {} if not shape else {"rows": shape[0], "columns": shape[1] if len(shape) == 2 else 1}


def _parquet(path: Path, say: Callable[[str], None]) -> dict[str, int]:
    try:
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - an extra
    except ImportError:
        say(f"{path}: its rows are not counted without pyarrow: pip install 'snowgate[parquet]'")
        return {}
    with ParquetFile(path) as file:
        return {"rows": file.metadata.num_rows, "columns": file.metadata.num_columns}

"""The data of a recorded run, by digest: whoever has the bytes will do, and nothing else.

Looked for in the bundle itself, its code included, in the home's store, where the run read it, and in the folder that
was named. A file that has the name but not the digest is not it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bundles.bundle import Bundle
from bundles.digest import sha256_file

FILES_MAX = 100_000
"""A named folder is walked up to here: reading the sizes of more would take minutes."""
Find = Callable[[str], Path | None]


def locate(
    bundle: Bundle, data: list[dict[str, Any]], code: Path, folder: Path | None, find: Find, target: Path
) -> tuple[dict[str, Path], list[dict[str, Any]]]:
    """Find every file of a run's data; return where each is, by name, and the entries of those that are lost.

    `code` is where the run was started in the unpacked code, `folder` is one to look in, `find` asks the home's store
    by digest, `target` takes what has to be unpacked.

    Raises:
        CorruptBundle: a file of the bundle is not what its digest says.
    """
    layers = {one.digest: one for one in bundle.manifest.layers}
    sizes = _by_size(folder) if folder is not None else {}
    found: dict[str, Path] = {}
    lost: list[dict[str, Any]] = []
    for number, one in enumerate(data):
        digest = one["sha256"]
        if digest in layers:
            found[one["name"]] = target / str(number)
            bundle.store.copy(layers[digest], found[one["name"]])
            continue
        known = [code / one.get("place", one["name"]), find(digest), recorded_path(one)]
        candidates = [*known, *sizes.get(one["size"], ())]
        place = next((path for path in candidates if path is not None and _is(path, one)), None)
        if place is None:
            lost.append(one)
        else:
            found[one["name"]] = place
    return found, lost


def recorded_path(one: Mapping[str, Any]) -> Path | None:
    """Return where the run read a file, if that was a file of some machine."""
    url = urlsplit(one.get("path") or "")
    return Path(unquote(url.path)) if url.scheme == "file" else None


def _is(path: Path, one: Mapping[str, Any]) -> bool:
    try:
        return path.is_file() and path.stat().st_size == one["size"] and sha256_file(path) == one["sha256"]
    except OSError:
        return False


def _by_size(folder: Path) -> dict[int, list[Path]]:
    """List a folder's files by size, so that only those are read that can be what is looked for."""
    sizes: dict[int, list[Path]] = {}
    for number, path in enumerate(folder.rglob("*")):
        if number == FILES_MAX:
            break
        if path.is_file():
            sizes.setdefault(path.stat().st_size, []).append(path)
    return sizes

"""Data: which files the training read, and which rows came, went or stayed.

Files are compared by the digests that the run recorded. Rows are compared where the bytes of both files are at hand: in
the bundle or another of this home, in the home's own copies (`HOME/data/`), or still where they were when the run read
them; every byte is checked against its digest before it is believed.
"""

import tempfile
from pathlib import Path
from typing import Any

from bundles.bundle import MODEL_PREFIX, Bundle
from bundles.data import is_it, recorded_path
from bundles.diff.rows import UnreadableRows, count_rows
from bundles.errors import CorruptBundle
from bundles.home import Home
from bundles.manifest import DATASET_TYPE, Descriptor, is_digest

FILES_MAX = 1_000
"""Files that are listed; a data set of more is compared all the same."""
FILES_READ_MAX = 50
"""Changed files whose rows are compared: at two seconds for a large one, two minutes."""


def data(home: Home, first: Bundle, second: Bundle) -> dict[str, Any]:
    """Compare the data of two bundles.

    Returns `files`, each that is not the same in both with its digests, sizes and `rows` (`before`, `after`, `added`,
    `removed`; None where not known, and then `rows_unknown` says why), how many are `unchanged`, and what was `cut`.
    """
    sides = [_entries(bundle) for bundle in (first, second)]
    before, after = sides
    gone = {before[name]["sha256"]: name for name in sorted(before.keys() - after.keys(), reverse=True)}
    renamed = {
        name: gone.pop(after[name]["sha256"])
        for name in sorted(after.keys() - before.keys())
        if after[name]["sha256"] in gone
    }
    files = []
    for name in sorted((before.keys() | after.keys()) - set(renamed.values())):
        pair = (before.get(renamed.get(name, name)), after.get(name))
        if name in renamed or pair[0] is None or pair[1] is None or pair[0]["sha256"] != pair[1]["sha256"]:
            files.append(_entry(name, pair, renamed.get(name)))
    changed = [one for one in files if one["change"] != "renamed"]
    with tempfile.TemporaryDirectory(prefix="snowgate-diff-") as folder:
        for one in changed[:FILES_READ_MAX]:
            pair = (before.get(one["name"]), after.get(one["name"]))
            one.update(_rows(home, pair, Path(folder)))
    for one in changed[FILES_READ_MAX:]:
        one["rows_unknown"] = f"one of {len(changed)} changed files, of which {FILES_READ_MAX} are read"
    cut = f"{len(files) - FILES_MAX} of {len(files)} files are not listed" if len(files) > FILES_MAX else None
    same = sum(one["sha256"] == before[name]["sha256"] for name, one in after.items() if name in before)
    return {"files": files[:FILES_MAX], "unchanged": same, "cut": cut}


def _entries(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Name the data of a bundle: what the run read, and the example rows that were packed."""
    found = {one["name"]: one for one in bundle.run().get("data", [])}
    packed = {
        path: {"name": path, "sha256": one.digest, "size": one.size, "authority": "packed"}
        for path, one in bundle.manifest.files().items()
        if path.startswith(MODEL_PREFIX) and one.media_type == DATASET_TYPE
    }
    return packed | found


def _entry(name: str, pair: tuple[dict[str, Any] | None, dict[str, Any] | None], renamed: str | None) -> dict[str, Any]:
    before, after = pair
    change = "renamed" if renamed else "added" if before is None else "removed" if after is None else "changed"
    return {
        "name": name,
        "change": change,
        "renamed_from": renamed,
        "before": _facts(before),
        "after": _facts(after),
        "rows": None,
        "rows_unknown": None,
    }


def _facts(entry: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if entry is None else {key: entry.get(key) for key in ("sha256", "size", "authority")}


def _rows(home: Home, pair: tuple[dict[str, Any] | None, dict[str, Any] | None], folder: Path) -> dict[str, Any]:
    """Count the rows of both files, and those that are in one only."""
    counted = []
    for side, entry in zip(("before", "after"), pair, strict=True):
        try:
            counted.append(None if entry is None else count_rows(_bytes_of(home, entry, folder / side), entry["name"]))
        except UnreadableRows as error:
            return {"rows_unknown": f"{side}: {error}"}
    before, after = counted
    return {
        "rows": {
            "before": None if before is None else before.total(),
            "after": None if after is None else after.total(),
            "added": None if before is None or after is None else (after - before).total(),
            "removed": None if before is None or after is None else (before - after).total(),
        }
    }


def _bytes_of(home: Home, entry: dict[str, Any], target: Path) -> Path:
    """Return a file that has an entry's bytes, checked; `target` may be written for it. Raises UnreadableRows."""
    digest: str = entry["sha256"]
    if not is_digest(digest):
        raise UnreadableRows(f"{digest!r} is no digest")
    try:
        home.store().copy(Descriptor(DATASET_TYPE, digest, entry["size"], entry["name"]), target)
    except CorruptBundle:
        pass
    else:
        return target
    path = home.data().find(digest) or recorded_path(entry)
    if path is not None and is_it(path, entry):
        return path
    raise UnreadableRows("its bytes are not in this home, and no more where they were")

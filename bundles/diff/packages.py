"""Packages and the interpreter: in which environment it was trained, and in which it is served."""

import tomllib
from typing import Any

from bundles.bundle import LOCK, SERVING_LOCK, Bundle
from bundles.diff.values import changes
from bundles.errors import CorruptBundle


def packages(first: Bundle, second: Bundle) -> dict[str, Any]:
    """Compare the locks: `training`, and `serving`, which is None where both are served in the gateway's environment.

    A package of one version whose installed files differ is `rebuilt`.
    """
    serving = [_lock(bundle, SERVING_LOCK) for bundle in (first, second)]
    platforms = [bundle.config["environment"].get("platform") for bundle in (first, second)]
    return {
        "training": _compared(_lock(first, LOCK), _lock(second, LOCK))
        | {"platform": {"before": platforms[0], "after": platforms[1]}},
        "serving": None if serving == [None, None] else _compared(serving[0], serving[1]),
    }


def _compared(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
    """Compare two locks; without one there are no packages of its own."""
    entries = [{one["name"]: one for one in (lock or {}).get("packages", [])} for lock in (before, after)]
    versions = [{name: one.get("version") for name, one in side.items()} for side in entries]
    both = [name for name in versions[0] if versions[1].get(name) == versions[0][name] and name in versions[1]]
    pythons = [(lock or {}).get("requires-python", "").removeprefix("==") or None for lock in (before, after)]
    return {
        "python": {"before": pythons[0], "after": pythons[1]},
        "changes": changes(versions[0], versions[1]),
        "rebuilt": sorted(name for name in both if _other_files(entries[0][name], entries[1][name])),
        "unchanged": len(both),
    }


def _other_files(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Say whether what was installed under one version was not the same; False where one of both is not known."""
    records = [one.get("tool", {}).get("snowgate", {}).get("record-sha256") for one in (before, after)]
    return None not in records and records[0] != records[1]


def _lock(bundle: Bundle, path: str) -> dict[str, Any] | None:
    """Return a lock of a bundle as it is written; None where the bundle has none. Raises CorruptBundle."""
    if path not in bundle.manifest.files():
        return None
    try:
        return tomllib.loads(bundle.file(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CorruptBundle(path, f"is no lock in TOML ({error})") from error

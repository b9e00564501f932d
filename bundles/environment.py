"""The environment of a run: the interpreter, and every package that was there, as a PEP 751 `pylock.toml`.

Each package is pinned by its exact version and, under `[packages.tool.snowgate]`, by the sha256 of its RECORD, which
itself lists the sha256 of every file that was installed: it pins what was really there. `imported` says whether the run
imported it, or one that depends on it. Those have their wheel beside it, by name and sha256, so that the environment
can be made again; `no-wheel` says why not where that is not so.
"""

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import tomli_w

from bundles.wheels import normalized

NOT_IMPORTED = "not imported by the run"
LOCAL = "installed from a folder"
NOT_FOUND = "no wheel is known for it"
REQUIREMENT = re.compile(r"[\w.-]+")
Find = Callable[[Mapping[str, str]], Mapping[str, dict[str, Any]]]
"""From pins, versions by name, to the wheels of those that can be had again."""


def interpreter() -> dict[str, str]:
    """Describe the interpreter that runs this."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
    }


def lock(
    path: Sequence[str] | None = None,
    running: Mapping[str, str] | None = None,
    imported: Collection[str] | None = None,
    find: Find = lambda _pins: {},
) -> tuple[str, dict[str, Any]]:
    """Return the text of a `pylock.toml` for the environment on an import path, and a summary.

    `path` and `running` are another process's `sys.path` and `interpreter()`; ours by default. `imported` are the
    top-level modules that it imported; when that is not known, all packages count as imported. `find` is asked for the
    wheels of those.
    """
    there: dict[str, Distribution] = {}
    for distribution in distributions() if path is None else distributions(path=list(path)):
        name = distribution.metadata["Name"]
        # A broken installation leaves folders without metadata. The first on the path is the one that is imported.
        if name:
            there.setdefault(normalized(name), distribution)
    used = set(there) if imported is None else _used(there, set(imported))
    origins = {name: _origin(there[name]) for name in used}
    found = find({name: there[name].version for name in sorted(used) if origins[name] is None})
    wheels = {name: found.get(name, {}) if origin is None else origin for name, origin in origins.items()}
    packages = [_package(there[name], name, wheels.get(name)) for name in sorted(there)]
    summary: dict[str, Any] = {
        **(running or interpreter()),
        "packages": len(there),
        "imported": len(used),
        "without_hash": sorted(name for name, wheel in wheels.items() if "hashes" not in wheel),
    }
    document = {
        "lock-version": "1.0",
        "created-by": "snowgate",
        "requires-python": f"=={summary['python']}",
        "packages": packages,
    }
    return tomli_w.dumps(document), summary


def hardware() -> dict[str, Any]:
    """Describe the machine as far as it can change a result."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    drivers = [line.partition(":")[2].strip() for line in _lines("/proc/driver/nvidia/version") if "NVRM" in line]
    cards = [
        line.partition(":")[2].strip()
        for card in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        for line in _lines(str(card))
        if line.startswith("Model")
    ]
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "byteorder": sys.byteorder,
        "processor": models[0] if models else None,
        "threads": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "accelerators": cards,
        "accelerator_driver": drivers[0] if drivers else None,
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []  # Another system, or no such device.


def _package(distribution: Distribution, name: str, wheel: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a package's entry; `wheel` is None for one that was not imported."""
    ours: dict[str, Any] = {"imported": wheel is not None}
    record = distribution.read_text("RECORD")
    if record is not None:
        ours["record-sha256"] = sha256(record.encode()).hexdigest()
    hashed = wheel is not None and "hashes" in wheel
    if not hashed:
        ours["no-wheel"] = NOT_IMPORTED if wheel is None else wheel.get("why", NOT_FOUND)
    entry: dict[str, Any] = {"name": name, "version": distribution.version}
    return entry | ({"wheels": [dict(wheel)]} if wheel is not None and hashed else {}) | {"tool": {"snowgate": ours}}


def _origin(distribution: Distribution) -> dict[str, Any] | None:
    """Say what a package was installed from when it was not an index: its wheel, or why there is none (PEP 610)."""
    try:
        source = json.loads(distribution.read_text("direct_url.json") or "null")
    except ValueError:
        source = {}
    if source is None:
        return None
    name = str(source.get("url", "")).rpartition("/")[2]
    archive = source.get("archive_info", {}).get("hashes", {}).get("sha256")
    if archive and name.endswith(".whl"):
        return {"name": name, "path": name, "hashes": {"sha256": archive}}
    return {"why": LOCAL}


def _used(there: Mapping[str, Distribution], modules: set[str]) -> set[str]:
    """Name the packages that have one of these modules, and all that those depend on."""
    left = [name for name, distribution in there.items() if _modules(distribution) & modules]
    used: set[str] = set()
    while left:
        name = left.pop()
        if name not in used:
            used.add(name)
            # What an extra asks for counts only when it was imported itself.
            asked = [one for one in there[name].requires or () if "extra ==" not in one]
            names = [normalized(match[0]) for one in asked if (match := REQUIREMENT.match(one))]
            left += [one for one in names if one in there]
    return used


def _modules(distribution: Distribution) -> set[str]:
    """Return the top-level modules of a package: as it says itself, or by the files that it brought."""
    said = distribution.read_text("top_level.txt")
    if said:
        return set(said.split())
    record = (distribution.read_text("RECORD") or "").splitlines()
    return {line.partition("/")[0].partition(",")[0].partition(".")[0] for line in record}

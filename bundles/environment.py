"""The environment of a run: the interpreter, and every package that was there, as a PEP 751 `pylock.toml`.

Each package is pinned by its exact version and, under `[packages.tool.snowgate]`, by the sha256 of its RECORD, which
itself lists the sha256 of every file that was installed: it pins what was really there. Where to download a package
again is not in it, because an installed package does not know.
"""

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import tomli_w


def interpreter() -> dict[str, str]:
    """Describe the interpreter that runs this."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
    }


def lock(path: Sequence[str] | None = None, running: Mapping[str, str] | None = None) -> tuple[str, dict[str, Any]]:
    """Return the text of a `pylock.toml` for the environment on an import path, and a summary.

    `path` and `running` are another process's `sys.path` and `interpreter()`; ours by default.
    """
    packages: dict[str, dict[str, Any]] = {}
    for distribution in distributions() if path is None else distributions(path=list(path)):
        name = distribution.metadata["Name"]
        # A broken installation leaves folders without metadata. The first on the path is the one that is imported.
        if name and normalized(name) not in packages:
            packages[normalized(name)] = _package(distribution, normalized(name))
    summary: dict[str, Any] = {**(running or interpreter()), "packages": len(packages)}
    document = {
        "lock-version": "1.0",
        "created-by": "snowgate",
        "requires-python": f"=={summary['python']}",
        "packages": [packages[name] for name in sorted(packages)],
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


def _package(distribution: Distribution, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "version": distribution.version}
    record = distribution.read_text("RECORD")
    if record is not None:
        entry["tool"] = {"snowgate": {"record-sha256": sha256(record.encode()).hexdigest()}}
    return entry


def normalized(name: str) -> str:
    """As the index names it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()

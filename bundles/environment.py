"""The environment of a run: the interpreter, and every package that was there, as a PEP 751 `pylock.toml`.

Each package is pinned by its exact version and, under `[packages.tool.snowgate]`, by the sha256 of its RECORD, which
itself lists the sha256 of every file that was installed: it pins what was really there. Where to download a package
again is not in it, because an installed package does not know.
"""

import platform
import re
import sys
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import Distribution, distributions
from typing import Any

import tomli_w


def lock(path: Sequence[str] | None = None) -> tuple[str, dict[str, Any]]:
    """Return the text of a `pylock.toml` for the environment on an import path (ours by default), and a summary."""
    packages: dict[str, dict[str, Any]] = {}
    for distribution in distributions() if path is None else distributions(path=list(path)):
        # The first on the path is the one that is imported.
        packages.setdefault(_normalized(distribution.metadata["Name"]), _package(distribution))
    version = platform.python_version()
    document = {
        "lock-version": "1.0",
        "created-by": "snowgate",
        "requires-python": f"=={version}",
        "packages": [packages[name] for name in sorted(packages)],
    }
    summary = {
        "python": version,
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "packages": len(packages),
    }
    return tomli_w.dumps(document), summary


def hardware() -> dict[str, Any]:
    """Describe the machine as far as it can change a result."""
    return {"machine": platform.machine(), "system": platform.system(), "byteorder": sys.byteorder}


def _package(distribution: Distribution) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": _normalized(distribution.metadata["Name"]),
        "version": distribution.version,
    }
    record = distribution.read_text("RECORD")
    if record is not None:
        entry["tool"] = {"snowgate": {"record-sha256": sha256(record.encode()).hexdigest()}}
    return entry


def _normalized(name: str) -> str:
    """As the index names it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()

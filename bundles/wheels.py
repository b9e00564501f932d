"""Where packages can be had again: for each pinned version the wheel that pip would install, by its name and sha256.

An installed package does not know which archive it came out of. So pip is asked, once for all pins, without installing
anything; what it said is remembered in the home, and the next run under the same interpreter costs nothing. A package
that was installed from a folder (an editable one, such as a checkout) is never asked for: whoever has its name on an
index is somebody else.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
"""Ours, told which interpreter it works for: a new environment without a pip of its own is there at once."""
ASK_SECONDS = 600.0
"""Some 150 packages take a minute of a busy machine; an index that is slow besides, several."""
DROPS_MAX = 20
"""pip ends at the first pin that it can't find; without that one it is asked again, so often."""
MISSING_SECONDS = 86_400.0
"""What the index did not have yesterday may be there today."""
NOT_FOUND = re.compile(r"No matching distribution found for ([\w.-]+)==")
NO_INDEX = re.compile(r"WARNING: Retrying \(|Could not fetch URL|connection error", re.IGNORECASE)

Found = dict[str, dict[str, Any]]
Say = Callable[[str], None]


class Wheels:
    """Asks pip, and remembers in a folder what it said."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, pins: Mapping[str, str], python: str, say: Say) -> Found:
        """Return the wheels of those pins (versions by name) that can be had for an interpreter, by name.

        Each is an entry of PEP 751's `packages.wheels`: `name`, `hashes`, and `url` where it came from the web.
        """
        path = self._folder / f"{_kind(python)}.json"
        known = _read(path)
        oldest = time.time() - MISSING_SECONDS
        asked = {
            name: version
            for name, version in pins.items()
            if (one := known.get(f"{name}=={version}")) is None or one.get("missing", oldest + 1) < oldest
        }
        if asked:
            say(f"looking up the wheels of {len(asked)} packages; next time that is known")
            found, missing = ask(asked, python, say)
            known |= {f"{name}=={asked[name]}": wheel for name, wheel in found.items()}
            known |= {f"{name}=={asked[name]}": {"missing": time.time()} for name in missing}
            _write(path, known)
        entries = {name: known.get(f"{name}=={version}", {}) for name, version in pins.items()}
        return {name: entry for name, entry in entries.items() if "hashes" in entry}


def ask(pins: Mapping[str, str], python: str, say: Say) -> tuple[Found, list[str]]:
    """Ask pip for the wheels of pins; also return the names of those that its index does not have."""
    left, missing = dict(pins), list[str]()
    deadline = time.monotonic() + ASK_SECONDS
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SNOWGATE_"))}
    with tempfile.TemporaryDirectory(prefix="snowgate-") as folder:
        report = Path(folder) / "report.json"
        how = ["--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:", "--report", str(report)]
        how += ["--retries", "1", "--timeout", "15", "--quiet"]
        while left and len(missing) <= DROPS_MAX:
            command = [*PIP, "--python", python, "install", *how, *(f"{name}=={one}" for name, one in left.items())]
            try:
                seconds = max(deadline - time.monotonic(), 1.0)
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, env=variables, timeout=seconds
                )
            except subprocess.TimeoutExpired:
                say(f"their wheels are not known: the index did not answer within {ASK_SECONDS:g} s")
                return {}, missing
            if done.returncode == 0:
                installs = [entry(one) for one in json.loads(report.read_text())["install"]]
                return {one["name"]: one["wheels"][0] for one in installs}, missing
            absent = NOT_FOUND.search(done.stderr)
            name = normalized(absent[1]) if absent else ""
            if NO_INDEX.search(done.stderr) or name not in left:
                reason = (done.stderr.strip().splitlines() or [f"pip ended with status {done.returncode}"])[-1]
                say(f"their wheels are not known, the lock has no hashes: {reason}")
                return {}, missing
            missing.append(name)
            del left[name]
    return {}, missing


def entry(installed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lock's entry for one package of pip's report: no folder of this machine, no credential of an index."""
    about, source = installed["metadata"], installed["download_info"]
    archive = source.get("archive_info", {})
    hashes = archive.get("hashes") or dict([archive["hash"].split("=", 1)])
    return {"name": normalized(about["name"]), "version": about["version"], "wheels": [_wheel(source["url"], hashes)]}


def _wheel(url: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    parts = urlsplit(url)
    name = unquote(parts.path).rpartition("/")[2]
    wheel: dict[str, Any] = {"name": name, "hashes": {"sha256": hashes["sha256"]}}
    if parts.scheme in ("http", "https"):
        wheel["url"] = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    else:
        wheel["path"] = name  # As PEP 751 has it: beside the lock, if somebody puts it there.
    return wheel


def normalized(name: str) -> str:
    """As the index names it (PEP 503).

    >>> normalized("Typing_Extensions")
    'typing-extensions'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def _kind(python: str) -> str:
    """Name the kind of interpreter and machine that a wheel is for."""
    shown = "import platform as p; print(p.python_implementation(), *p.python_version_tuple()[:2], p.machine())"
    try:
        done = subprocess.run([python, "-I", "-c", shown], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return f"unknown-{platform.machine()}"
    return re.sub(r"[^\w.]+", "-", done.stdout.strip()).lower()


def _read(path: Path) -> Found:
    try:
        known: Found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # It is only remembered: what can't be read is asked again.
    return known


def _write(path: Path, known: Found) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, made = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(descriptor, "w") as file:
        json.dump(known, file, indent=1, sort_keys=True)
    Path(made).replace(path)  # Of two at once the second wins: the first is asked again some day.

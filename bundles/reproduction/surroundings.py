"""What a run is made in: the environment that its lock names, built again, and how this machine differs."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from bundles import environment
from bundles.bundle import LOCK, Bundle
from bundles.environments import find_python, version_of
from bundles.errors import EnvironmentFailed
from bundles.home import Home
from bundles.reproduction.words import CODE, DATA, ENVIRONMENT, HARDWARE
from bundles.wheels import Say

COMPUTES = ("machine", "processor", "threads", "accelerators", "accelerator_driver")
"""What of the hardware changes the last digits of a number."""


def build(
    home: Home, bundle: Bundle, packages: Path | None, python: str | None, say: Say
) -> tuple[Path, dict[str, Any]]:
    """Build the environment of a bundle's run, and return its interpreter, and what it is.

    `packages` is a requirements file that takes the place of the lock, `python` a version that takes the place of the
    recorded one. `left_out` are packages that were installed from a folder, `unpinned` those of which the
    lock has no hash for this interpreter, so that the index of today was asked for the version.

    Raises:
        EnvironmentFailed: no such interpreter, or the packages can't be installed.
    """
    lock = tomllib.loads(bundle.file(LOCK).decode())
    recorded = lock["requires-python"].removeprefix("==")
    wanted = python or recorded
    used = {one["name"]: one for one in lock["packages"] if _ours(one).get("imported", True)}
    if packages is not None:
        built = home.environments().resolve(packages, ".".join(wanted.split(".")[:2]), say)
        now = {one["name"]: one["version"] for one in tomllib.loads(built.lock)["packages"]}
        moved = {name: [one["version"], now.get(name)] for name, one in used.items() if one["version"] != now.get(name)}
        facts = {"packages": len(now), "left_out": [], "unpinned": [], "moved": moved}
        return built.python, _python(built.python, recorded) | facts
    base, exact = find_python(wanted)
    hashed = {name: one for name, one in used.items() if "wheels" in one and _same_minor(exact, recorded)}
    asked = {
        name: one["version"]
        for name, one in used.items()
        if name not in hashed and _ours(one).get("no-wheel") != environment.LOCAL
    }
    found = home.wheels().find(asked, base, say) if asked else {}
    entries = [*hashed.values(), *({"name": name, "version": asked[name], "wheels": [found[name]]} for name in found)]
    lost = sorted(f"{name} {version}" for name, version in asked.items() if name not in found)
    if lost:
        raise EnvironmentFailed(
            f"no wheel of {', '.join(lost)} can be had for Python {exact}; "
            "give versions that there are with --with-packages FILE"
        )
    left_out = sorted(set(used) - set(hashed) - set(found))
    if left_out:
        say(f"left out, because it was installed from a folder: {', '.join(left_out)}")
    text = tomli_w.dumps(
        {
            "lock-version": "1.0",
            "created-by": "snowgate",
            "requires-python": f"=={wanted if python else recorded}",
            "packages": sorted(entries, key=lambda one: str(one["name"])),
        }
    )
    at = home.environments().python_for(text, say, own=True)
    facts = {"packages": len(entries), "left_out": left_out, "unpinned": sorted(found), "moved": {}}
    return at, _python(at, recorded) | facts


def differences(run: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Name what is not as it was when the run was recorded, by the cause that it would be."""
    now, then = environment.hardware(), run.get("hardware", {})
    apart = facts["python"] != facts["recorded_python"] or facts["left_out"] or facts["unpinned"] or facts["moved"]
    found = [
        (ENVIRONMENT, apart),
        (HARDWARE, any(now.get(name) != then.get(name) for name in COMPUTES)),
        (DATA, any(one.get("changed_during_run") for one in run["data"])),
        (CODE, run["code"].get("left_out")),
    ]
    return [name for name, differs in found if differs]


def _python(at: Path, recorded: str) -> dict[str, Any]:
    return {"python": version_of(str(at)), "recorded_python": recorded}


def _ours(package: Mapping[str, Any]) -> Mapping[str, Any]:
    ours: Mapping[str, Any] = package.get("tool", {}).get("snowgate", {})
    return ours


def _same_minor(one: str, other: str) -> bool:
    return _minor(one) == _minor(other)


def _minor(version: str) -> Sequence[str]:
    return version.split(".")[:2]

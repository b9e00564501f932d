import sys
import tomllib
from collections.abc import Mapping
from hashlib import sha256
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from bundles import environment


def test_every_package_is_pinned_by_what_was_installed() -> None:
    """Name, exact version, and the digest of the RECORD that lists the digest of each installed file."""
    text, summary = environment.lock()
    document = tomllib.loads(text)
    assert document["lock-version"] == "1.0"
    assert document["requires-python"] == f"=={sys.version.split()[0]}"
    packages = {one["name"]: one for one in document["packages"]}
    assert list(packages) == sorted(packages)
    assert len(packages) == summary["packages"]
    numpy = distribution("numpy")
    record = numpy.read_text("RECORD")
    assert record is not None
    assert packages["numpy"]["version"] == numpy.version
    assert packages["numpy"]["tool"]["snowgate"]["record-sha256"] == sha256(record.encode()).hexdigest()


def test_no_path_of_the_machine_is_in_it() -> None:
    """A lock that names folders of one machine is of no use on another."""
    text, _summary = environment.lock()
    assert sys.prefix not in text
    assert str(Path.home()) not in text


def test_another_process_s_environment(tmp_path: Path) -> None:
    """By its import path: the first of two versions counts, names are normalized, and wrecks are passed over."""
    for folder, version in (("a", "1.0"), ("b", "2.0")):
        info = tmp_path / folder / f"My_Package-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: My_Package\nVersion: {version}\n")
    (tmp_path / "b" / "wreck-1.dist-info").mkdir()
    running = {"python": "3.99.0", "implementation": "CPython", "platform": "Elsewhere"}
    text, summary = environment.lock([str(tmp_path / "a"), str(tmp_path / "b")], running)
    document = tomllib.loads(text)
    ours = {"imported": True, "no-wheel": "no wheel is known for it"}
    assert document["packages"] == [{"name": "my-package", "version": "1.0", "tool": {"snowgate": ours}}]
    assert document["requires-python"] == "==3.99.0"
    assert summary == {**running, "packages": 1, "imported": 1, "without_hash": ["my-package"]}


def test_what_was_imported_has_its_wheel(tmp_path: Path) -> None:
    """Asked for are the packages that were imported and what they depend on; never one that came out of a folder."""

    def install(name: str, requires: str, modules: str, origin: str = "") -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
        (info / "RECORD").write_text(f"{modules}/__init__.py,,\n")
        if origin:
            (info / "direct_url.json").write_text(origin)

    install("ice", "Requires-Dist: water>=1; python_version > '3'\nRequires-Dist: salt; extra == 'road'\n", "icicle")
    install("water", "", "water")
    install("salt", "", "salt")
    install("ours", "", "ours", '{"url": "file:///elsewhere/ours", "dir_info": {"editable": true}}')
    archive = '{"url": "file:///elsewhere/snow-1.0-py3-none-any.whl", "archive_info": {"hashes": {"sha256": "ab"}}}'
    install("snow", "", "snow", archive)
    asked: list[dict[str, str]] = []

    def find(pins: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        asked.append(dict(pins))
        return {"ice": {"name": "ice-1.0-py3-none-any.whl", "hashes": {"sha256": "cd"}}}

    text, summary = environment.lock([str(tmp_path)], environment.interpreter(), {"icicle", "ours", "snow"}, find)
    assert asked == [{"ice": "1.0", "water": "1.0"}]
    entries = {one["name"]: one for one in tomllib.loads(text)["packages"]}
    hashes = {name: [wheel["hashes"]["sha256"] for wheel in one.get("wheels", [])] for name, one in entries.items()}
    assert hashes == {"ice": ["cd"], "ours": [], "salt": [], "snow": ["ab"], "water": []}
    assert {name: one["tool"]["snowgate"].get("no-wheel") for name, one in entries.items()} == {
        "ice": None,
        "ours": "installed from a folder",
        "salt": "not imported by the run",
        "snow": None,
        "water": "no wheel is known for it",
    }
    assert (summary["packages"], summary["imported"], summary["without_hash"]) == (5, 4, ["ours", "water"])
    assert "elsewhere" not in text, "a folder of this machine"


def test_the_machine_is_described() -> None:
    """As far as it can change a result; what is not there is null or empty, never missing."""
    machine = environment.hardware()
    assert machine["threads"] >= 1
    assert machine["memory_bytes"] > 1_000_000
    assert {"machine", "system", "byteorder", "processor", "accelerators", "accelerator_driver"} <= set(machine)

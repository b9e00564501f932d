"""One bundle that was really trained, for all tests of reproducing it, and a home whose environment is built once."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from bundles.home import Home
from bundles.packing import FLOOR_FILE, Packed, pack
from bundles.recording import FOLDER, record
from bundles.reproduction import floors
from bundles.reproduction.reproduce import Changes, reproduce
from tests.bundles.reproduction.trained import numpy_wheel, write_project


@dataclass(frozen=True)
class Trained:
    """A bundle with a floor, the home that it is in, and the project that made it."""

    home: Home
    packed: Packed
    project: Path
    wheels: Path

    def again(self, **given: Any) -> dict[str, Any]:
        """Reproduce it, with changes by their name."""
        changes = {name: given.pop(name) for name in list(given) if name in Changes.__dataclass_fields__}
        return reproduce(self.home, self.packed.digest, changes=Changes(**changes), **given)


@pytest.fixture(scope="session")
def _wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    numpy_wheel(folder)
    return folder


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory, _wheels: Path) -> Trained:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(_wheels))
        patch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path_factory.getbasetemp()))
        project = write_project(tmp_path_factory.mktemp("trained") / "project")
        home = Home(tmp_path_factory.mktemp("trained") / "home").make()
        patch.chdir(project)
        command = [sys.executable, "train.py", "--seed", "1"]
        run = record(command, output=Path("model"), wheels=home.wheels(), carried_bytes_max=0, say=lambda _text: None)
        floor = floors.measure_here(run, Path("model"), Path(sys.executable), (), 3, lambda _text: None)
        Path("model", FOLDER, FLOOR_FILE).write_bytes(orjson.dumps(floor.to_json()))
        packed = pack(home, Path("model"), model="clouds")
    return Trained(home, packed, project, _wheels)


@pytest.fixture
def trained(_trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Return the bundle; only the folder of wheels is an index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(_trained.wheels))
    return _trained


@pytest.fixture
def elsewhere(trained: Trained, tmp_path: Path) -> Callable[[], Trained]:
    """Return what gives a copy in a home of its own, without the project: as a stranger has it."""

    def copy() -> Trained:
        home = Home(tmp_path / "elsewhere").make()
        for part in ("bundles", "refs.git"):
            shutil.copytree(trained.home.path / part, home.path / part, dirs_exist_ok=True)
        # Where its environment was built does not matter, and building takes seconds.
        (trained.home.path / "environments").mkdir(exist_ok=True)
        (home.path / "environments").symlink_to(trained.home.path / "environments")
        return Trained(home, trained.packed, tmp_path / "nowhere", trained.wheels)

    return copy

"""A small project that can be packed: a Python class that divides, rows to try it on, a recipe; and a home."""

from pathlib import Path

import numpy as np
import pytest

from bundles.home import Home

RECIPE = """\
model = "divider"
loader = "python"
entrypoint = "divider:Divider"
holdout = "holdout.npz"
metrics = { accuracy = 0.75 }
parameters = { by = 2 }

[[inputs]]
name = "pixels"
datatype = "FP32"
shape = [-1, 4]

[[outputs]]
name = "scores"
datatype = "FP32"
shape = [-1, 4]
semantic = "logits"
"""

MODEL = """\
import numpy as np


class Divider:
    def __init__(self, by):
        self.by = by

    def load(self, directory):
        self.weights = np.load(directory / "weights.npy")

    def predict(self, inputs):
        return {"scores": inputs["pixels"] * self.weights / self.by}
"""


def write_project(directory: Path) -> Path:
    """Write the project into a folder and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bundle.toml").write_text(RECIPE)
    (directory / "divider.py").write_text(MODEL)
    np.save(directory / "weights.npy", np.arange(4, dtype=np.float32))
    rows = np.random.default_rng(1).normal(size=(100, 4)).astype(np.float32)
    np.savez(directory / "holdout.npz", pixels=rows, labels=rows.argmax(axis=1))
    return directory


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder that can be packed."""
    return write_project(tmp_path / "project")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return an empty home."""
    return Home(tmp_path / "home").make()


@pytest.fixture(autouse=True)
def _no_git_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give git a configuration of its own, and no repository above the test's folder."""
    settings = tmp_path_factory.mktemp("git") / "config"
    settings.write_text("[user]\n\tname = A Tester\n\temail = tester@example.org\n[init]\n\tdefaultBranch = main\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path_factory.getbasetemp()))

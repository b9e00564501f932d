"""What a model answers to the rows of a holdout: loaded by the runner that serves it, checked and trusted first."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bundles.bundle import MODEL_PREFIX, Bundle
from bundles.home import Home
from bundles.process import RunnerProcess
from bundles.recipe import read_arrays, read_recipe

Array = np.ndarray[Any, Any]
LABELS = ("labels", "label", "targets", "target", "y")
"""What people call the array of a holdout that says what is true."""


@dataclass(frozen=True, slots=True)
class Holdout:
    """Rows to ask a model: one array an input; `labels` says what is true of each, where the file does."""

    digest: str
    inputs: dict[str, Array]
    labels: Array | None
    labels_name: str | None
    rows_in_file: int

    @property
    def rows(self) -> int:
        """How many rows are asked."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says about some rows: outputs and signals by name, rows first."""

    outputs: dict[str, Array]
    signals: dict[str, Array]


def read_holdout(bundle: Bundle, unpacked: Path, rows_max: int) -> Holdout:
    """Read the first rows of the holdout that the `bundle.toml` of an unpacked bundle names. Raises RecipeError."""
    recipe = read_recipe(unpacked / MODEL_PREFIX)
    inputs = recipe.rows(recipe.holdout)
    count = len(next(iter(inputs.values())))
    held = read_arrays(recipe.directory / recipe.holdout)
    named = [name for name in LABELS if name in held and name not in inputs and held[name].shape == (count,)]
    return Holdout(
        digest=bundle.manifest.files()[MODEL_PREFIX + Path(recipe.holdout).as_posix()].digest,
        inputs={name: array[:rows_max] for name, array in inputs.items()},
        labels=held[named[0]][:rows_max] if named else None,
        labels_name=named[0] if named else None,
        rows_in_file=count,
    )


def ask(home: Home, bundle: Bundle, unpacked: Path, holdout: Holdout, say: Callable[[str], None]) -> Answers:
    """Load an unpacked bundle in its own environment and ask it all rows.

    Raises:
        EnvironmentFailed: its environment can't be built here.
        RunnerFailed: it can't be loaded, or fails on the rows.
    """
    lock = bundle.serving_lock
    python = sys.executable if lock is None else str(home.environments().python_for(lock, say))
    outputs: dict[str, list[Array]] = {}
    signals: dict[str, list[Array]] = {}
    batch = bundle.config["max_batch_size"]
    with RunnerProcess(unpacked, python) as runner:
        for start in range(0, holdout.rows, batch):
            answered = runner.predict({name: array[start : start + batch] for name, array in holdout.inputs.items()})
            for kept, found in zip((outputs, signals), answered, strict=True):
                for name, values in found.items():
                    kept.setdefault(name, []).append(values)
    return Answers(*({name: np.concatenate(parts) for name, parts in side.items()} for side in (outputs, signals)))

"""A model as it is compared: unpacked as a runner wants it, with its digest, its metrics and its answers."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bundles.bundle import MODEL_PREFIX, Bundle
from bundles.digest import canonical_json, sha256_bytes, sha256_file
from bundles.loading import allow_types
from bundles.manifest import DOCUMENT_TYPE, media_type_of
from bundles.packing import LEFT_OUT, completed_by_file, configuration, metrics
from bundles.process import RunnerProcess
from bundles.recipe import FILE, FUNCTIONS, read_recipe
from bundles.schema import TensorSpec

Array = np.ndarray[Any, Any]
METRICS = "metrics.json"
CONFIGURED = ("loader", "entrypoint", "weights", "parameters", "inputs", "outputs", *FUNCTIONS, *FUNCTIONS.values())
"""What of a configuration makes the model's answers."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model, unpacked in `folder`: `config.json` and `model/`.

    `digest` is the sha256 of what makes its answers: the paths and digests of its weights and code, and its
    configuration. Documents, metrics and example rows are not in it.
    """

    folder: Path
    config: Mapping[str, Any]
    digest: str
    metrics: Mapping[str, float]

    def answers(self, rows: Mapping[str, Array], python: Path) -> dict[str, Array]:
        """Let its runner answer rows, in batches. Raises RunnerFailed."""
        size, count = int(self.config["max_batch_size"]), len(next(iter(rows.values())))
        parts: dict[str, list[Array]] = {}
        with RunnerProcess(self.folder, str(python)) as runner:
            for first in range(0, count, size):
                batch = {name: array[first : first + size] for name, array in rows.items()}
                for name, array in runner.predict(batch)[0].items():
                    parts.setdefault(name, []).append(array)
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def of_bundle(bundle: Bundle, folder: Path) -> Model:
    """Return the model of a bundle that `bundles.loading.prepare` has unpacked into a folder."""
    files = {
        path.removeprefix(MODEL_PREFIX): one.digest
        for path, one in bundle.manifest.files().items()
        if path.startswith(MODEL_PREFIX)
    }
    return Model(folder, bundle.config, _digest(bundle.config, files, held(folder)[0]), bundle.config["metrics"])


def of_output(output: Path, folder: Path, name: str, types: Sequence[str]) -> Model:
    """Return the model that a run has written, unpacked into an empty folder; `types` are as in a policy.

    Raises:
        RecipeError: the run did not write what can be packed.
        RunnerFailed: the model's file can't be read.
    """
    shutil.copytree(output, folder / "model", ignore=shutil.ignore_patterns(*LEFT_OUT))
    recipe = read_recipe(output)
    allow_types(recipe.loader, types, folder)
    recipe = completed_by_file(recipe, folder, sys.executable, lambda _text: None)
    config = configuration(recipe) | {"model": name}
    (folder / "config.json").write_bytes(orjson.dumps(config))
    files = {
        path.relative_to(folder / "model").as_posix(): sha256_file(path)
        for path in (folder / "model").rglob("*")
        if path.is_file()
    }
    examples = {one for one in (recipe.holdout, recipe.golden) if one is not None}
    return Model(folder, config, _digest(config, files, examples), recipe.metrics | metrics(output))


def held(folder: Path) -> tuple[set[str], dict[str, Array]]:
    """Return the names of an unpacked bundle's example files, and the rows of its holdout. Raises RecipeError."""
    inputs = orjson.loads((folder / "config.json").read_bytes())["inputs"]
    recipe = replace(read_recipe(folder / "model"), inputs=tuple(TensorSpec(**spec) for spec in inputs))
    return {one for one in (recipe.holdout, recipe.golden) if one is not None}, recipe.rows(recipe.holdout)


def _digest(config: Mapping[str, Any], files: Mapping[str, str], examples: set[str]) -> str:
    beside = {METRICS, FILE, *examples}
    made = {
        path: digest for path, digest in files.items() if path not in beside and media_type_of(path) != DOCUMENT_TYPE
    }
    configured = {name: config[name] for name in CONFIGURED if name in config}
    return sha256_bytes(canonical_json({"files": made, "configuration": configured}))

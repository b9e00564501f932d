"""Packing: from a folder with a `bundle.toml` to a signed bundle with a version.

The model is loaded by the same runner that will serve it; the golden examples, and the expected distribution of the
signals, are what that runner answered.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from safetensors.numpy import save

from bundles import environment, provenance, signing
from bundles.baseline import Baseline, measure
from bundles.bundle import (
    BASELINE,
    GOLDEN_INPUTS,
    GOLDEN_OUTPUTS,
    GOLDEN_TEXT,
    LOCK,
    MODEL_PREFIX,
    PROVENANCE,
    RUN,
    SOURCE,
)
from bundles.digest import canonical_json, sha256_bytes
from bundles.errors import RecipeError, RefConflict
from bundles.home import Home
from bundles.manifest import (
    CODE_TYPE,
    CONFIG_TYPE,
    DATASET_TYPE,
    DOCUMENT_TYPE,
    Descriptor,
    Manifest,
    media_type_of,
)
from bundles.process import RunnerProcess
from bundles.recipe import GOLDEN_ROWS, Recipe, read_recipe, weights_of
from bundles.recording import FOLDER, author, who
from bundles.refs import check_name
from bundles.store import OciStore

Array = np.ndarray[Any, Any]
FILES_MAX = 10_000
LEFT_OUT = (FOLDER, "__pycache__", ".git", ".venv")


@dataclass(frozen=True, slots=True)
class Packed:
    """What was packed."""

    digest: str
    model: str
    version: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What the runner answered to the golden examples and the holdout."""

    golden: tuple[dict[str, Array], dict[str, Array]]
    baseline: Baseline


def pack(
    home: Home,
    directory: Path,
    *,
    model: str | None = None,
    parents: Sequence[str] = (),
    say: Callable[[str], None] = lambda _text: None,
) -> Packed:
    """Pack a folder as the next version of a model.

    Raises:
        RecipeError: the folder is not as it must be.
        RunnerFailed: the model can't be loaded, or fails on its own examples.
    """
    recipe = read_recipe(directory)
    name = model or recipe.model
    if name is None:
        raise RecipeError(f'{directory / "bundle.toml"}: has no model = "…"; give a name with --model')
    check_name("model", name)
    home.make()
    store, refs, keys = home.store(), home.refs(), home.keys()
    parent_digests = [refs.resolve(parent)[0] for parent in parents]
    run = _recorded(directory)
    people = run.get("who") or who(directory)
    created = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    text, summary = _lock(directory, run)
    config = _config(recipe, name) | {
        "created": created,
        "authors": [author(people)],
        "metrics": recipe.metrics | _metrics(directory),
        "parents": parent_digests,
        "environment": summary,
    }
    measured = _measure(recipe, config, say)
    say("writing the bundle")
    layers = [
        *_model_layers(store, recipe),
        *_golden_layers(store, measured.golden),
        store.add_blob(orjson.dumps(measured.baseline.to_json()), DOCUMENT_TYPE, BASELINE),
        store.add_blob(text.encode(), CODE_TYPE, LOCK),
    ]
    if run:
        layers.append(store.add_blob(orjson.dumps(run, option=orjson.OPT_INDENT_2), DOCUMENT_TYPE, RUN))
        layers.append(store.add_blob(directory / FOLDER / "source.tar", CODE_TYPE, SOURCE))
        layers.append(store.add_blob(directory / FOLDER / "log.txt", DOCUMENT_TYPE, "run/log.txt"))
    signer = keys.signer()
    predicate = provenance.predicate(
        run,
        lock_digest=sha256_bytes(text.encode()),
        parents=parent_digests,
        author=author(people),
        created=created,
        builder=f"snowgate:key:{signer.public_key.keyid}",
    )
    layers.append(store.add_blob(orjson.dumps(predicate), DOCUMENT_TYPE, PROVENANCE))
    manifest = Manifest(store.add_blob(canonical_json(config), CONFIG_TYPE), tuple(layers))
    digest = store.add_manifest(manifest)
    store.attach(digest, signing.sign(digest, name, provenance.PREDICATE_TYPE, predicate, signer))
    actor = author(people)
    version = refs.claim_version(name, digest, actor=actor, details={"created": created})
    _move_head(home, name, digest, actor, version)
    return Packed(digest, name, version)


def _config(recipe: Recipe, name: str) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": name,
        "loader": recipe.loader,
        "entrypoint": recipe.entrypoint,
        "weights": weights_of(recipe),
        "parameters": recipe.parameters,
        "max_batch_size": recipe.max_batch_size,
        "inputs": [spec.to_json() for spec in recipe.inputs],
        "outputs": [spec.to_json() for spec in recipe.outputs],
        "tolerance": recipe.tolerance,
    }


def _measure(recipe: Recipe, config: dict[str, Any], say: Callable[[str], None]) -> Measured:
    """Load the model as it will be served, and let it answer."""
    holdout = recipe.rows(recipe.holdout)
    golden = recipe.rows(recipe.golden) if recipe.golden else {}
    golden = {name: array[:GOLDEN_ROWS] for name, array in (golden or holdout).items()}
    rows = len(next(iter(holdout.values())))
    with tempfile.TemporaryDirectory(prefix="snowgate-pack-") as folder:
        staged = Path(folder)
        (staged / "config.json").write_bytes(orjson.dumps(config))
        shutil.copytree(recipe.directory, staged / "model", ignore=shutil.ignore_patterns(*LEFT_OUT))
        say(f"loading the model ({recipe.loader})")
        with RunnerProcess(staged) as runner:
            answers, _signals = runner.predict(golden)
            say(f"measuring the expected distribution of its signals on {rows} rows of the holdout")
            parts: dict[str, list[Array]] = {}
            for first in range(0, rows, recipe.max_batch_size):
                batch = {name: array[first : first + recipe.max_batch_size] for name, array in holdout.items()}
                for signal, values in runner.predict(batch)[1].items():
                    parts.setdefault(signal, []).append(values)
    signals = {name: np.concatenate(values) for name, values in parts.items()}
    return Measured((golden, answers), measure(signals, "holdout"))


def _model_layers(store: OciStore, recipe: Recipe) -> list[Descriptor]:
    """One layer a file of the packed folder, under `model/`."""
    examples = {recipe.holdout, recipe.golden}
    paths = [
        path
        for path in sorted(recipe.directory.rglob("*"))
        if path.is_file() and not set(path.relative_to(recipe.directory).parts) & set(LEFT_OUT)
    ]
    if len(paths) > FILES_MAX:
        raise RecipeError(
            f"{recipe.directory}: {len(paths)} files, expected at most {FILES_MAX}; pack a folder of its own"
        )
    layers = []
    for path in paths:
        if not path.resolve().is_relative_to(recipe.directory.resolve()):
            raise RecipeError(f"{path}: a link that leads out of the folder; put the file itself there")
        relative = path.relative_to(recipe.directory).as_posix()
        media_type = DATASET_TYPE if relative in examples else media_type_of(relative)
        layers.append(store.add_blob(path, media_type, MODEL_PREFIX + relative))
    return layers


def _golden_layers(store: OciStore, golden: tuple[dict[str, Array], dict[str, Array]]) -> list[Descriptor]:
    layers = []
    text: dict[str, dict[str, Any]] = {}
    for side, path, arrays in (("inputs", GOLDEN_INPUTS, golden[0]), ("outputs", GOLDEN_OUTPUTS, golden[1])):
        numbers = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array.dtype.kind not in "OSU"}
        layers.append(store.add_blob(save(numbers), DATASET_TYPE, path))
        for name, array in arrays.items():
            if name not in numbers:
                data = [(one.encode() if isinstance(one, str) else one).hex() for one in array.ravel().tolist()]
                text.setdefault(side, {})[name] = {"shape": list(array.shape), "data": data}
    if text:
        layers.append(store.add_blob(orjson.dumps(text), DATASET_TYPE, GOLDEN_TEXT))
    return layers


def _recorded(directory: Path) -> dict[str, Any]:
    path = directory / FOLDER / "run.json"
    run: dict[str, Any] = orjson.loads(path.read_bytes()) if path.exists() else {}
    return run


def _lock(directory: Path, run: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if run:
        return (directory / FOLDER / "pylock.toml").read_text(), run["environment"]
    return environment.lock()


def _metrics(directory: Path) -> dict[str, float]:
    path = directory / "metrics.json"
    if not path.exists():
        return {}
    found = orjson.loads(path.read_bytes())
    if not isinstance(found, dict) or not all(isinstance(value, int | float) for value in found.values()):
        raise RecipeError(f"{path}: expected an object of numbers")
    return found


def _move_head(home: Home, model: str, digest: str, actor: str, version: str) -> None:
    """`refs/heads/<model>/main` follows what was packed last; who comes second moves it again."""
    name, refs = f"refs/heads/{model}/main", home.refs()
    while True:
        current = refs.get(name)
        expected = None if current is None else current.commit
        try:
            refs.set(name, digest, expected=expected, actor=actor, reason=f"packed as version {version}")
        except RefConflict:
            continue
        return

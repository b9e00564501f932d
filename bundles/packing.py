"""Packing: from a folder with a `bundle.toml` to a signed bundle with a version.

The model is loaded by the same runner that will serve it, from the blobs that will be served; the golden examples, and
the expected distribution of the signals, are what that runner answered. Where a run was recorded, the packed files are
compared with those that it made: what was changed since stands in the provenance as declared.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
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
    DATA_PREFIX,
    FLOOR,
    LOCK,
    MODEL_PREFIX,
    PROVENANCE,
    RUN,
    RUN_LOG,
    SERVING_LOCK,
    SOURCE,
)
from bundles.content import Kind, executable
from bundles.data import carried_file
from bundles.digest import canonical_json, sha256_bytes
from bundles.environments import Built
from bundles.errors import RecipeError, RefConflict
from bundles.home import Home
from bundles.loading import allow_types
from bundles.manifest import (
    CODE_TYPE,
    CONFIG_TYPE,
    DATASET_TYPE,
    DOCUMENT_TYPE,
    Descriptor,
    Manifest,
    media_type_of,
)
from bundles.process import RunnerProcess, describe, reproduces_golden
from bundles.recipe import FUNCTIONS, GOLDEN_ROWS, Recipe, completed, read_recipe, weights_of
from bundles.recording import FOLDER, author, who
from bundles.refs import GitRefs, check_name
from bundles.runner import golden
from bundles.store import OciStore

Array = np.ndarray[Any, Any]
FILES_MAX = 10_000
MAIN = "main"
LEFT_OUT = (FOLDER, "__pycache__", ".git", ".venv")
FLOOR_FILE = "floor.json"
"""Beside what was recorded: what runs with other seeds came to."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What was packed."""

    digest: str
    model: str
    version: str


@dataclass(frozen=True, slots=True)
class Examples:
    """The golden examples: what the runner was asked, and what it answered."""

    config: Mapping[str, Any]
    inputs: dict[str, Array]
    outputs: dict[str, Array]

    def golden(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return both, as a bundle does."""
        return self.inputs, self.outputs


def pack(
    home: Home,
    directory: Path,
    *,
    model: str | None = None,
    parents: Sequence[str] = (),
    branch: str | None = None,
    origin: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Packed:
    """Pack a folder as the next version of a model, and move a branch there: `main`, if none is named.

    What was the head of a branch that is named becomes a parent, unless parents are named. `origin`: see `adapters`.

    Raises:
        RecipeError: the folder is not as it must be.
        EnvironmentFailed: the packages that it requires can't be installed.
        RunnerFailed: the model can't be loaded, or fails on its own examples.
    """
    recipe = read_recipe(directory)
    name = _name(recipe, model)
    head = _head_ref(name, branch)
    home.make()
    store, refs, keys = home.store(), home.refs(), home.keys()
    parent_digests = [refs.resolve(parent)[0] for parent in parents] or _head(refs, head, branch)
    run = _recorded(directory)
    actor = author(run.get("who") or who(directory))
    created = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    text, summary = _lock(directory, run)
    model_layers = _model_layers(store, recipe)
    own = own_environment(home, recipe, say)
    facts = {
        "created": created,
        "authors": [actor],
        "metrics": recipe.metrics | metrics(directory),
        "parents": parent_digests,
        "environment": summary,
        "executable": bool(_executable(recipe, model_layers, own)),
        "model": name,
    }
    described, examples, baseline = _tried(home, model_layers, recipe, facts, own, say)
    say("writing the bundle")
    changed = _not_from(run, model_layers)
    if run and changed:
        say(f"not made by the recorded run, and declared as such: {', '.join(sorted(changed))}")
    signer = keys.signer()
    predicate = provenance.predicate(
        run,
        files=changed,
        lock_digest=sha256_bytes(text.encode()),
        parents=parent_digests,
        author=actor,
        created=created,
        builder=f"snowgate:key:{signer.public_key.keyid}",
        origin=origin,
    )
    layers = [
        *model_layers,
        *_golden_layers(store, examples),
        store.add_blob(orjson.dumps(baseline.to_json()), DOCUMENT_TYPE, BASELINE),
        store.add_blob(text.encode(), CODE_TYPE, LOCK),
        *([] if own is None else [store.add_blob(own.lock.encode(), CODE_TYPE, SERVING_LOCK)]),
        *(_run_layers(store, directory / FOLDER, run) if run else ()),
        store.add_blob(orjson.dumps(predicate), DOCUMENT_TYPE, PROVENANCE),
    ]
    digest = store.add_manifest(Manifest(described, tuple(layers)))
    store.attach(digest, signing.sign(digest, name, provenance.PREDICATE_TYPE, predicate, signer))
    version = refs.claim_version(name, digest, actor=actor, details={"created": created})
    _move_head(refs, head, digest, actor, version)
    return Packed(digest, name, version)


def _name(recipe: Recipe, model: str | None) -> str:
    name = model or recipe.model
    if name is None:
        raise RecipeError(f'{recipe.directory / "bundle.toml"}: has no model = "…"; give a name with --model')
    return name


def configuration(recipe: Recipe) -> dict[str, Any]:
    """Return what a runner has to know of a folder that can be packed, as `config.json` has it."""
    return {
        "schema": 1,
        "loader": recipe.loader,
        "entrypoint": recipe.entrypoint,
        "weights": weights_of(recipe),
        "parameters": recipe.parameters,
        "max_batch_size": recipe.max_batch_size,
        "inputs": [spec.to_json() for spec in recipe.inputs],
        "outputs": [spec.to_json() for spec in recipe.outputs],
        "tolerance": recipe.tolerance,
        **_functions(recipe),
    }


def _functions(recipe: Recipe) -> dict[str, Any]:
    """Return the bundle's own functions around its model, where it brings any."""
    found: dict[str, Any] = {}
    for function, side in FUNCTIONS.items():
        if getattr(recipe, function) is not None:
            found[function] = getattr(recipe, function)
            found[side] = [spec.to_json() for spec in getattr(recipe, side)]
    return found


def _canonical(recipe: Recipe, config: Mapping[str, Any]) -> bytes:
    try:
        return canonical_json(config)
    except ValueError as error:
        path = recipe.directory / "bundle.toml"
        msg = f"{path}: parameters and metrics: {error}; expected text, whole numbers up to 2^53 and finite numbers"
        raise RecipeError(msg) from error


def _executable(recipe: Recipe, layers: Sequence[Descriptor], own: Built | None) -> dict[Kind, list[str]]:
    config = {"loader": recipe.loader, "entrypoint": recipe.entrypoint, **_functions(recipe)}
    return executable(config, [str(layer.path) for layer in layers], own_environment=own is not None)


def own_environment(home: Home, recipe: Recipe, say: Callable[[str], None]) -> Built | None:
    """Make the environment that the recipe requires, if any. Raises EnvironmentFailed."""
    if recipe.requirements is None:
        return None
    say(f"building the environment of {recipe.requirements}")
    return home.environments().resolve(recipe.directory / recipe.requirements, recipe.python, say)


def _tried(
    home: Home,
    layers: Sequence[Descriptor],
    recipe: Recipe,
    facts: Mapping[str, Any],
    own: Built | None,
    say: Callable[[str], None],
) -> tuple[Descriptor, Examples, Baseline]:
    """Write the configuration, and let the model answer as it will be served: from the blobs of these layers."""
    store, python = home.store(), sys.executable if own is None else str(own.python)
    with tempfile.TemporaryDirectory(prefix="snowgate-pack-") as folder:
        unpacked = Path(folder)
        for layer in layers:
            store.copy(layer, unpacked / str(layer.path))
        allow_types(recipe.loader, home.policy().types, unpacked)
        whole = completed_by_file(recipe, unpacked, python, say)
        config = {**configuration(whole), **facts}
        described = store.add_blob(_canonical(whole, config), CONFIG_TYPE)
        store.copy(described, unpacked / "config.json")
        return described, *_measure(unpacked, whole, config, python, say)


def completed_by_file(recipe: Recipe, unpacked: Path, python: str, say: Callable[[str], None]) -> Recipe:
    """Take from the model's own file what bundle.toml leaves out, where the format carries it."""
    if not recipe.asks_the_file:
        return recipe
    say(f"reading what {weights_of(recipe)} takes and answers ({recipe.loader})")
    config = unpacked / "config.json"
    config.write_bytes(orjson.dumps({"loader": recipe.loader, "weights": weights_of(recipe)}))
    whole = completed(recipe, describe(unpacked, python))
    config.unlink()
    if not any(one.semantic for one in (*whole.model_outputs, *whole.outputs)):
        names = ", ".join(one.name for one in whole.outputs)
        say(f"no output has a semantic ({names}): monitors follow the inputs only; say in bundle.toml what it means")
    return whole


def _measure(
    unpacked: Path, recipe: Recipe, config: Mapping[str, Any], python: str, say: Callable[[str], None]
) -> tuple[Examples, Baseline]:
    """Load the model as it will be served, and let it answer the golden examples and the holdout."""
    holdout = recipe.rows(recipe.holdout)
    chosen = recipe.rows(recipe.golden) if recipe.golden else holdout
    chosen = {name: array[:GOLDEN_ROWS] for name, array in chosen.items()}
    rows = len(next(iter(holdout.values())))
    say(f"loading the model ({recipe.loader})")
    with RunnerProcess(unpacked, python) as runner:
        examples = Examples(config, chosen, runner.predict(chosen)[0])
        report = reproduces_golden(examples, runner)
        if not report.agrees:
            raise RecipeError(
                f"{recipe.directory}: the model answers the same rows differently when asked again: {report}; "
                "take chance out of it (eval mode, a fixed seed), or state a wider tolerance in bundle.toml"
            )
        say(f"measuring the expected distribution of its signals on {rows} rows of the holdout")
        parts: dict[str, list[Array]] = {}
        for first in range(0, rows, recipe.max_batch_size):
            batch = {name: array[first : first + recipe.max_batch_size] for name, array in holdout.items()}
            for signal, values in runner.predict(batch)[1].items():
                parts.setdefault(signal, []).append(values)
    return examples, measure({name: np.concatenate(values) for name, values in parts.items()}, "holdout")


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


def _run_layers(store: OciStore, folder: Path, run: Mapping[str, Any]) -> list[Descriptor]:
    floor = folder / FLOOR_FILE
    carried = [one for one in run["data"] if one["in_bundle"]]
    return [
        *(store.add_blob(carried_file(folder, one), DATASET_TYPE, DATA_PREFIX + one["name"]) for one in carried),
        *([store.add_blob(floor, DOCUMENT_TYPE, FLOOR)] if floor.exists() else []),
        store.add_blob(orjson.dumps(run, option=orjson.OPT_INDENT_2), DOCUMENT_TYPE, RUN),
        store.add_blob(folder / "source.tar", CODE_TYPE, SOURCE),
        store.add_blob(folder / "log.txt", DOCUMENT_TYPE, RUN_LOG),
    ]


def _not_from(run: Mapping[str, Any], layers: Sequence[Descriptor]) -> dict[str, str]:
    """Return the digests of those packed files, by path, that no recorded run made: without a run, of all."""
    made = {(MODEL_PREFIX + one["name"], one["sha256"]) for one in run.get("outputs", ())}
    return {str(one.path): one.digest for one in layers if (one.path, one.digest) not in made}


def _golden_layers(store: OciStore, examples: Examples) -> list[Descriptor]:
    layers = []
    text: dict[str, dict[str, Any]] = {}
    sides = (("inputs", golden.INPUTS, examples.inputs), ("outputs", golden.OUTPUTS, examples.outputs))
    for side, path, arrays in sides:
        numbers = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array.dtype.kind not in "OSU"}
        layers.append(store.add_blob(save(numbers), DATASET_TYPE, path))
        for name, array in arrays.items():
            if name not in numbers:
                data = [(one.encode() if isinstance(one, str) else one).hex() for one in array.ravel().tolist()]
                text.setdefault(side, {})[name] = {"shape": list(array.shape), "data": data}
    if text:
        layers.append(store.add_blob(orjson.dumps(text), DATASET_TYPE, golden.TEXT))
    return layers


def _recorded(directory: Path) -> dict[str, Any]:
    """Return the facts of the run that made this folder; `{}` when none was recorded. Raises RecipeError."""
    folder = directory / FOLDER
    if not (folder / "run.json").exists():
        return {}
    try:
        run = orjson.loads((folder / "run.json").read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise RecipeError(f"{folder / 'run.json'}: {error}; record the run again, or remove {folder}") from error
    missing = [name for name in ("source.tar", "log.txt", "pylock.toml") if not (folder / name).exists()]
    if missing or not isinstance(run, dict) or run.get("schema") != 1:
        lacks = f"without {', '.join(missing)}" if missing else "not of schema 1"
        raise RecipeError(f"{folder}: a recorded run {lacks}; record the run again, or remove {folder}")
    return run


def _lock(directory: Path, run: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if run:
        return (directory / FOLDER / "pylock.toml").read_text(), run["environment"]
    return environment.lock()


def metrics(directory: Path) -> dict[str, float]:
    """Return the numbers in a folder's `metrics.json`; none where there is no such file. Raises RecipeError."""
    path = directory / "metrics.json"
    if not path.exists():
        return {}
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise RecipeError(f"{path}: {error}; expected an object of numbers") from error
    if not isinstance(found, dict) or not all(type(value) in (int, float) for value in found.values()):
        raise RecipeError(f"{path}: expected an object of numbers")
    return found


def _head_ref(model: str, branch: str | None) -> str:
    return f"refs/heads/{check_name('model', model)}/{check_name('branch', branch or MAIN)}"


def _head(refs: GitRefs, head: str, branch: str | None) -> list[str]:
    """Return what a branch that was named leads to: what is packed now goes on from there."""
    ref = None if branch is None else refs.get(head)
    return [] if ref is None or ref.digest is None else [ref.digest]


def _move_head(refs: GitRefs, head: str, digest: str, actor: str, version: str) -> None:
    """A branch follows what was packed on it last; who comes second moves it again."""
    while True:
        current = refs.get(head)
        expected = None if current is None else current.commit
        try:
            refs.set(head, digest, expected=expected, actor=actor, reason=f"packed as version {version}")
        except RefConflict:
            continue
        return

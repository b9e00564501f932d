"""`bundle.toml`: what the packer can't see for itself. See docs/bundles.md for every key.

loader = "torch"                  # or "python"
entrypoint = "model:build"        # module:factory, or module:Class with load(directory) and predict(inputs)
holdout = "holdout.npz"           # rows to measure the expected distributions on
inputs = [{ name = "image", datatype = "FP32", shape = [-1, 784] }]
outputs = [{ name = "logits", datatype = "FP32", shape = [-1, 10], semantic = "logits" }]
"""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bundles.errors import RecipeError
from bundles.formats import ENTRYPOINT, FORMATS, is_pickle
from bundles.schema import DATATYPES, TensorSpec, is_batched
from bundles.tensors import Table, columns, filled, read_tables, read_tensors, suggestion

FILE = "bundle.toml"
GOLDEN_ROWS = 8
KEYS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "loader": (str,),
    "entrypoint": (str,),
    "weights": (str,),
    "max_batch_size": (int,),
    "holdout": (str,),
    "golden": (str,),
    "tolerance": (int, float, dict),
    "parameters": (dict,),
    "metrics": (dict,),
    "requirements": (str,),
    "python": (str,),
    "inputs": (list,),
    "outputs": (list,),
    "preprocess": (str,),
    "postprocess": (str,),
    "model_inputs": (list,),
    "model_outputs": (list,),
}
FUNCTIONS = {"preprocess": "model_inputs", "postprocess": "model_outputs"}
"""The bundle's own functions around its model, and where it declares what stands between them and the model."""
TOML_WORDS = {str: "text", int: "a whole number", float: "a number", dict: "a table", list: "a list of tables"}
ENTRYPOINT_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
PYTHON = re.compile(r"3\.\d{1,2}")
PLAIN = tuple(key for key in KEYS if key not in ("tolerance", "metrics", *FUNCTIONS.values(), "inputs", "outputs"))
"""Keys that are taken as they are."""
REQUIRED = ("loader", "holdout")
TENSORS = ("inputs", "outputs")
TOLERANCE = 1e-4
"""By default: what another processor, or a newer framework, changes in a float32 network's answers."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A parsed bundle.toml; paths are relative to its folder."""

    directory: Path
    loader: str
    holdout: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    entrypoint: str | None = None
    model: str | None = None
    weights: str | None = None
    golden: str | None = None
    max_batch_size: int = 64
    tolerance: dict[str, float] = field(default_factory=lambda: {"absolute": TOLERANCE, "relative": TOLERANCE})
    parameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    requirements: str | None = None
    python: str | None = None
    preprocess: str | None = None
    postprocess: str | None = None
    model_inputs: tuple[TensorSpec, ...] = ()
    model_outputs: tuple[TensorSpec, ...] = ()
    tables: Mapping[str, Sequence[Table]] = field(default_factory=dict)
    """What is said of the tensors, by side, as long as the model's file was not asked for the rest."""

    @property
    def asks_the_file(self) -> bool:
        """Whether the model's own file says what its tensors are."""
        return FORMATS[self.loader].self_describing

    def rows(self, name: str) -> dict[str, Array]:
        """Read a file of example rows (`holdout` or `golden`): one array an input, rows first.

        Raises:
            RecipeError: naming the file, the array, what is there and what was expected.
        """
        path = self.directory / name
        arrays = read_arrays(path)
        if len(arrays) == 1 and len(self.inputs) == 1:
            arrays = {self.inputs[0].name: next(iter(arrays.values()))}
        found = {}
        for spec in self.inputs:
            if spec.name not in arrays:
                have = ", ".join(arrays) or "nothing"
                raise RecipeError(f"{path}: has arrays {have}, expected one named '{spec.name}', as the input")
            found[spec.name] = self._checked(path, spec, arrays[spec.name])
        counts = {name: len(array) for name, array in found.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise RecipeError(f"{path}: rows of its arrays: {counts}, expected the same number in all, at least 1")
        return found

    def _checked(self, path: Path, spec: TensorSpec, array: Array) -> Array:
        row = spec.shape[1:] if is_batched(self.inputs) else spec.shape
        fits = array.ndim == len(row) + 1 and all(
            want in (-1, got) for want, got in zip(row, array.shape[1:], strict=True)
        )
        if not fits:
            expected = ["rows", *row]
            raise RecipeError(f"{path}: array '{spec.name}' has shape {list(array.shape)}, expected {expected}")
        if spec.datatype == "BYTES":
            if array.dtype.kind not in "SU":
                raise RecipeError(f"{path}: array '{spec.name}' is {array.dtype}, expected text or bytes for BYTES")
            return array
        dtype = DATATYPES[spec.datatype][0]
        if array.dtype != dtype and not np.can_cast(array.dtype, dtype, "same_kind"):
            raise RecipeError(f"{path}: array '{spec.name}' is {array.dtype}, expected {dtype} for {spec.datatype}")
        converted = array.astype(dtype)
        if array.dtype.kind in "iu" and not np.array_equal(converted, array):
            raise RecipeError(
                f"{path}: array '{spec.name}' is {array.dtype} with values that {spec.datatype} can't hold"
            )
        return converted


def read_recipe(directory: Path) -> Recipe:
    """Read `bundle.toml` in a folder. Raises RecipeError."""
    path = directory / FILE
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: not found; a folder to pack holds a bundle.toml, see docs/bundles.md") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    _check_keys(path, document)
    sides = [side for side in (*TENSORS, *FUNCTIONS.values()) if side in document]
    plain = {key: document[key] for key in PLAIN if key in document}
    recipe = Recipe(
        directory=directory,
        tolerance=_tolerance(path, document.get("tolerance", TOLERANCE)),
        metrics=_numbers(path, "metrics", document.get("metrics", {})),
        **plain,
    )
    if recipe.asks_the_file:
        tables = {side: read_tables(path, side, document[side], ("name",)) for side in sides}
        recipe = replace(recipe, tables=tables)
    else:
        specs: dict[str, Any] = {side: read_tensors(path, side, document[side]) for side in sides}
        recipe = replace(recipe, **specs)
        _check_functions(path, recipe)
    _check_files(path, recipe)
    return recipe


def completed(recipe: Recipe, described: Mapping[str, Any]) -> Recipe:
    """Return the recipe with all tensors, by what the model's file carries (`process.describe`). Raises RecipeError."""
    path, tables = recipe.directory / FILE, recipe.tables
    takes, answers = (
        between if getattr(recipe, function) else side
        for side, (function, between) in zip(TENSORS, FUNCTIONS.items(), strict=True)
    )
    for side in TENSORS:
        if side not in (takes, answers) and side not in tables:
            raise RecipeError(f"{path}: '{side}' is missing: what clients see of a model with functions around it")
    carried = {takes: list(described["inputs"]), answers: list(described["outputs"])}
    if takes == "inputs" and takes not in tables:
        carried[takes] = columns(described, read_arrays(recipe.directory / recipe.holdout)) or carried[takes]
    elif described["columns"]:
        datatype = carried[takes][0]["datatype"]
        carried[takes] += [{"name": name, "datatype": datatype, "shape": [-1]} for name in described["columns"]]
    specs: dict[str, Any] = {
        side: filled(path, side, tables.get(side, ()), carried.get(side, ())) for side in {*tables, *carried}
    }
    whole = replace(recipe, **specs)
    _check_functions(path, whole)
    return whole


def weights_of(recipe: Recipe) -> str | None:
    """Return the weights' file: the one that is named, or the only one that is called as this loader's are.

    Raises RecipeError.
    """
    known, path = FORMATS[recipe.loader], recipe.directory / FILE
    if not known.names:
        return recipe.weights
    examples = {recipe.holdout, recipe.golden}
    names = [one.relative_to(recipe.directory).as_posix() for one in sorted(recipe.directory.rglob("*"))]
    found = [recipe.weights] if recipe.weights else [name for name in names if _called(name, known.names)]
    found = [name for name in found if name not in examples]
    pickles = [name for name in (found if recipe.weights else names) if is_pickle(name)]
    if pickles and (recipe.weights or not found):
        raise RecipeError(
            f"{recipe.directory / pickles[0]}: a pickle, which runs code when it is read, so the loader "
            f"'{recipe.loader}' reads none; write {known.written_by}, or wrap it in a class, with loader = \"python\""
        )
    if len(found) != 1:
        have = ", ".join(found) or "none"
        expected = " or ".join(known.names)
        raise RecipeError(f'{path}: files called {expected}: {have}; name one with weights = "…"')
    return found[0]


def _called(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name.rpartition("/")[2], one) for one in patterns)


def _check_keys(path: Path, document: Mapping[str, Any]) -> None:
    for key, value in document.items():
        if key not in KEYS:
            raise RecipeError(f"{path}: unknown key '{key}'; {suggestion(key, KEYS)}")
        if type(value) not in KEYS[key]:
            expected = " or ".join(TOML_WORDS[kind] for kind in KEYS[key])
            raise RecipeError(f"{path}: {key} = {value!r}, expected {expected}")
    for key in REQUIRED:
        if key not in document:
            raise RecipeError(f"{path}: '{key}' is missing, see docs/bundles.md")
    _check_loader(path, document)
    for key in ("entrypoint", *FUNCTIONS):
        if key in document and not ENTRYPOINT_FORM.fullmatch(document[key]):
            raise RecipeError(f'{path}: {key} {document[key]!r}, expected module:name, such as "model:build"')
    python = document.get("python")
    if python is not None and not PYTHON.fullmatch(python):
        raise RecipeError(f'{path}: python = {python!r}, expected such as "3.10"')
    if python is not None and "requirements" not in document:
        raise RecipeError(f"{path}: python = {python!r} needs requirements = …, the packages that this one shall have")
    if document.get("max_batch_size", 1) < 1:
        raise RecipeError(f"{path}: max_batch_size = {document['max_batch_size']}, expected a whole number above 0")


def _check_loader(path: Path, document: Mapping[str, Any]) -> None:
    loader = document["loader"]
    known = FORMATS.get(loader)
    if known is None:
        raise RecipeError(f"{path}: loader {loader!r}, expected one of {', '.join(FORMATS)}")
    needed = (*(("entrypoint",) if loader in ENTRYPOINT else ()), *(() if known.self_describing else TENSORS))
    for key in needed:
        if key not in document:
            raise RecipeError(f"{path}: '{key}' is missing, see docs/bundles.md")
    for key in ("entrypoint", "parameters"):
        if key in document and loader not in ENTRYPOINT:
            raise RecipeError(f"{path}: {key} is for a bundle's own code, and the loader '{loader}' calls none")


def _numbers(path: Path, key: str, table: Mapping[str, Any]) -> dict[str, float]:
    for name, value in table.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise RecipeError(f"{path}: {key}: {name} = {value!r}, expected a finite number")
    return dict(table)


def _tolerance(path: Path, value: Any) -> dict[str, float]:
    both = value if isinstance(value, Mapping) else {"absolute": value, "relative": value}
    if set(both) != {"absolute", "relative"}:
        raise RecipeError(f"{path}: tolerance = {value!r}, expected a number, or absolute and relative")
    if min(_numbers(path, "tolerance", both).values()) < 0:
        raise RecipeError(f"{path}: tolerance = {value!r}, expected 0 or more")
    return {name: float(one) for name, one in both.items()}


def _check_functions(path: Path, recipe: Recipe) -> None:
    """A function and the tensors between it and the model come together, and agree with what clients see."""
    for function, side in FUNCTIONS.items():
        if (getattr(recipe, function) is None) != (not getattr(recipe, side)):
            msg = f"{path}: {function} = {getattr(recipe, function)!r}: with it, and only with it, {side} are declared"
            raise RecipeError(msg)
    if recipe.model_inputs and is_batched(recipe.model_inputs) != is_batched(recipe.inputs):
        raise RecipeError(
            f"{path}: inputs and model_inputs: expected a leading -1 in the shape of all of them, or of none"
        )
    followed = [spec.name for spec in (*recipe.model_outputs, *recipe.outputs) if spec.semantic is not None]
    for name in followed:
        if followed.count(name) > 1:
            msg = f"{path}: output '{name}' has a semantic before and after postprocess; let one of them have it"
            raise RecipeError(msg)


def _check_files(path: Path, recipe: Recipe) -> None:
    for key in ("holdout", "golden", "weights", "requirements"):
        name = getattr(recipe, key)
        if name is None:
            continue
        target = (recipe.directory / name).resolve()
        if not target.is_relative_to(recipe.directory.resolve()) or not target.is_file():
            raise RecipeError(f"{path}: {key} = {name!r}: no such file in {recipe.directory}")


def read_arrays(path: Path) -> dict[str, Array]:
    """Read all arrays of a file; numpy tells one array from an archive of them by the content. Raises RecipeError."""
    if path.suffix not in (".npz", ".npy", ".safetensors"):
        raise RecipeError(f"{path}: expected a .npz, .npy or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        # Opened here: numpy forgets to close a file that turns out to be broken.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"rows": loaded}
            with loaded as archive:
                return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile, SafetensorError) as error:
        raise RecipeError(f"{path}: can't be read: {error}") from error

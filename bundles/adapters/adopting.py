"""Adopting: a model that was found elsewhere, and a recipe for it, packed as a bundle.

What the packer can't see (rows to measure on, what outputs mean) stands in a recipe: a folder with a `bundle.toml`
without `loader` and `weights`, which follow from the file of weights. A model that came from a bundle brings its own.
"""

import shutil
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from bundles import secrets
from bundles.adapters.found import Found
from bundles.content import NAMING_CODE, executable
from bundles.errors import AdapterError, UnknownReference
from bundles.formats import FORMATS
from bundles.home import Home
from bundles.packing import Packed, pack
from bundles.recipe import FILE

DATA_LOADER = "onnx"
"""Of this loader nothing runs but what its files are."""


def adopt(
    home: Home,
    found: Found,
    *,
    recipe: Path | None,
    model: str | None,
    allow_code: bool,
    say: Callable[[str], None] = lambda _text: None,
) -> Packed:
    """Pack what was found as the next version of a model.

    Raises:
        AdapterError: it holds what would run here, and `allow_code` is not given, or it can't be told what it is.
        RecipeError: the recipe is not as it must be.
        RunnerFailed: the model can't be loaded, or fails on its own examples.
    """
    with tempfile.TemporaryDirectory(prefix="snowgate-adopt-") as name:
        folder = Path(name)
        for path, file in found.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        if recipe is not None:
            _check_names(found, recipe)
            shutil.copytree(recipe, folder, dirs_exist_ok=True)
        document = _document(folder / FILE, found.uri)
        runs = _runs(found, document, own_recipe=recipe is None)
        if runs and not allow_code:
            raise AdapterError(
                f"{found.uri}: {', '.join(runs)} would run here, with your rights and under your signature; look at "
                "it, and say --allow-code, or save the model in a format without code (safetensors, ONNX, skops, ubj)"
            )
        _complete(document, found)
        (folder / FILE).write_text(tomli_w.dumps(document))
        parents = _parents(home, found)
        return pack(home, folder, model=model, parents=parents, origin=_origin(found), say=say)


def _check_names(found: Found, recipe: Path) -> None:
    both = [path for path in found.files if path != FILE and (recipe / path).exists()]
    if both:
        raise AdapterError(f"{recipe}: {', '.join(both)}: the model has a file of that name too; give it another one")


def _document(path: Path, uri: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(
            f"{uri}: a bundle needs rows to measure on, at least: give --recipe FOLDER, with a bundle.toml that "
            'has holdout = "rows.npz", and that file; see docs/adapters.md'
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise AdapterError(f"{path.name} of {uri}: {error}") from error


def _complete(document: dict[str, Any], found: Found) -> None:
    """Fill in what follows from the file of weights, and from a signature where the file does not say it."""
    weights = found.weights()
    if "loader" not in document:
        if weights is None:
            raise AdapterError(
                f"{found.uri}: no file of weights that a loader reads, or several: {', '.join(found.files)}; "
                f"say loader = and weights = in bundle.toml, one of {', '.join(FORMATS)}"
            )
        document["loader"], document["weights"] = weights
    format_ = FORMATS.get(document["loader"])
    if format_ is not None and not format_.self_describing:
        for side, tensors in found.tensors.items():
            document.setdefault(side, tensors)


def _runs(found: Found, document: Mapping[str, Any], *, own_recipe: bool) -> list[str]:
    """Say what of the model itself, not of the operator's recipe, would run."""
    kinds = executable({"loader": DATA_LOADER}, found.files, own_environment=False)
    # Types in skops files are refused by their names when the model is loaded, unless the policy trusts them.
    runs = [path for kind, paths in kinds.items() if kind != "types" for path in paths]
    runs += [path for path, file in found.files.items() if path not in runs and _is_pickle(file)]
    if own_recipe:
        runs += [f"{key} {document[key]}" for key in (*NAMING_CODE, "requirements") if key in document]
    return runs


def _is_pickle(file: Path) -> bool:
    """Say whether it is a pickle, whatever it is called: protocols 2 to 5 begin with their number."""
    with file.open("rb") as content:
        first = content.read(2)
    return len(first) == 2 and first[0] == 0x80 and 2 <= first[1] <= 5


def _parents(home: Home, found: Found) -> list[str]:
    """Return the bundle that it was made from, where this home has it."""
    if found.bundle is None:
        return []
    try:
        home.store().manifest(found.bundle)
    except UnknownReference:
        return []
    return [found.bundle]


def _origin(found: Found) -> dict[str, Any]:
    facts = {**found.facts, **({"bundle": found.bundle} if found.bundle else {})}
    return {"uri": found.uri, "facts": _without_secrets(facts)}


def _without_secrets(value: Any) -> Any:
    """Leave out what is named as secrets are: a bundle travels, and what it says stays."""
    if isinstance(value, dict):
        return {name: _without_secrets(one) for name, one in value.items() if not secrets.NAME.search(str(name))}
    return [_without_secrets(one) for one in value] if isinstance(value, list) else value

"""The tensors of a recipe: what `bundle.toml` says of them, and what it leaves to the model's own file.

A format that carries names, shapes and types is asked for them in the runner, in the bundle's own environment. What
the author wrote wins, and is held against the file when it is loaded.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from bundles.errors import RecipeError
from bundles.schema import DATATYPES, TensorSpec

Array = np.ndarray[Any, Any]
Table = Mapping[str, Any]
NEEDED = ("name", "datatype", "shape")
OPTIONAL = {
    "inputs": {"content_type"},
    "model_inputs": set[str](),
    "model_outputs": {"semantic", "labels"},
    "outputs": {"semantic", "labels"},
}
"""What may stand in a tensor's table beside name, datatype and shape."""


def read_tables(path: Path, side: str, entries: Sequence[Any], needed: Sequence[str] = NEEDED) -> list[Table]:
    """Check the tables of one side; `needed` is what each must have. Raises RecipeError."""
    if not entries:
        raise RecipeError(f"{path}: {side}: expected at least one table with {', '.join(needed)}")
    allowed = {*NEEDED, *OPTIONAL[side]}
    for position, entry in enumerate(entries):
        where = f"{path}: {side}[{position}]"
        if not isinstance(entry, Mapping):
            raise RecipeError(f"{where}: {entry!r}, expected a table with {', '.join(sorted(allowed))}")
        for key in sorted(set(entry) - allowed):
            raise RecipeError(f"{where}: unknown key '{key}'; {suggestion(key, allowed)}")
        for key in needed:
            if key not in entry:
                raise RecipeError(f"{where}: '{key}' is missing")
        if not isinstance(entry["name"], str) or not entry["name"]:
            raise RecipeError(f"{where}: name = {entry['name']!r}, expected text")
        shape, labels = entry.get("shape", []), entry.get("labels", [])
        if not isinstance(shape, list) or not isinstance(labels, list):
            raise RecipeError(f"{where}: shape = {shape!r}, labels = {labels!r}, expected lists")
        if not isinstance(entry.get("content_type", ""), str):
            raise RecipeError(f"{where}: content_type = {entry['content_type']!r}, expected text")
    names = [entry["name"] for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"{path}: {side}: the name '{name}' stands twice")
    return list(entries)


def read_tensors(path: Path, side: str, entries: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """Return the tensors of one side, of tables that say all. Raises RecipeError."""
    specs = []
    for position, entry in enumerate(read_tables(path, side, entries)):
        try:
            specs.append(TensorSpec(**entry))
        except RecipeError as error:
            raise RecipeError(f"{path}: {side}[{position}]: {error}") from error
    return tuple(specs)


def filled(path: Path, side: str, entries: Sequence[Table], carried: Sequence[Table]) -> tuple[TensorSpec, ...]:
    """Fill in what the tables leave out by what the model's file carries; without tables, take all that it carries.

    Raises RecipeError where a table leaves out what the file does not say either.
    """
    known = {one["name"]: one for one in carried}
    whole = []
    for entry in entries or carried:
        own = known.get(entry["name"], {})
        missing = [key for key in NEEDED if key not in entry and key not in own]
        if missing:
            raise RecipeError(
                f"{path}: {side}: '{entry['name']}' without {' and '.join(missing)}, and the model's file has no such "
                f"{side.removesuffix('s')}; it has {', '.join(known) or 'none'}"
            )
        whole.append({key: value for key, value in (*own.items(), *entry.items()) if key in {*NEEDED, *OPTIONAL[side]}})
    return read_tensors(path, side, whole)


def columns(described: Mapping[str, Any], arrays: Mapping[str, Array]) -> list[Table] | None:
    """Return one input a column, of the type that the example rows have, where they have an array for each by name."""
    names = described["columns"]
    if not names or not set(names) <= arrays.keys():
        return None
    return [{"name": name, "datatype": _datatype(arrays[name].dtype), "shape": [-1]} for name in names]


def suggestion(key: str, known: Iterable[str]) -> str:
    """Say which word was perhaps meant.

    >>> suggestion("golde", ["golden", "holdout"])
    "did you mean 'golden'?"
    """
    close = get_close_matches(key, known, 1)
    return f"did you mean '{close[0]}'?" if close else f"expected one of {', '.join(sorted(known))}"


def _datatype(dtype: np.dtype[Any]) -> str:
    """Return the protocol's name for a numpy type; another one is refused where it is declared, by its own name."""
    if dtype.kind in "SU":
        return "BYTES"
    names = {kind: name for name, (kind, _size) in DATATYPES.items() if name != "BF16"}
    return names.get(dtype.newbyteorder("<"), str(dtype))

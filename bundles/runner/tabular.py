"""Models of tables: they take a matrix, a row an example and a column a feature.

A bundle declares either that one matrix, or one input a feature. With names in the model's file inputs are brought
into its order by them; without names their own order is that of the columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .declared import LoadError, Refused, Spec
from .loaded import spec

Array = np.ndarray[Any, Any]
MATRIX = "features"
"""What the input is called where nobody says otherwise."""


@dataclass(frozen=True)
class Features:
    """What a model's file says of its columns: how many, their names where it has any, and the type of its numbers."""

    file: Path
    count: int
    names: Sequence[str]
    datatype: str

    def matrix(self) -> list[dict[str, Any]]:
        """Return the one input that takes all of them."""
        return [spec(MATRIX, self.datatype, [-1, self.count])]

    def order(self, inputs: Sequence[Spec]) -> list[str] | None:
        """Return the inputs in the order of the columns, None for a matrix. Raises LoadError."""
        if len(inputs) == 1 and inputs[0]["shape"] == [-1, self.count]:
            return None
        given = [str(one["name"]) for one in inputs]
        flat = all(one["shape"] in ([-1], [-1, 1]) for one in inputs)
        if flat and len(given) == self.count and (not self.names or set(given) == set(self.names)):
            return list(self.names or given)
        declared = _some([f"{one['name']} {one['shape']}" for one in inputs])
        named = f" ({_some(self.names)})" if self.names else ""
        raise LoadError(
            f"{self.file.name}: has {self.count} features{named}; expected one input of shape [-1, {self.count}], or "
            f"one of shape [-1] for each; declared: {declared}"
        )

    def table(self, inputs: Sequence[Spec]) -> Callable[[Mapping[str, Array]], Array]:
        """Return what makes a matrix of the inputs' arrays. Raises LoadError where they do not fit."""
        order = self.order(inputs) if inputs else None
        if order is None:
            return lambda arrays: next(iter(arrays.values()))
        return lambda arrays: np.column_stack([arrays[name].reshape(-1) for name in order])


def text(name: str, array: Array) -> Array:
    """Return a column of the wire's bytes as text. Raises Refused: what is no UTF-8 is the client's mistake."""
    try:
        return np.array([one.decode() if isinstance(one, bytes) else one for one in array.ravel()], dtype=object)
    except UnicodeDecodeError as error:
        raise Refused(f"{name}: {error}, expected text in UTF-8") from error


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

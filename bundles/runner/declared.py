"""What a bundle declares, held against what its code answers: a wrong answer is an error, and not a wrong record."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .frames import DTYPES

Array = np.ndarray[Any, Any]
Spec = Mapping[str, Any]


class LoadError(Exception):
    """The model can't be loaded, or answered what it did not declare."""


class Refused(Exception):
    """The bundle's `preprocess` refused what the client sent: the client's mistake, in the bundle's words."""


def by_name(answer: Any, specs: Sequence[Spec]) -> dict[str, Any]:
    """Accept a mapping, a sequence in the declared order, or the one output itself. Raises LoadError."""
    names = [spec["name"] for spec in specs]
    if isinstance(answer, Mapping):
        missing = [name for name in names if name not in answer]
        if missing:
            have = ", ".join(map(str, answer)) or "nothing"
            raise LoadError(f"the model answered {have}; missing: {', '.join(missing)}")
        return {name: answer[name] for name in names}
    if len(names) == 1 and not isinstance(answer, tuple):
        return {names[0]: answer}
    if not isinstance(answer, tuple | list) or len(answer) != len(names):
        count = len(answer) if isinstance(answer, tuple | list) else 1
        raise LoadError(f"the model answered {count} outputs, expected {len(names)}: {', '.join(names)}")
    return dict(zip(names, answer, strict=True))


def declared(what: str, array: Array, datatype: str, shape: Sequence[int]) -> Array:
    """Check one array against its declaration, where -1 is any size, and return it in the declared datatype.

    Numbers of the same kind are converted (float64 to FP32, int64 to INT32 where every value fits); another kind is an
    error, not a conversion.
    """
    if len(array.shape) != len(shape) or any(
        want not in (-1, got) for want, got in zip(shape, array.shape, strict=True)
    ):
        raise LoadError(f"{what}: shape {list(array.shape)}, expected {list(shape)}")
    if datatype == "BYTES":
        if array.dtype.kind not in "OSU":
            raise LoadError(f"{what}: numpy type {array.dtype}, expected text or bytes for BYTES")
        return array
    dtype = DTYPES[datatype]
    if array.dtype == dtype:
        return array
    kinds = {"f": "f", "i": "iu", "u": "iu", "b": "b"}[dtype.kind] if datatype != "BF16" else ""
    if array.dtype.kind not in kinds:
        raise LoadError(f"{what}: numpy type {array.dtype}, expected {dtype} for {datatype}")
    with np.errstate(over="ignore"):  # Beyond FP32 is infinite in FP32, and measured as such.
        converted = array.astype(dtype)
    if dtype.kind in "iu" and not (converted == array).all():
        raise LoadError(f"{what}: holds {array.min()} to {array.max()}, which does not fit in {datatype}")
    return converted

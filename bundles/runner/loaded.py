"""A model that is ready, and what its own file says about it.

Some formats carry the names, shapes and types of what they take and answer. A loader of such a format says so in
`Loaded.inputs` and `outputs`, in the form of a bundle's configuration; when a bundle is packed, what its author did
not write is taken from there. When it is loaded, the configuration is held against them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .declared import LoadError, Spec
from .engines import CPU, Predict
from .frames import DTYPES

Array = np.ndarray[Any, Any]
DATATYPES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}


@dataclass(frozen=True)
class Loaded:
    """A model that is ready. `columns` names the features of a table of which `inputs` is the whole matrix."""

    predict: Predict
    platform: str
    engine: str
    inputs: Sequence[Spec] = ()
    outputs: Sequence[Spec] = ()
    columns: Sequence[str] = ()


def spec(name: str, datatype: str, shape: Sequence[int], semantic: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a tensor as a configuration has it."""
    meaning = {} if semantic is None else {"semantic": semantic}
    return {"name": name, "datatype": datatype, "shape": list(shape), **meaning, **more}


def datatype_of(dtype: np.dtype[Any]) -> str | None:
    """Return the protocol's name for a numpy type; None where it has none.

    >>> datatype_of(np.dtype("<f4")), datatype_of(np.dtype("<U3")), datatype_of(np.dtype("c8"))
    ('FP32', 'BYTES', None)
    """
    return "BYTES" if dtype.kind in "OSU" else DATATYPES.get(dtype)


def around_model(config: Mapping[str, Any], side: str) -> Sequence[Spec]:
    """Return what the model itself takes (`inputs`) or answers (`outputs`); nothing while it is still to be said."""
    found: Sequence[Spec] = config.get(f"model_{side}") or config.get(side) or ()
    return found


def agree(file: Path, what: str, declared: Sequence[Spec], carried: Sequence[Spec], *, all_of_them: bool) -> None:
    """Hold declared tensors against those that the file carries. Raises LoadError naming the file and both."""
    known = {one["name"]: one for one in carried}
    for one in declared:
        own = known.get(one["name"])
        if own is None:
            raise LoadError(f"{file.name}: has no {what} '{one['name']}', it has {', '.join(known) or 'none'}")
        shape, other = one["shape"], own["shape"]
        fits = len(shape) == len(other) and all(-1 in (a, b) or a == b for a, b in zip(shape, other, strict=True))
        if one["datatype"] != own["datatype"] or not fits:
            raise LoadError(
                f"{file.name}: {what} '{one['name']}' is {own['datatype']} {other}, "
                f"and declared as {one['datatype']} {shape}"
            )
    missing = known.keys() - {one["name"] for one in declared}
    if all_of_them and declared and missing:
        raise LoadError(f"{file.name}: takes {', '.join(known)}; not declared: {', '.join(sorted(missing))}")


def weights(directory: Path, config: Mapping[str, Any]) -> Path:
    """Return the file of the weights, which lies in the model's folder."""
    return directory / "model" / str(config["weights"])


def only_on_cpu(loader: str, device: str) -> None:
    """Refuse another device, for a framework that computes on the processor. Raises LoadError."""
    if device != CPU:
        raise LoadError(f"loader '{loader}' runs on {CPU}, and the device is {device}; give it [models.NAME] device")

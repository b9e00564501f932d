"""From an unpacked folder to something that predicts.

A loader gives a `Predict`: arrays by input name in, arrays by output name out, rows first on both sides. What the
model returns is checked against what the bundle declares, so that a wrong answer is an error and not a wrong record.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .frames import DTYPES

Array = np.ndarray[Any, Any]
Predict = Callable[[dict[str, Array]], dict[str, Array]]


class LoadError(Exception):
    """The model can't be loaded, or answered what it did not declare."""


@dataclass(frozen=True)
class Loaded:
    """A model that is ready."""

    predict: Predict
    platform: str
    engine: str


def load(directory: Path, config: Mapping[str, Any]) -> Loaded:
    """Load the model in `directory`, as the bundle's configuration says. Raises LoadError, or what its code raises."""
    loader = TABLE.get(config["loader"])
    if loader is None:
        raise LoadError(f"loader {config['loader']!r}, expected one of {', '.join(TABLE)}")
    sys.path.insert(0, str(directory))
    return loader(directory, config)


def _entrypoint(config: Mapping[str, Any]) -> Any:
    module_name, _, attribute = config["entrypoint"].partition(":")
    module = importlib.import_module(module_name)
    found = getattr(module, attribute or "", None)
    if found is None:
        raise LoadError(f"entrypoint {config['entrypoint']!r}: {module.__file__} has no {attribute!r}")
    return found


def load_torch(directory: Path, config: Mapping[str, Any]) -> Loaded:
    """A module factory and safetensors: nothing is unpickled."""
    try:
        import torch
        from safetensors.torch import load_file
    except ImportError as error:
        raise LoadError(
            f"{error}: a torch bundle needs torch and safetensors: pip install 'snowgate[torch]'"
        ) from error
    torch.set_num_threads(1)  # Rows are batched instead; several runners with a thread each beat one with several.
    module = _entrypoint(config)(**config.get("parameters", {}))
    weights = config.get("weights")
    if weights is not None:
        module.load_state_dict(load_file(directory / weights), strict=True)
    module.eval()
    names = [spec["name"] for spec in config["inputs"]]

    def predict(inputs: dict[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            # The arrays look into a frame's bytes, which can't be written to; torch wants memory that can.
            answer = module(*(torch.from_numpy(np.array(inputs[name])) for name in names))
        return _by_name(answer, config["outputs"], lambda tensor: tensor.numpy())

    return Loaded(predict, "pytorch_safetensors", "torch-eager")


def load_python(directory: Path, config: Mapping[str, Any]) -> Loaded:
    """Any class with `load(directory)` and `predict(inputs)`."""
    made = _entrypoint(config)
    model = made(**config.get("parameters", {})) if inspect.isclass(made) else made
    if not hasattr(model, "load") or not hasattr(model, "predict"):
        raise LoadError(
            f"entrypoint {config['entrypoint']!r}: expected a class with load(directory) and predict(inputs)"
        )
    loaded = model.load(directory)
    if hasattr(loaded, "predict"):
        model = loaded

    def predict(inputs: dict[str, Array]) -> dict[str, Array]:
        return _by_name(model.predict(inputs), config["outputs"], np.asarray)

    return Loaded(predict, "python_class", "python")


def _by_name(answer: Any, specs: Sequence[Mapping[str, Any]], to_array: Callable[[Any], Array]) -> dict[str, Array]:
    """Accept a mapping, a sequence in the declared order, or the one output itself."""
    names = [spec["name"] for spec in specs]
    if isinstance(answer, Mapping):
        missing = [name for name in names if name not in answer]
        if missing:
            raise LoadError(f"the model answered {', '.join(answer)}; missing: {', '.join(missing)}")
        return {name: to_array(answer[name]) for name in names}
    if len(names) == 1 and not isinstance(answer, tuple):
        return {names[0]: to_array(answer)}
    if not isinstance(answer, tuple | list) or len(answer) != len(names):
        count = len(answer) if isinstance(answer, tuple | list) else 1
        raise LoadError(f"the model answered {count} outputs, expected {len(names)}: {', '.join(names)}")
    return {name: to_array(part) for name, part in zip(names, answer, strict=True)}


def declared(name: str, array: Array, spec: Mapping[str, Any], rows: int) -> Array:
    """Check one output (rows first) against its declaration and return it in the declared datatype.

    Numbers of the same kind are converted (float64 to FP32); another kind is an error, not a conversion.
    """
    shape = spec["shape"][1:] if spec["shape"][:1] == [-1] else spec["shape"]
    if array.shape[:1] != (rows,) or len(array.shape) != len(shape) + 1:
        raise LoadError(f"output '{name}': shape {list(array.shape)}, expected {[rows, *shape]}")
    if any(want not in (-1, got) for want, got in zip(shape, array.shape[1:], strict=True)):
        raise LoadError(f"output '{name}': shape {list(array.shape)}, expected {[rows, *shape]}")
    if spec["datatype"] == "BYTES":
        if array.dtype.kind not in "OSU":
            raise LoadError(f"output '{name}': numpy type {array.dtype}, expected text or bytes for BYTES")
        return array
    dtype = np.dtype(DTYPES[spec["datatype"]])
    kinds = {"f": "f", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    if array.dtype != dtype and array.dtype.kind not in kinds:
        raise LoadError(f"output '{name}': numpy type {array.dtype}, expected {dtype} for {spec['datatype']}")
    return array.astype(dtype, copy=False)


TABLE: dict[str, Callable[[Path, Mapping[str, Any]], Loaded]] = {"torch": load_torch, "python": load_python}

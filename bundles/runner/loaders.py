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
        from safetensors.torch import load_file, load_model
    except ImportError as error:
        raise LoadError(
            f"{error}: a torch bundle needs torch and safetensors: pip install 'snowgate[torch]'"
        ) from error
    module = _entrypoint(config)(**config.get("parameters", {}))
    weights = config.get("weights")
    if weights is not None:
        tensors = load_file(directory / weights)
        if tensors.keys() == module.state_dict().keys():
            module.load_state_dict(tensors)
        else:
            # Weights that two layers share may be in the file once; anything else that is missing raises.
            load_model(module, directory / weights)
    module.eval()
    inputs = [(spec["name"], spec["datatype"] == "BF16") for spec in config["inputs"]]

    def from_tensor(tensor: Any, spec: Mapping[str, Any]) -> Array:
        found = torch.as_tensor(tensor)
        if found.dtype is torch.bfloat16:
            # numpy has no such type: as its bits, when that is what was declared.
            bits: Array = found.view(torch.int16).numpy().view(np.uint16)
            return bits if spec["datatype"] == "BF16" else found.float().numpy()
        array: Array = found.numpy()
        return array

    def predict(given: dict[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            tensors = [torch.from_numpy(given[name]) for name, _half in inputs]
            halves = [half for _name, half in inputs]
            answer = module(
                *(one.view(torch.bfloat16) if half else one for one, half in zip(tensors, halves, strict=True))
            )
            return _by_name(answer, config["outputs"], from_tensor)

    return Loaded(predict, "pytorch_safetensors", "torch-eager")


def load_python(directory: Path, config: Mapping[str, Any]) -> Loaded:
    """Any class with `load(directory)`, which may return the model that predicts, and `predict(inputs)`."""
    made = _entrypoint(config)
    model = made(**config.get("parameters", {})) if inspect.isclass(made) else made
    loaded = model.load(directory) if hasattr(model, "load") else None
    if hasattr(loaded, "predict"):
        model = loaded
    elif not hasattr(model, "load") or not hasattr(model, "predict"):
        raise LoadError(
            f"entrypoint {config['entrypoint']!r}: expected a class with load(directory) and predict(inputs)"
        )

    def predict(given: dict[str, Array]) -> dict[str, Array]:
        return _by_name(model.predict(given), config["outputs"], lambda part, _spec: np.asarray(part))

    return Loaded(predict, "python_class", "python")


def _by_name(
    answer: Any, specs: Sequence[Mapping[str, Any]], to_array: Callable[[Any, Mapping[str, Any]], Array]
) -> dict[str, Array]:
    """Accept a mapping, a sequence in the declared order, or the one output itself."""
    names = [spec["name"] for spec in specs]
    if isinstance(answer, Mapping):
        missing = [name for name in names if name not in answer]
        if missing:
            have = ", ".join(map(str, answer)) or "nothing"
            raise LoadError(f"the model answered {have}; missing: {', '.join(missing)}")
        return {spec["name"]: to_array(answer[spec["name"]], spec) for spec in specs}
    if len(names) == 1 and not isinstance(answer, tuple):
        return {names[0]: to_array(answer, specs[0])}
    if not isinstance(answer, tuple | list) or len(answer) != len(names):
        count = len(answer) if isinstance(answer, tuple | list) else 1
        raise LoadError(f"the model answered {count} outputs, expected {len(names)}: {', '.join(names)}")
    return {spec["name"]: to_array(part, spec) for spec, part in zip(specs, answer, strict=True)}


def declared(name: str, array: Array, datatype: str, shape: Sequence[int]) -> Array:
    """Check one output against its declaration, where -1 is any size, and return it in the declared datatype.

    Numbers of the same kind are converted (float64 to FP32, int64 to INT32 where every value fits); another kind is an
    error, not a conversion.
    """
    if len(array.shape) != len(shape) or any(
        want not in (-1, got) for want, got in zip(shape, array.shape, strict=True)
    ):
        raise LoadError(f"output '{name}': shape {list(array.shape)}, expected {list(shape)}")
    if datatype == "BYTES":
        if array.dtype.kind not in "OSU":
            raise LoadError(f"output '{name}': numpy type {array.dtype}, expected text or bytes for BYTES")
        return array
    dtype = DTYPES[datatype]
    if array.dtype == dtype:
        return array
    kinds = {"f": "f", "i": "iu", "u": "iu", "b": "b"}[dtype.kind] if datatype != "BF16" else ""
    if array.dtype.kind not in kinds:
        raise LoadError(f"output '{name}': numpy type {array.dtype}, expected {dtype} for {datatype}")
    with np.errstate(over="ignore"):  # Beyond FP32 is infinite in FP32, and measured as such.
        converted = array.astype(dtype)
    if dtype.kind in "iu" and not (converted == array).all():
        raise LoadError(f"output '{name}': holds {array.min()} to {array.max()}, which does not fit in {datatype}")
    return converted


TABLE: dict[str, Callable[[Path, Mapping[str, Any]], Loaded]] = {"torch": load_torch, "python": load_python}

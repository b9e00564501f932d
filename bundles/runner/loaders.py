"""From an unpacked folder to something that predicts: arrays by name in, arrays by name out, rows first on both."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import golden
from .around import Around, found
from .declared import LoadError, by_name
from .engines import CPU, EAGER, Network, build
from .huggingface import load_huggingface
from .lightgbm_trees import load_lightgbm
from .loaded import Loaded
from .onnx_runtime import load_onnx
from .sklearn_skops import load_sklearn
from .torch_export import load_torch_export
from .xgboost_trees import load_xgboost

Array = np.ndarray[Any, Any]
EXAMPLE_ROWS = 3
"""Rows to follow a network with: not one, which frameworks treat as a size of its own."""
DESCRIBED = ("loader", "weights", "parameters")
"""What of a configuration is there before anybody knows its tensors."""


def load(directory: Path, config: Mapping[str, Any], engine: str = EAGER, device: str = CPU) -> Loaded:
    """Load an unpacked bundle, whose `model` folder is on the path, to be run by an engine on a device.

    Raises:
        LoadError: it is not as its configuration says.
        EngineError: this engine can't run it here.
    """
    loader = TABLE.get(config["loader"])
    if loader is None:
        raise LoadError(f"loader {config['loader']!r}, expected one of {', '.join(TABLE)}")
    return loader(directory, config, engine, device)


def describe(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors that the model's own file carries. Raises LoadError."""
    loaded = load(directory, {key: config[key] for key in DESCRIBED if key in config})
    return {"inputs": loaded.inputs, "outputs": loaded.outputs, "columns": loaded.columns}


def load_torch(directory: Path, config: Mapping[str, Any], engine: str, device: str) -> Loaded:
    """A module factory and safetensors: nothing is unpickled."""
    return Loaded(build(engine, load_network(directory, config, device)), "pytorch_safetensors", engine)


def load_network(directory: Path, config: Mapping[str, Any], device: str = CPU) -> Network:
    """Load a torch bundle's module onto a device, whatever engine it will be run by."""
    try:
        import torch  # noqa: F401 - what is missing shall have its own message
        from safetensors.torch import load_file, load_model
    except ImportError as error:
        raise LoadError(
            f"{error}: a torch bundle needs torch and safetensors: pip install 'snowgate[torch]'"
        ) from error
    module = found(config["entrypoint"])(**config.get("parameters", {}))
    weights = config.get("weights")
    if weights is not None:
        tensors = load_file(directory / "model" / weights)
        if tensors.keys() == module.state_dict().keys():
            module.load_state_dict(tensors)
        else:
            # Weights that two layers share may be in the file once; anything else that is missing raises.
            load_model(module, directory / "model" / weights)
    module.eval().to(device)
    around = Around(config)
    example = None
    if (directory / golden.INPUTS).exists():
        rows = golden.repeated(golden.read(directory)[0], EXAMPLE_ROWS)
        example = around.before(rows if around.batched else {name: array[0, ...] for name, array in rows.items()})
    return Network(module, around.model_inputs, around.model_outputs, example, device)


def load_python(directory: Path, config: Mapping[str, Any], _engine: str, _device: str) -> Loaded:
    """Any class with `load(directory)`, which may return the model that predicts, and `predict(inputs)`.

    There is one way to run it, whatever engine is asked for, and it finds its device by itself: it sees no other.
    """
    made = found(config["entrypoint"])
    around = Around(config)
    model = made(**config.get("parameters", {})) if inspect.isclass(made) else made
    loaded = model.load(directory / "model") if hasattr(model, "load") else None
    if hasattr(loaded, "predict"):
        model = loaded
    elif not hasattr(model, "load") or not hasattr(model, "predict"):
        raise LoadError(
            f"entrypoint {config['entrypoint']!r}: expected a class with load(directory) and predict(inputs)"
        )

    def predict(given: dict[str, Array]) -> dict[str, Array]:
        # An array that looks into a frame's bytes can't be written to; a model may expect that it can.
        own = {name: array if array.flags.writeable else array.copy() for name, array in given.items()}
        answer = by_name(model.predict(own), around.model_outputs)
        return {name: np.asarray(part) for name, part in answer.items()}

    return Loaded(predict, "python_class", "python")


TABLE: dict[str, Callable[[Path, Mapping[str, Any], str, str], Loaded]] = {
    "torch": load_torch,
    "torch-export": load_torch_export,
    "onnx": load_onnx,
    "sklearn": load_sklearn,
    "xgboost": load_xgboost,
    "lightgbm": load_lightgbm,
    "huggingface": load_huggingface,
    "python": load_python,
}

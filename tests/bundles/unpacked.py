"""Unpacked bundles of one module, as a runner gets them."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from bundles import process
from bundles.runner import golden

Array = np.ndarray[Any, Any]

ECHO = """
    class Model:
        def load(self, directory):
            pass

        def predict(self, inputs):
            return inputs["x"]
"""


def tensor(name: str, shape: Sequence[int], datatype: str = "FP32", semantic: str | None = None) -> dict[str, Any]:
    """Return a tensor as a configuration has it."""
    return {"name": name, "datatype": datatype, "shape": list(shape), **({"semantic": semantic} if semantic else {})}


def unpack(directory: Path, code: str, **config: Any) -> Path:
    """Write an unpacked bundle: one module and its configuration."""
    (directory / "model").mkdir()
    (directory / "model" / "served.py").write_text(textwrap.dedent(code))
    usual: dict[str, Any] = {
        "loader": "python",
        "entrypoint": "served:Model",
        "weights": None,
        "parameters": {},
        "max_batch_size": 8,
        "inputs": [tensor("x", [-1, 2])],
        "outputs": [tensor("y", [-1, 2])],
    }
    (directory / "config.json").write_text(json.dumps(usual | config))
    return directory


def examples(directory: Path, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
    """Write the golden examples of an unpacked bundle."""
    (directory / "golden").mkdir()
    save_file(inputs, directory / golden.INPUTS)
    save_file(outputs, directory / golden.OUTPUTS)


def running(directory: Path, code: str, **config: Any) -> process.RunnerProcess:
    """Return a runner on some code, to be entered."""
    return process.RunnerProcess(unpack(directory, code, **config))

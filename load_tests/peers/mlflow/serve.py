"""Save a model, then become the server of it."""

import os
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from network import load

SHAPES = {"mlp": (-1, 30), "cnn": (-1, 3, 32, 32)}
CLASSES = {"mlp": 2, "cnn": 10}


class Network(mlflow.pyfunc.PythonModel):
    """A model; the saved object holds its name, and loads the weights where it is served."""

    def __init__(self, name: str) -> None:
        """Say which model it is."""
        self.name = name

    def load_context(self, context: Any) -> None:
        """Load the weights."""
        self._predict = load(self.name)

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:
        """Predict the rows of one request."""
        return self._predict(model_input)


if __name__ == "__main__":
    name, port, cores = sys.argv[1:]
    kind = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(kind, SHAPES[name])]), outputs=Schema([TensorSpec(kind, (-1, CLASSES[name]))])
    )
    folder = Path(f"model-{name}").absolute()
    mlflow.pyfunc.save_model(folder, python_model=Network(name), signature=signature, pip_requirements=[])
    command = str(Path(sys.executable).with_name("mlflow"))
    options = f"--env-manager local --host 127.0.0.1 --port {port} --workers {cores}"
    os.execv(command, [command, "models", "serve", "--model-uri", str(folder), *options.split()])  # noqa: S606 - arguments are ours

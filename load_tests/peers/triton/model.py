"""The Python backend's model: one call of the network for each batch that Triton made."""

import os
import sys
from typing import Any

# The bare stub is Debian's Python without an environment: it reads neither PYTHONPATH nor `.pth` files.
sys.path += [os.environ["COMPARISON_MODELS"], *os.environ["COMPARISON_PACKAGES"].split(os.pathsep)]

import numpy as np
import triton_python_backend_utils as pb
from network import load


class TritonPythonModel:
    """Both models; the folder's name says which."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Load the weights."""
        self.predict = load(arguments["model_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests with one call of the network."""
        rows = [pb.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        logits = self.predict(np.concatenate(rows))
        answers, first = [], 0
        for part in rows:
            tensor = pb.Tensor("logits", logits[first : first + len(part)])
            answers.append(pb.InferenceResponse([tensor]))
            first += len(part)
        return answers

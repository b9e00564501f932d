"""The two networks; this file goes beside their weights into every server, and stands alone."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

# Rows are batched; threads that spin for work on a shared core make every server slower. The same for all of them.
torch.set_num_threads(1)


def mlp() -> nn.Module:
    """Make 30-64-64-2, 6,274 parameters: rows [n, 30] to logits [n, 2]."""
    return nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def cnn() -> nn.Module:
    """Make three convolutions and two dense layers, 89,834 parameters: images [n, 3, 32, 32] to logits [n, 10]."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def load(name: str) -> Callable[[Any], np.ndarray[Any, Any]]:
    """Return a function from rows (float32) to logits, for the model whose weights lie in COMPARISON_MODELS.

    It can be pickled, which some servers do to bring it into their workers.
    """
    module = {"mlp": mlp, "cnn": cnn}[name]()
    module.load_state_dict(load_file(Path(os.environ["COMPARISON_MODELS"]) / f"{name}.safetensors"))
    return partial(predict, module.eval())


def predict(module: nn.Module, rows: Any) -> np.ndarray[Any, Any]:
    """Return the logits for rows."""
    with torch.inference_mode():
        answer: np.ndarray[Any, Any] = module(torch.from_numpy(np.asarray(rows, dtype=np.float32))).numpy()
        return answer

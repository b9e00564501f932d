"""The service: one method for each model, batched."""

import os

import bentoml
import numpy as np
from network import load


@bentoml.service(
    workers=int(os.environ["COMPARISON_CORES"]),
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Networks:
    """Both models in each worker."""

    def __init__(self) -> None:
        """Load the weights."""
        self.predict = {name: load(name) for name in ("mlp", "cnn")}

    @bentoml.api(batchable=True, max_batch_size=64)
    def mlp(self, rows: np.ndarray) -> np.ndarray:
        """Rows [n, 30] to logits [n, 2]."""
        return self.predict["mlp"](rows)

    @bentoml.api(batchable=True, max_batch_size=64)
    def cnn(self, rows: np.ndarray) -> np.ndarray:
        """Images [n, 3, 32, 32] to logits [n, 10]."""
        return self.predict["cnn"](rows)

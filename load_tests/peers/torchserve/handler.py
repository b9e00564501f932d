"""The handler: one call of the network for each batch of requests."""

from typing import Any

import numpy as np
from network import load


class Handler:
    """A model; the context says which."""

    def initialize(self, context: Any) -> None:
        """Load the weights."""
        self._predict = load(context.manifest["model"]["modelName"])

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[list[float]]:
        """Answer a batch of requests, each with one row."""
        given = [request["body"]["inputs"][0] for request in requests]
        rows = [np.array(one["data"], dtype=np.float32).reshape(one["shape"]) for one in given]
        return self._predict(np.concatenate(rows)).tolist()

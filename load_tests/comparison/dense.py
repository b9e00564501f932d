"""Two models in numpy, for bundles of which a hundred fit on a machine; this file goes into them, and stands alone."""

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Mlp:
    """The MLP of the comparison: rows [n, 30] to logits [n, 2]."""

    def load(self, directory: Path) -> None:
        """Read its weights."""
        with np.load(directory / "mlp.npz") as archive:
            self._layers = [(archive[f"{at}.weight"].T, archive[f"{at}.bias"]) for at in (0, 2, 4)]

    def predict(self, inputs: dict[str, Array]) -> Array:
        """Predict a batch."""
        (first, one), (second, two), (third, three) = self._layers
        hidden = np.maximum(inputs["input"] @ first + one, 0)
        answer: Array = np.maximum(hidden @ second + two, 0) @ third + three
        return answer


class Ends:
    """Rows of any size to their first and last numbers: what is measured is the way of the bytes, not arithmetic."""

    def load(self, directory: Path) -> None:
        """Nothing to read."""

    def predict(self, inputs: dict[str, Array]) -> Array:
        """Predict a batch."""
        return inputs["input"][:, [0, -1]]

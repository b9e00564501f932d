"""BentoML: a service with adaptive batching."""

import json
from pathlib import Path

import numpy as np

from load_tests.comparison.models import Array, compact, numbers
from load_tests.comparison.server import Peer, Place


class BentoMl(Peer):
    """A batchable API for each model. Its default latency limit stays: with a lower one it answers some 503."""

    name = "bentoml"
    requirements = ("bentoml==1.4.39", "numpy")
    versions = ("bentoml", "uvicorn", "torch")

    def configuration(self, cores: int) -> str:
        """Say how it is set up."""
        return f"batchable, max_batch_size=64, default latency limit, workers={cores}, no access log"

    def variables(self, place: Place) -> dict[str, str]:
        """Tell the service how many workers it has, and keep all that it writes in its folder."""
        return {
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": str(place.folder / "bentoml"),
            "COMPARISON_CORES": str(place.cores),
        }

    def commands(self, place: Place) -> list[list[str]]:
        """Serve the service beside this file."""
        here = str(Path(__file__).parent)
        words = f"serve service:Networks --host 127.0.0.1 --port {place.ports[0]}".split()
        return [[str(place.python.with_name("bentoml")), *words, "--working-dir", here]]

    def url(self, place: Place, model: str) -> str:
        """Return the address of the model's method."""
        return f"http://127.0.0.1:{place.ports[0]}/{model}"

    def request(self, body: str, model: str, rows: Array) -> tuple[bytes, dict[str, str]]:
        """Send rows by the method's parameter."""
        return compact({"rows": numbers(rows)}), {"Content-Type": "application/json"}

    def answer(self, content: bytes, header_length: int | None) -> Array:
        """Return the rows of the answer."""
        return np.array(json.loads(content), dtype=np.float32)

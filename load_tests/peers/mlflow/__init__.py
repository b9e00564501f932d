"""MLflow's scoring server: one for each model, as it serves one."""

import json
from pathlib import Path

import numpy as np

from load_tests.comparison.models import Array, compact, numbers
from load_tests.comparison.server import Peer, Place


class MlFlow(Peer):
    """A pyfunc model with a tensor signature, in the environment that is there."""

    name = "mlflow"
    requirements = ("mlflow==3.17.*",)
    versions = ("mlflow", "fastapi", "uvicorn", "torch")

    def configuration(self, cores: int) -> str:
        """Say how it is set up."""
        return f"pyfunc, tensor signature; a `mlflow models serve --env-manager local --workers {cores}` for each model"

    def commands(self, place: Place) -> list[list[str]]:
        """Save and serve each model, by the script beside this file."""
        script = str(Path(__file__).with_name("serve.py"))
        pairs = zip(("mlp", "cnn"), place.ports, strict=False)
        return [[str(place.python), script, name, str(port), str(place.cores)] for name, port in pairs]

    def variables(self, place: Place) -> dict[str, str]:
        """Keep all that it writes in its folder; no telemetry, no access log, for which its command has no option."""
        return {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_TRACKING_URI": f"file:{place.folder}/runs",
            "UVICORN_ACCESS_LOG": "false",
        }

    def url(self, place: Place, model: str) -> str:
        """Return the address of the model's own server."""
        return f"http://127.0.0.1:{place.ports[('mlp', 'cnn').index(model)]}/invocations"

    def request(self, body: str, model: str, rows: Array) -> tuple[bytes, dict[str, str]]:
        """Send rows as `inputs`."""
        return compact({"inputs": numbers(rows)}), {"Content-Type": "application/json"}

    def answer(self, content: bytes, header_length: int | None) -> Array:
        """Return the predictions."""
        return np.array(json.loads(content)["predictions"], dtype=np.float32)

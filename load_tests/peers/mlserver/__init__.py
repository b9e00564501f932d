"""MLServer: a custom runtime with adaptive batching."""

import json
from pathlib import Path

from load_tests.comparison.server import Peer, Place


class MlServer(Peer):
    """No parallel workers on one core, where they only cost; two on two."""

    name = "mlserver"
    # With uvloop 0.23 its parallel workers crash in a loop.
    requirements = ("mlserver==1.7.1", "uvloop<0.22")
    versions = ("mlserver", "fastapi", "uvicorn", "uvloop", "torch")

    def configuration(self, cores: int) -> str:
        """Say how it is set up."""
        return f"max_batch_size 64, max_batch_time 2 ms, parallel_workers={_workers(cores)}, debug and metrics off"

    def commands(self, place: Place) -> list[list[str]]:
        """Write the settings of the server and of both models, and start it on that folder."""
        http, grpc, metrics = place.ports[:3]
        settings = {
            "debug": False,
            "host": "127.0.0.1",
            "http_port": http,
            "grpc_port": grpc,
            "metrics_port": metrics,
            "metrics_endpoint": None,
            "parallel_workers": _workers(place.cores),
            "environments_dir": str(place.folder / "environments"),
        }
        (place.folder / "settings.json").write_text(json.dumps(settings))
        for name in ("mlp", "cnn"):
            model = {
                "name": name,
                "implementation": "runtime.Network",
                "max_batch_size": 64,
                "max_batch_time": 0.002,
            }
            (place.folder / name).mkdir()
            (place.folder / name / "model-settings.json").write_text(json.dumps(model))
        return [[str(place.python.with_name("mlserver")), "start", str(place.folder)]]

    def variables(self, place: Place) -> dict[str, str]:
        """Let it import the runtime beside this file, and the models."""
        return {"PYTHONPATH": f"{Path(__file__).parent}:{place.models}"}


def _workers(cores: int) -> int:
    return 0 if cores == 1 else cores

"""The application: both models, in the body format of the Open Inference Protocol."""

import signal
import sys
import tempfile
from typing import Any

import numpy as np
import ray
from network import load
from ray import serve
from starlette.requests import Request


@serve.deployment(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=128)
class Network:
    """A model."""

    def __init__(self, model: str) -> None:
        """Load the weights."""
        self._predict = load(model)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def predict(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        """Predict a batch."""
        return list(self._predict(np.concatenate(rows)))

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer one request."""
        given = (await request.json())["inputs"][0]
        logits = await self.predict(np.array(given["data"], dtype=np.float32).reshape(given["shape"]))
        tensor = {"name": "logits", "shape": [1, len(logits)], "datatype": "FP32", "data": logits.tolist()}
        return {"outputs": [tensor]}


def serve_until_told(port: int, cores: int, folder: str) -> None:
    """Start a cluster of one machine with both models, and end it at SIGTERM."""
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    ray.init(
        num_cpus=2, include_dashboard=False, logging_level="WARNING", _node_ip_address="127.0.0.1", _temp_dir=folder
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
    for name in ("mlp", "cnn"):
        application = Network.options(num_replicas=cores, logging_config=quiet).bind(name)
        serve.run(application, name=name, route_prefix=f"/v2/models/{name}/infer", logging_config=quiet)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    # Its sockets lie in there, and the kernel takes 107 characters for the path of one.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as short:
        serve_until_told(int(sys.argv[1]), int(sys.argv[2]), short)

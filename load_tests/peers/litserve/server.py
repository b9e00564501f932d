"""The server: both models, in the body format of the Open Inference Protocol."""

import sys
from typing import Any

import litserve
import numpy as np
from network import load


class NetworkApi(litserve.LitAPI):
    """A model behind a path of its own."""

    def __init__(self, model: str) -> None:
        """Say which model it is."""
        super().__init__(max_batch_size=64, batch_timeout=0.002, api_path=f"/v2/models/{model}/infer")
        self.model = model

    def setup(self, device: str) -> None:
        """Load the weights, in each worker."""
        self._predict = load(self.model)

    def decode_request(self, request: dict[str, Any], **_more: Any) -> np.ndarray:
        """Return one row."""
        given = request["inputs"][0]
        return np.array(given["data"], dtype=np.float32).reshape(given["shape"])

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Join rows."""
        return np.concatenate(inputs)

    def predict(self, x: np.ndarray, **_more: Any) -> np.ndarray:
        """Predict a batch."""
        return self._predict(x)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """Part rows."""
        return list(output)

    def encode_response(self, output: np.ndarray, **_more: Any) -> dict[str, Any]:
        """Answer one row."""
        tensor = {"name": "logits", "shape": [1, len(output)], "datatype": "FP32", "data": output.tolist()}
        return {"outputs": [tensor]}


if __name__ == "__main__":
    port, cores = map(int, sys.argv[1:])
    apis = [NetworkApi(name) for name in ("mlp", "cnn")]
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=cores, fast_queue=True, timeout=60)
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=cores,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )

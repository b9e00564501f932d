"""The server: both models, one request at a time."""

from typing import Any

import kserve
import uvicorn
from kserve.logging import logger
from network import load


class Network(kserve.Model):
    """A model; its name says which."""

    def __init__(self, name: str) -> None:
        """Load the weights."""
        super().__init__(name)
        self._predict = load(name)
        self.ready = True

    def predict(
        self, payload: kserve.InferRequest, headers: dict[str, str] | None = None, **_more: Any
    ) -> kserve.InferResponse:
        """Predict one request; outputs are binary where the client asked for that."""
        logits = self._predict(payload.inputs[0].as_numpy())
        output = kserve.InferOutput(name="logits", shape=list(logits.shape), datatype="FP32", data=logits)
        return kserve.InferResponse(
            response_id=payload.id or "",
            model_name=self.name,
            infer_outputs=[output],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


class Loopback(uvicorn.Config):
    """KServe listens on every address and has no option for another."""

    def __init__(self, app: Any, **options: Any) -> None:
        """Listen on loopback only, and log no access."""
        super().__init__(app, **(options | {"host": "127.0.0.1", "access_log": False}))


if __name__ == "__main__":
    uvicorn.Config = Loopback
    logger.setLevel("WARNING")
    kserve.ModelServer().start([Network("mlp"), Network("cnn")])

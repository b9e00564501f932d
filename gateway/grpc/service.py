"""The inference service's small methods, from message to message: health, metadata, repository, statistics."""

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.data_app import EXTENSIONS, VERSION
from gateway.errors import NotFound, Unavailable
from gateway.grpc.messages import message
from gateway.grpc.unary import Method
from gateway.predict import Predictor

PREFIX = "/inference.GRPCInferenceService/"


class Service:
    """Answers from the worker's table."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        answers: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
        }
        self.methods = {
            PREFIX + name: Method(message(f"inference.{name}Request"), answer) for name, answer in answers.items()
        }

    async def _server_live(self, _request: Any) -> Any:
        return _response("ServerLive", live=True)

    async def _server_ready(self, _request: Any) -> Any:
        return _response("ServerReady", ready=self._predictor.table.ready and not self._predictor.draining)

    async def _model_ready(self, request: Any) -> Any:
        """A model that is not here is not ready, as Triton answers; it is no error."""
        try:
            served = self._predictor.table.model(request.name).named(request.version or None)
        except (NotFound, Unavailable):
            return _response("ModelReady", ready=False)
        return _response("ModelReady", ready=served.queue.connected)

    async def _server_metadata(self, _request: Any) -> Any:
        return _response("ServerMetadata", name="snowgate", version=VERSION, extensions=EXTENSIONS)

    async def _model_metadata(self, request: Any) -> Any:
        model = self._predictor.table.model(request.name)
        served = model.named(request.version or None)
        tensors = {
            side: [{"name": one.name, "datatype": one.datatype, "shape": one.shape} for one in specs]
            for side, specs in (("inputs", served.schema.inputs), ("outputs", served.schema.outputs))
        }
        versions = sorted(model.versions, key=int)
        return _response("ModelMetadata", name=model.name, versions=versions, platform=served.platform, **tensors)


def _response(method: str, /, **fields: Any) -> Any:
    return message(f"inference.{method}Response")(**fields)

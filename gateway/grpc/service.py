"""The inference service's small methods, from message to message: health, metadata, repository, statistics."""

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.json_format import ParseDict

from gateway.data_app import VERSION
from gateway.errors import NotFound, Unavailable
from gateway.extensions import Extensions
from gateway.grpc.messages import message
from gateway.grpc.unary import Method
from gateway.grpc.wire import parameter_values
from gateway.predict import Predictor
from gateway.readiness import why_not_ready, why_version_not_ready

PREFIX = "/inference.GRPCInferenceService/"


class Service:
    """Answers from the worker's table, and by the extensions that HTTP has too."""

    def __init__(self, predictor: Predictor, extensions: Extensions) -> None:
        self._predictor = predictor
        self._extensions = extensions
        answers: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._repository_model_load,
            "RepositoryModelUnload": self._repository_model_unload,
        }
        self.methods = {
            PREFIX + name: Method(message(f"inference.{name}Request"), answer) for name, answer in answers.items()
        }

    async def _server_live(self, _request: Any) -> Any:
        return _response("ServerLive", live=True)

    async def _server_ready(self, _request: Any) -> Any:
        return _response("ServerReady", ready=why_not_ready(self._predictor) is None)

    async def _model_ready(self, request: Any) -> Any:
        """A model that is not here is not ready, as Triton answers; it is no error."""
        try:
            served = self._predictor.table.model(request.name).named(request.version or None)
        except (NotFound, Unavailable):
            return _response("ModelReady", ready=False)
        return _response("ModelReady", ready=why_version_not_ready(self._predictor, served) is None)

    async def _server_metadata(self, _request: Any) -> Any:
        return _response("ServerMetadata", name="snowgate", version=VERSION, extensions=self._extensions.names)

    async def _model_metadata(self, request: Any) -> Any:
        model = self._predictor.table.model(request.name)
        served = model.named(request.version or None)
        tensors = {
            side: [{"name": one.name, "datatype": one.datatype, "shape": one.shape} for one in specs]
            for side, specs in (("inputs", served.schema.inputs), ("outputs", served.schema.outputs))
        }
        versions = sorted(model.versions, key=int)
        return _response("ModelMetadata", name=model.name, versions=versions, platform=served.platform, **tensors)

    async def _model_config(self, request: Any) -> Any:
        config = self._extensions.configuration(request.name, request.version or None)
        return ParseDict({"config": config}, _response("ModelConfig"))

    async def _model_statistics(self, request: Any) -> Any:
        statistics = await self._extensions.statistics(request.name or None, request.version or None)
        return ParseDict(statistics, _response("ModelStatistics"))

    async def _repository_index(self, request: Any) -> Any:
        return _response("RepositoryIndex", models=await self._extensions.index(ready=request.ready))

    async def _repository_model_load(self, request: Any) -> Any:
        await self._extensions.load(_model_name(request), parameter_values(request.parameters))
        return _response("RepositoryModelLoad")

    async def _repository_model_unload(self, request: Any) -> Any:
        await self._extensions.unload(_model_name(request), parameter_values(request.parameters))
        return _response("RepositoryModelUnload")


def _model_name(request: Any) -> str:
    """Return the model's name; KServe's message has it alone, where Triton's has the repository's."""
    name: str = request.model_name or request.repository_name
    return name


def _response(method: str, /, **fields: Any) -> Any:
    return message(f"inference.{method}Response")(**fields)

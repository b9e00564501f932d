"""gRPC's health service: of the server (the empty name, and the inference service), and of each model by its name.

Source: gRPC's `health-checking.md`.
"""

from typing import Any

from google.protobuf.message import DecodeError

from gateway.errors import BadCall, InferenceError, NotFound
from gateway.grpc.messages import message
from gateway.grpc.status import DONE, START, trailers
from gateway.grpc.stream import Stream
from gateway.grpc.unary import Method
from gateway.predict import Predictor
from gateway.readiness import can_serve, why_not_ready
from gateway.schema import shown

CheckRequest = message("grpc.health.v1.HealthCheckRequest")
CheckResponse = message("grpc.health.v1.HealthCheckResponse")
ListRequest = message("grpc.health.v1.HealthListRequest")
ListResponse = message("grpc.health.v1.HealthListResponse")

PREFIX = "/grpc.health.v1.Health/"
SERVER_NAMES = ("", "inference.GRPCInferenceService")
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


class Health:
    """Says who serves, and tells watchers when it changes."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._watches: set[Watch] = set()
        self.methods = {
            f"{PREFIX}Check": Method(CheckRequest, self._check),
            f"{PREFIX}List": Method(ListRequest, self._list),
        }

    def status(self, name: str) -> int:
        """Return the status of the server or of a model."""
        if name in SERVER_NAMES:
            return SERVING if why_not_ready(self._predictor) is None else NOT_SERVING
        model = self._predictor.table.models.get(name)
        if model is None:
            return SERVICE_UNKNOWN
        return SERVING if can_serve(self._predictor, model) else NOT_SERVING

    async def _check(self, request: Any) -> Any:
        status = self.status(request.service)
        if status == SERVICE_UNKNOWN:
            raise NotFound(f"service: {shown(request.service)!r}, expected '' for the server, or a model's name")
        return CheckResponse(status=status)

    async def _list(self, _request: Any) -> Any:
        names = [*SERVER_NAMES, *self._predictor.table.models]
        return ListResponse(statuses={name: CheckResponse(status=self.status(name)) for name in names})

    def watch(self, stream: Stream) -> "Watch":
        """Open a watch."""
        return Watch(stream, self)

    def keep(self, watch: "Watch") -> None:
        """Tell this watch of changes."""
        self._watches.add(watch)

    def forget(self, watch: "Watch") -> None:
        """Tell it no more."""
        self._watches.discard(watch)

    def tell(self) -> None:
        """Look for changes, and tell them."""
        for watch in list(self._watches):
            watch.tell()


class Watch:
    """One call of `Watch`: the status now, and each time that it changes."""

    patient = True

    def __init__(self, stream: Stream, health: Health) -> None:
        self._stream = stream
        self._health = health
        self._name: str | None = None
        self._told: int | None = None

    def message(self, data: bytes) -> None:
        """As `Handler.message`."""
        try:
            self._name = CheckRequest.FromString(data).service
        except DecodeError as error:
            raise BadCall(f"message: not a HealthCheckRequest: {error}") from None
        self._stream.start(START)
        self._health.keep(self)
        self.tell()

    def tell(self) -> None:
        """Send the status when it is another than the last."""
        status = self._health.status(self._name or "")
        if status != self._told:
            self._told = status
            self._stream.send(CheckResponse(status=status).SerializeToString())

    def ended(self) -> None:
        """As `Handler.ended`: the one question is all that comes."""
        if self._name is None:
            self._stream.fail(400, "message: none came, expected a HealthCheckRequest")

    def refuse(self, error: InferenceError) -> None:
        """As `Handler.refuse`."""
        self._health.forget(self)
        self._stream.fail(error.status, error.message)

    def gone(self) -> None:
        """As `Handler.gone`."""
        self._health.forget(self)

    def drain(self) -> None:
        """As `Handler.drain`: the client watches on over another connection."""
        self._health.forget(self)
        self._stream.finish(DONE if self._name is None else trailers(503, "draining: watch over another connection"))

"""One call and its answer, whichever way it came: what the parts of the request path hand to each other.

A **wire** is the form in which a kind of client writes calls and reads answers: the Open Inference Protocol over HTTP
or gRPC, KServe's older protocol. Behind the wire there is one path for all of them, `predict.Predictor.predict`.
"""

from collections.abc import Sequence
from time import perf_counter_ns, time_ns
from typing import Any, Protocol

import msgspec

from gateway.errors import InferenceError
from gateway.schema import Schema, WantedOutput
from gateway.steps import Step
from monitors.log.record import Tensor


class Arrived:
    """What the server knows of a call before it is decoded; `body` is what its wire decodes."""

    # Written out, as it is made once a call: a dataclass with default factories takes twice as long.
    __slots__ = (
        "admitted_ns",
        "body",
        "gone",
        "json_length",
        "model",
        "refused",
        "request_id",
        "started_ns",
        "timeout_ns",
        "traceparent",
        "tracestate",
        "unit",
        "version",
        "waiting",
        "wire",
    )

    def __init__(
        self,
        model: str,
        version: str | None,
        wire: "Wire",
        body: Any = b"",
        json_length: int | None = None,
        unit: str | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
        timeout_ns: int | None = None,
    ) -> None:
        self.model = model
        self.version = version
        self.wire = wire
        self.body = body
        self.json_length = json_length
        self.unit = unit
        self.request_id = request_id
        self.traceparent = traceparent
        self.tracestate = tracestate
        self.timeout_ns = timeout_ns
        """How long the client waits, where its protocol says it beside the call (gRPC's deadline, a header)."""
        self.refused: InferenceError | None = None
        self.started_ns = perf_counter_ns()
        self.admitted_ns = time_ns()
        self.gone = False
        self.waiting: Step | None = None


class Call(msgspec.Struct, gc=False):
    """A decoded call."""

    # A struct, as others that are made once a call: it is there in a third of the time that a dataclass takes.
    inputs: list[Tensor]
    client_id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: tuple[WantedOutput, ...] = ()
    binary_output: bool = False


class Source(msgspec.Struct, frozen=True, gc=False):
    """Who answers: what an answer says of where it comes from."""

    model: str
    version: str
    digest: str
    variant: str


class Answer(msgspec.Struct, gc=False):
    """What goes back to the client; `body` is what its wire encoded."""

    status: int
    body: Any
    prediction_id: str
    bundle: str | None
    variant: str | None
    json_length: int | None
    traceparent: str | None
    logged: bool
    """Whether it has, or with `durability = "async"` will have, its record."""


class Wire(Protocol):
    """How one kind of client writes calls and reads answers.

    `operation` names what was called, for its span: an HTTP method and route, or a gRPC service and method.
    """

    operation: str

    def decode(self, arrived: Arrived, schema: Schema) -> Call:
        """Decode a call for a version with this schema. Raises BadCall, naming the field, what came, what was expected.

        The call is checked against the schema afterwards, by `schema.check`, whichever wire it came by.
        """
        ...

    def encode(
        self, call: Call, outputs: Sequence[Tensor], source: Source, prediction_id: str
    ) -> tuple[Any, int | None]:
        """Encode an answer; beside it the length of its JSON part where binary tensors follow one.

        Raises:
            ModelFailed: an output can't be written on this wire (such as NaN in JSON).
        """
        ...

    def refuse(self, error: InferenceError, prediction_id: str) -> Any:
        """Encode a refusal."""
        ...

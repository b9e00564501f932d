"""What one record becomes: CloudEvents in the shapes of KServe's and Seldon's loggers, and in our own.

KServe's agent and Seldon's executor send two events a call in binary mode, with the bodies that went over the wire:
`…inference.request` and, where the answer was a good one, `…inference.response`. Their receivers put the two together
by the event's id (KServe, TrustyAI) or by `requestid` (Seldon, alibi-detect). The log keeps tensors, not bodies; so the
data here is the Open Inference Protocol's JSON, whatever the client spoke. A record without inputs becomes no event.

Sources: kserve `pkg/logger/worker.go` and `handler.go`; seldon-core `executor/logger/worker.go`; CloudEvents 1.0.2,
its JSON format and its HTTP binding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import punctuation
from typing import Any
from urllib.parse import quote

import orjson

from gateway.audit import rfc3339
from gateway.prediction import record_json, tensor_json
from monitors.log.record import Payload, Record, Tensor

JSON = "application/json"
SAFE = "".join(one for one in punctuation if one not in '"%')
"""What a header may hold as it is, beside letters and digits (HTTP binding, 3.1.3.2)."""
TRANSPORT = {"binary_data_output"}
"""Parameters that say how an answer travels: here it travels as JSON."""
KNOWN = {"name", "datatype", "shape", "parameters", "data"}
"""What the protocol says of a tensor."""
ENDPOINTS = {"stable": "default", None: "default"}
"""Their name for the version that has all others' traffic."""


@dataclass(frozen=True, slots=True)
class Event:
    """One CloudEvent: its attributes, and its data as JSON can carry them."""

    prediction: str
    attributes: dict[str, str]
    data: dict[str, Any]

    def binary(self) -> tuple[dict[str, str], bytes]:
        """Return headers and body in binary mode."""
        headers = {f"ce-{name}": quote(value, safe=SAFE) for name, value in self.attributes.items()}
        headers["Content-Type"] = headers.pop("ce-datacontenttype")
        return headers, orjson.dumps(self.data)

    def structured(self) -> dict[str, Any]:
        """Return the event in the JSON format."""
        return self.attributes | {"data": self.data}


Format = Callable[[Record, str], list[Event]]
"""Makes the events of a record; the second argument is the environment."""


def kserve(record: Record, environment: str) -> list[Event]:
    """Make the events that KServe's logger would have sent."""
    extensions = {
        "inferenceservicename": record.model,
        "namespace": environment,
        "component": "predictor",
        "endpoint": _endpoint(record),
        "metadata": "{}",
    }
    # Both have the id of the call: it is what receivers put them together by.
    return _pair(record, environment, "org.kubeflow", extensions, ("", ""))


def seldon(record: Record, environment: str) -> list[Event]:
    """Make the events that Seldon's logger would have sent."""
    extensions = {
        "requestid": record.id,
        "modelid": record.model,
        "inferenceservicename": record.model,
        "namespace": environment,
        "endpoint": _endpoint(record),
        "protocol": "v2",
    }
    return _pair(record, environment, "io.seldon", extensions, ("-request", "-response"))


def cloudevents(record: Record, environment: str) -> list[Event]:
    """Make our own event: the whole record, as `snowgate prediction show -o json` prints it."""
    subject = record.model if record.version is None else f"{record.model}/{record.version}"
    attributes = _attributes(record, environment, "snowgate.prediction", record.time) | {"subject": subject}
    named = {"modelname": record.model, "modelversion": record.version, "variant": record.variant}
    return [Event(record.id, attributes | _known(named | _origin(record)), record_json(record))]


FORMATS: dict[str, Format] = {"kserve": kserve, "seldon": seldon, "cloudevents": cloudevents}


def message(events: Sequence[Event], form: str, batch: int) -> tuple[dict[str, str], bytes]:
    """Return headers and body of one request: our own events structured, or several together; the others binary."""
    if form != "cloudevents":
        (event,) = events
        return event.binary()
    if batch == 1:
        (event,) = events
        return {"Content-Type": "application/cloudevents+json"}, orjson.dumps(event.structured())
    body = orjson.dumps([one.structured() for one in events])
    return {"Content-Type": "application/cloudevents-batch+json"}, body


def _pair(
    record: Record, environment: str, authority: str, extensions: dict[str, str], endings: tuple[str, str]
) -> list[Event]:
    payload = record.payload or Payload()
    more = extensions | _known({"modelversion": record.version} | _origin(record))
    inputs, outputs = _held(payload.inputs), _held(payload.outputs)
    found = []
    if inputs:
        attributes = _attributes(record, environment, f"{authority}.serving.inference.request", record.time)
        attributes["id"] += endings[0]
        found.append(Event(record.id, attributes | more, _request(payload, inputs)))
    if inputs and outputs and record.status == 200:
        answered = record.time + record.timings.get("total", 0.0) / 1_000
        attributes = _attributes(record, environment, f"{authority}.serving.inference.response", answered)
        attributes["id"] += endings[1]
        found.append(Event(record.id, attributes | more, _response(record, payload, outputs)))
    return found


def _attributes(record: Record, environment: str, type_: str, time: float) -> dict[str, str]:
    # A shadow's record has the id of the call that it shadows.
    own = f"-shadow-{record.version}" if record.kind == "shadow" else ""
    return {
        "specversion": "1.0",
        "type": type_,
        "source": f"/snowgate/{environment}",
        "id": record.id + own,
        "time": rfc3339(time),
        "datacontenttype": JSON,
    }


def _origin(record: Record) -> dict[str, str | None]:
    # Whether its spans were recorded is not in the record: the flag says that they may not have been.
    traced = record.trace_id is not None and record.span_id is not None
    return {
        "bundledigest": record.bundle,
        "traceparent": f"00-{record.trace_id}-{record.span_id}-00" if traced else None,
    }


def _endpoint(record: Record) -> str:
    return "shadow" if record.kind == "shadow" else ENDPOINTS.get(record.variant, record.variant or "default")


def _known(named: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in named.items() if value is not None}


def _request(payload: Payload, inputs: Sequence[Tensor]) -> dict[str, Any]:
    document: dict[str, Any] = {} if payload.client_id is None else {"id": payload.client_id}
    parameters = {name: value for name, value in payload.parameters.items() if name not in TRANSPORT}
    if parameters:
        document["parameters"] = parameters
    return document | {"inputs": [_tensor(one) for one in inputs]}


def _response(record: Record, payload: Payload, outputs: Sequence[Tensor]) -> dict[str, Any]:
    return {
        "model_name": record.model,
        "model_version": record.version,
        "id": payload.client_id or record.id,
        "parameters": {"snowgate_prediction_id": record.id, "snowgate_variant": record.variant or ""},
        "outputs": [_tensor(one) for one in outputs],
    }


def _held(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return those of which the log has bytes: the protocol knows no tensor whose data is withheld."""
    return [one for one in tensors if one.data or one.withheld is None]


def _tensor(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor as the protocol knows it: without BF16, of which FP32 holds each value exactly."""
    document = tensor_json(tensor)
    known = {name: value for name, value in document.items() if name in KNOWN}
    return known | {"datatype": "FP32"} if tensor.datatype == "BF16" else known

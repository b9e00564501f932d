"""Records as events: in the shapes of others' loggers, as the CloudEvents project's own package reads them."""

import json
import struct
from typing import Any

import numpy as np
import pytest

from gateway.export.events import Event, cloudevents, kserve, message, seldon
from gateway.prediction import record_json
from monitors.log.record import Payload, Record, Tensor
from tests.gateway.export.conftest import parse, record


def read(event: Event, form: str = "kserve") -> tuple[dict[str, Any], Any]:
    """Send an event through the package: its attributes and its data."""
    (found,) = parse(*message([event], form, 1))
    return found.get_attributes(), found.get_data()


def test_kserve_s_logger_would_have_sent_this() -> None:
    """Two events with the call's id, its extensions, and the protocol's JSON."""
    made = record()
    request, response = kserve(made, "production")
    attributes, data = read(request)
    assert attributes["type"] == "org.kubeflow.serving.inference.request"
    assert attributes["id"] == made.id
    assert attributes["specversion"] == "1.0"
    assert attributes["source"] == "/snowgate/production"
    assert attributes["inferenceservicename"] == "signs"
    assert attributes["namespace"] == "production"
    assert attributes["component"] == "predictor"
    assert attributes["endpoint"] == "canary"
    assert attributes["metadata"] == "{}"
    assert attributes["traceparent"] == f"00-{'ab' * 16}-{'cd' * 8}-00"
    assert attributes["time"].timestamp() == 1_700_000_000
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
    assert data == {"id": "mine", "parameters": {"timeout": 5}, "inputs": [x]}
    attributes, data = read(response)
    assert attributes["type"] == "org.kubeflow.serving.inference.response"
    assert attributes["id"] == made.id
    assert attributes["time"].timestamp() == 1_700_000_000.25
    assert (data["model_name"], data["model_version"], data["id"]) == ("signs", "2", "mine")
    assert data["outputs"] == [{"name": "y", "datatype": "INT64", "shape": [1], "data": [7]}]


def test_seldon_s_logger_would_have_sent_this() -> None:
    """Two events with ids of their own, put together by `requestid`; the body is the protocol's JSON."""
    made = record(variant="stable")
    request, response = seldon(made, "production")
    attributes, _data = read(request)
    assert attributes["type"] == "io.seldon.serving.inference.request"
    assert attributes["requestid"] == made.id
    assert attributes["modelid"] == attributes["inferenceservicename"] == "signs"
    assert (attributes["namespace"], attributes["endpoint"], attributes["protocol"]) == ("production", "default", "v2")
    other, _data = read(response)
    assert other["type"] == "io.seldon.serving.inference.response"
    assert other["requestid"] == made.id
    assert len({attributes["id"], other["id"], made.id}) == 3


def test_our_own_event_holds_the_whole_record() -> None:
    """What `prediction show -o json` prints, structured or in a batch, refused calls and those without payload too."""
    made = [record(), record(kind="refused", status=429, version=None, bundle=None, variant=None, payload=None)]
    events = [event for one in made for event in cloudevents(one, "production")]
    attributes, data = read(events[0], "cloudevents")
    assert data == json.loads(json.dumps(record_json(made[0])))
    assert (attributes["type"], attributes["subject"], attributes["id"]) == (
        "snowgate.prediction",
        "signs/2",
        made[0].id,
    )
    assert (attributes["bundledigest"], attributes["variant"]) == ("sha256:ab", "canary")
    batch = parse(*message(events, "cloudevents", 100))
    assert [one.get_id() for one in batch] == [one.id for one in made]
    assert batch[1].get_subject() == "signs"


@pytest.mark.parametrize(
    ("made", "types"),
    [
        (record(kind="refused", status=500, payload=Payload(inputs=[Tensor("x", "INT8", [1], b"\1")])), ["request"]),
        (record(kind="refused", status=422, payload=Payload(error="no")), []),
        (record(payload=None), []),
        (record(payload=Payload(unit="only")), []),
    ],
)
def test_what_there_is_no_body_of_becomes_no_event(made: Record, types: list[str]) -> None:
    """As in KServe: a response only where it was a good one. An erased payload, a refused body: nothing to send."""
    for make in (kserve, seldon):
        assert [one.attributes["type"].rpartition(".")[2] for one in make(made, "production")] == types
    assert len(cloudevents(made, "production")) == 1


def test_what_the_log_was_told_not_to_keep_is_left_out() -> None:
    """A tensor whose bytes are withheld is in no event of others' shapes, where it would be malformed; alone, it makes
    none. One in a file of its own goes as any other.
    """
    secret = Tensor("face", "UINT8", [3], b"", withheld="redacted")
    large = Tensor("x", "UINT8", [2], b"\1\2", data_ref="sha256:ab")
    answered = record(payload=Payload(inputs=[secret, large], outputs=[Tensor("y", "INT8", [1], b"\1")]))
    request, _response = kserve(answered, "production")
    assert request.data["inputs"] == [{"name": "x", "datatype": "UINT8", "shape": [2], "data": [1, 2]}]
    assert seldon(record(payload=Payload(inputs=[secret], outputs=[large])), "production") == []
    (whole,) = cloudevents(answered, "production")
    assert whole.data["inputs"][0]["withheld"] == "redacted"


def test_a_shadow_s_events_are_not_those_of_the_call_it_shadows() -> None:
    """Its record has the id of the call; receivers that drop doubles must not drop it."""
    primary, shadow = record(version="1", variant="stable"), record(version="2", kind="shadow", variant="shadow")
    shadow.id = primary.id
    for make in (kserve, seldon, cloudevents):
        ids = {one.attributes["id"] for one in make(primary, "production")}
        assert ids.isdisjoint(one.attributes["id"] for one in make(shadow, "production"))
    assert kserve(shadow, "production")[0].attributes["endpoint"] == "shadow"


@pytest.mark.parametrize(
    ("tensor", "datatype", "data"),
    [
        (Tensor("t", "BYTES", [2], b"\2\0\0\0\xc3\xa9\0\0\0\0"), "BYTES", ["é", ""]),
        (Tensor("t", "BYTES", [1], b"\1\0\0\0\xff"), "BYTES", ["/w=="]),
        (Tensor("t", "FP16", [2], np.array([0.5, -2], "<f2").tobytes()), "FP16", [0.5, -2.0]),
        (Tensor("t", "BF16", [1], struct.pack("<f", -1.5)[2:]), "FP32", [-1.5]),
        (Tensor("t", "FP64", [3], np.array([np.nan, np.inf, 1e300]).tobytes()), "FP64", [None, None, 1e300]),
        (Tensor("t", "BOOL", [2], b"\1\0"), "BOOL", [True, False]),
        (Tensor("t", "UINT64", [1], b"\xff" * 8), "UINT64", [2**64 - 1]),
    ],
)
def test_every_datatype_goes_as_json(tensor: Tensor, datatype: str, data: list[Any]) -> None:
    """What JSON has no number for is null, bytes that are no text are base64, and BF16 is the FP32 that it equals."""
    (event,) = kserve(record(payload=Payload(inputs=[tensor])), "production")
    _attributes, document = read(event)
    (found,) = document["inputs"]
    assert (found["datatype"], found["data"]) == (datatype, data)
    assert ("parameters" in found) == (data == ["/w=="])


def test_attributes_survive_their_header() -> None:
    """Spaces, quotes, percent signs and what is not ASCII are encoded as the binding says, and nothing else is."""
    odd = '100 % of "Ü"~\n'
    event = Event("id", record_attributes := kserve(record(), "production")[0].attributes | {"endpoint": odd}, {})
    headers, _body = event.binary()
    assert headers["ce-endpoint"] == "100%20%25%20of%20%22%C3%9C%22~%0A"
    assert headers["ce-source"] == record_attributes["source"]
    assert read(event)[0]["endpoint"] == odd

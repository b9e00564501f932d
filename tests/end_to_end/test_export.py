"""The export of a whole gateway: calls go in, events come out."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from bundles.home import Home
from bundles.packing import Packed
from tests.conftest import Gateway, snowgate, wait_until
from tests.gateway.export.conftest import EventReceiver


@pytest.fixture
def receiver() -> Iterator[EventReceiver]:
    """A receiver of one's own."""
    made = EventReceiver()
    yield made
    made.close()


def test_what_is_answered_arrives_as_kserve_s_logger_would_send_it(
    home: Home, packed: Packed, start: Callable[..., Gateway], receiver: EventReceiver
) -> None:
    """Requests and answers of a served model, by their prediction ids, over a kill of the exporter; the cursor, the
    metrics and `doctor`'s word for it when it is switched off.
    """
    snowgate(home.path, "deploy", "signs@1", "--to", "production")
    variables = {"SNOWGATE_EXPORT__URL": receiver.url, "SNOWGATE_EXPORT__FORMAT": "kserve"}
    gateway = start(home.path, variables=variables)
    ids = [gateway.call(values=[1, 2, 3 + number])[2]["Snowgate-Prediction-Id"] for number in range(5)]
    request, response = (f"org.kubeflow.serving.inference.{word}" for word in ("request", "response"))
    wait_until(lambda: sorted(receiver.ids(response)) == sorted(ids), what="the answers")
    assert sorted(receiver.ids(request)) == sorted(ids)
    answer = next(one for one in receiver.events if one.get_type() == response)
    data = answer.get_data()
    assert isinstance(data, dict)
    assert (data["model_name"], data["model_version"]) == ("signs", "1")
    assert data["outputs"][0]["datatype"] == "FP32"
    (exporter,) = wait_until(lambda: gateway.children("gateway.export.process"), what="the exporter")
    os.kill(exporter, signal.SIGKILL)
    ids.append(gateway.call()[2]["Snowgate-Prediction-Id"])
    wait_until(lambda: set(receiver.ids(response)) == set(ids), what="the answer after the kill")
    wait_until(lambda: "snowgate_export_lag_records 0.0" in _metrics(gateway), what="the metrics")
    assert 'snowgate_export_events_total{outcome="sent"}' in _metrics(gateway)
    cursors = {one["name"]: one for one in snowgate(home.path, "log", "cursors")}
    assert {"export", "monitor"} <= cursors.keys()
    assert cursors["export"]["in_use"] is True
    assert gateway.stop() == 0
    found = {one["check"]: one for one in snowgate(home.path, "doctor")}
    assert "switched off" in found["export"]["found"]


def _metrics(gateway: Gateway) -> str:
    return gateway.http.request("GET", f"{gateway.control}/metrics").data.decode()

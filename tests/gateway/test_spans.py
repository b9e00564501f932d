"""Spans as a collector gets them: a real gateway, a real OTLP receiver, protobuf on the wire."""

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.utils
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bundles.home import Home
from bundles.packing import Packed
from monitors.log.reader import LogReader
from tests.conftest import Gateway, snowgate, wait_until
from tests.gateway.test_lane import INFER, tensor

Start = Callable[..., Gateway]
PARENT = "00f067aa0ba902b7"


class Collector:
    """An OTLP/HTTP receiver that keeps what is exported to it."""

    def __init__(self) -> None:
        self.spans: list[tuple[dict[str, Any], Span]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == "/v1/traces"
                for resource in request.resource_spans:
                    said = attributes(resource.resource)
                    collector.spans += [(said, span) for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def trace(self, prediction_id: str) -> tuple[dict[str, Any], dict[str, Span]]:
        """Wait for one prediction's spans; return the resource and the spans by their names, the root as `root`."""

        def found() -> tuple[dict[str, Any], dict[str, Span]] | None:
            for resource, span in list(self.spans):
                if attributes(span).get("snowgate.prediction.id") == prediction_id:
                    mates = [one for _resource, one in list(self.spans) if one.trace_id == span.trace_id]
                    return resource, {one.name: one for one in mates if one is not span} | {"root": span}
            return None

        spans: tuple[dict[str, Any], dict[str, Span]] = wait_until(found, what="the trace")
        return spans

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


def attributes(one: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in one.attributes}


def parent(flags: str = "01") -> str:
    """A client's `traceparent`, of a trace of its own."""
    return f"00-{token_hex(16)}-{PARENT}-{flags}"


def traced(endpoint: str, **more: str) -> dict[str, str]:
    """The variables of a gateway that exports to an endpoint."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} | more


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of one's own."""
    receiver = Collector()
    yield receiver
    receiver.close()


NO_EFFECT = {
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/elsewhere",
    "OTEL_TRACES_SAMPLER": "always_off",
    "OTEL_SDK_DISABLED": "true",
    "OTEL_BSP_MAX_QUEUE_SIZE": "1",
}
"""Of OpenTelemetry's variables, as docs/tracing.md says: with them set, all is as it is without."""


@pytest.fixture(scope="module")
def shared(packed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Collector]]:
    """A gateway that traces whoever asks for it, and its collector, for tests that only ask."""
    receiver = Collector()
    folder = tmp_path_factory.mktemp("traced")
    home = Path(shutil.copytree(packed_home, folder / "home"))
    snowgate(home, "deploy", "signs@1")
    variables = traced(receiver.url, OTEL_SERVICE_NAME="roadside", SNOWGATE_TRACING__SAMPLE_RATIO="0")
    gateway = Gateway(home, folder / "serve.log", variables=variables | NO_EFFECT)
    yield gateway, receiver
    assert gateway.stop() == 0
    receiver.close()


@pytest.fixture
def signs(home: Home, packed: Packed) -> Home:
    """A home with signs@1 deployed."""
    snowgate(home.path, "deploy", "signs@1")
    return home


def metric(gateway: Gateway, name: str) -> float:
    """The sum of a metric's samples on the control port."""
    text = gateway.http.request("GET", gateway.control + "/metrics").data.decode()
    lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_who_gets_opentelemetrys_variables(shared: tuple[Gateway, Collector]) -> None:
    """Workers do, where the exporter reads them; runners, in which a model's code runs, do not: they may be secrets."""
    gateway, _collector = shared
    for process, gets in (("gateway.worker", True), ("bundles/runner", False)):
        (pid,) = gateway.children(process)
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert (b"OTEL_SERVICE_NAME=roadside" in variables) is gets
        assert not [one for one in variables if one.startswith(b"SNOWGATE_")]


def test_a_traced_call_is_one_tree_under_the_clients_span(shared: tuple[Gateway, Collector]) -> None:
    """Seven spans, with the client's as parent; its parts follow each other within it; the record has the ids."""
    gateway, collector = shared
    theirs = parent()
    trace_id = theirs.split("-")[1]
    status, _answer, headers = gateway.call(traceparent=theirs, tracestate="vendor=1,other=2")
    assert status == 200
    prediction_id = headers["Snowgate-Prediction-Id"]
    resource, spans = collector.trace(prediction_id)
    root = spans["root"]

    assert set(spans) == {"root", "decode", "queue", "runner", "compute", "encode", "log"}
    assert root.name == "POST /v2/models/{model}/infer"
    assert (root.kind, root.status.code) == (Span.SPAN_KIND_SERVER, Status.STATUS_CODE_UNSET)
    assert (root.trace_id.hex(), root.parent_span_id.hex(), root.trace_state) == (trace_id, PARENT, "vendor=1,other=2")
    assert headers["traceparent"] == f"00-{trace_id}-{root.span_id.hex()}-01"
    assert len({span.span_id for span in spans.values()}) == 7
    for name, span in spans.items():
        if name != "root":
            assert span.trace_id == root.trace_id
            above = spans["runner"] if name == "compute" else root
            assert span.parent_span_id == above.span_id, name
            assert above.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano, name
            assert span.end_time_unix_nano <= above.end_time_unix_nano, name
    order = [spans[name] for name in ("decode", "queue", "runner", "encode", "log")]
    for before, after in pairwise(order):
        assert before.end_time_unix_nano <= after.start_time_unix_nano + 1000, after.name  # Milliseconds are floats.
    assert abs(root.start_time_unix_nano / 1e9 - time.time()) < 60

    record = LogReader(Home(gateway.home).log).find(prediction_id)
    assert record is not None
    assert (record.trace_id, record.span_id) == (trace_id, root.span_id.hex())
    shown = gateway.snowgate("prediction", "show", prediction_id)
    assert (shown["trace_id"], shown["span_id"]) == (trace_id, root.span_id.hex())
    computed = spans["compute"].end_time_unix_nano - spans["compute"].start_time_unix_nano
    assert computed / 1e6 == pytest.approx(record.timings["compute"], abs=0.001)

    said = attributes(root)
    assert said["http.request.method"] == "POST"
    assert said["http.response.status_code"] == 200
    assert said["url.path"] == INFER
    assert said["http.route"] == "/v2/models/{model}/infer"
    assert (said["snowgate.model.name"], said["snowgate.model.version"]) == ("signs", "1")
    assert said["snowgate.bundle"] == headers["Snowgate-Bundle"]
    variant = {name.rpartition(".")[2]: value for name, value in said.items() if name.startswith("feature_flag.")}
    assert variant["key"] == "signs"
    assert (variant["variant"], variant["reason"]) == ("stable", "default")
    assert "error.type" not in said
    computing = attributes(spans["compute"])
    assert computing["snowgate.batch.rows"] == 1
    assert computing["snowgate.runner.pid"] in gateway.children("runner")
    assert resource["service.name"] == "roadside"
    assert resource["snowgate.worker"] == "w0"
    assert resource["process.pid"] in gateway.children("gateway.worker")
    assert resource["deployment.environment.name"] == "production"


def test_latencies_point_at_traces(shared: tuple[Gateway, Collector]) -> None:
    """Scraped as OpenMetrics, a bucket of the latencies has the newest traced call as its exemplar."""
    gateway, _collector = shared
    headers = gateway.call(traceparent=parent())[2]
    trace_id, prediction_id = headers["traceparent"].split("-")[1], headers["Snowgate-Prediction-Id"]
    wanted = f'# {{prediction_id="{prediction_id}",trace_id="{trace_id}"}}'
    accept = {"Accept": "application/openmetrics-text"}

    def pointed() -> list[str]:
        page = gateway.http.request("GET", gateway.control + "/metrics", headers=accept).data.decode()
        return [line for line in page.splitlines() if wanted in line]

    (line,) = wait_until(pointed, what="the exemplar")
    assert line.startswith("snowgate_request_duration_seconds_bucket{")
    assert f'variant="{headers["Snowgate-Variant"]}"' in line
    plain = gateway.http.request("GET", gateway.control + "/metrics").data.decode()
    assert "trace_id" not in plain


def test_who_is_not_sampled_is_not_exported(signs: Home, start: Start, collector: Collector) -> None:
    """Neither chance at ratio 0, nor a client that does not record, nor a broken header makes a trace.

    The ids of a valid header are in the record all the same, and the answer says that nothing was recorded.
    """
    gateway = start(signs.path, variables=traced(collector.url, SNOWGATE_TRACING__SAMPLE_RATIO="0"))
    plain = gateway.call()[2]
    theirs = parent("00")
    unwanted = gateway.call(traceparent=theirs)[2]
    broken = gateway.call(traceparent=parent("0g"), tracestate="vendor=1")[2]
    wanted = gateway.call(traceparent=parent())[2]
    collector.trace(wanted["Snowgate-Prediction-Id"])
    assert "traceparent" not in plain
    assert "traceparent" not in broken
    assert unwanted["traceparent"].split("-")[::3] == ["00", "00"]
    records = LogReader(signs.log)
    kept = [records.find(one["Snowgate-Prediction-Id"]) for one in (plain, unwanted, broken)]
    assert [None if one is None else one.trace_id for one in kept] == [None, theirs.split("-")[1], None]
    assert gateway.stop() == 0  # What waited would have been exported now.
    assert len(collector.spans) == 7


def test_chance_begins_traces_of_its_own(signs: Home, start: Start, collector: Collector) -> None:
    """At ratio 1 a call without a header is the root of a new trace, which its answer names; ids differ."""
    gateway = start(signs.path, variables=traced(collector.url, SNOWGATE_TRACING__SAMPLE_RATIO="1"))
    answers = [gateway.call()[2] for _ in range(5)]
    for headers in answers:
        _resource, spans = collector.trace(headers["Snowgate-Prediction-Id"])
        assert spans["root"].parent_span_id == b""
        version, trace_id, span_id, flags = headers["traceparent"].split("-")
        assert (version, flags) == ("00", "03")  # Sampled, and the id is random.
        assert (trace_id, span_id) == (spans["root"].trace_id.hex(), spans["root"].span_id.hex())
    assert len({headers["traceparent"] for headers in answers}) == 5


def test_a_client_cannot_flood_the_collector(signs: Home, start: Start, collector: Collector) -> None:
    """Beyond the limit calls are served without a trace, and counted; the limit is split among the workers."""
    limit = {"SNOWGATE_TRACING__TRACES_PER_SECOND_MAX": "0"}
    gateway = start(signs.path, "--workers", "2", variables=traced(collector.url, **limit))
    for _ in range(10):
        status, _answer, headers = gateway.call(traceparent=parent())
        assert (status, headers["traceparent"][-2:]) == (200, "00")
    wait_until(lambda: metric(gateway, "snowgate_traces_over_limit_total") == 10, what="the count")
    assert gateway.stop() == 0
    assert collector.spans == []


def test_failed_and_refused_calls(shared: tuple[Gateway, Collector]) -> None:
    """What fails here is an error by name; a client's mistake is named, and no error of the server's."""
    gateway, collector = shared
    status, _answer, headers = gateway.post(INFER, tensor(data=[2000, 0, 0]), traceparent=parent())
    assert status == 500
    spans = collector.trace(headers["Snowgate-Prediction-Id"])[1]
    assert spans["root"].status.code == Status.STATUS_CODE_ERROR
    assert "larger than 1000" in spans["root"].status.message
    assert attributes(spans["root"])["error.type"] == "model_failed"
    assert set(spans) == {"root", "decode", "log"}

    status, _answer, headers = gateway.post("/v2/models/nothing/versions/3/infer", tensor(), traceparent=parent())
    assert status == 404
    root = collector.trace(headers["Snowgate-Prediction-Id"])[1]["root"]
    assert root.name == "POST /v2/models/{model}/versions/{version}/infer"
    assert root.status.code == Status.STATUS_CODE_UNSET
    said = attributes(root)
    assert (said["error.type"], said["http.response.status_code"]) == ("not_found", 404)
    assert said["url.path"] == "/v2/models/nothing/versions/3/infer"


def test_calls_by_grpc(shared: tuple[Gateway, Collector]) -> None:
    """Trace context comes in and goes out as metadata; the span has gRPC's names, and the code of the answer."""
    gateway, collector = shared
    rows = tritonclient.grpc.InferInput("x", [1, 3], "FP32")
    with tritonclient.grpc.InferenceServerClient(gateway.ready["grpc"]) as client:
        rows.set_data_from_numpy(np.array([[1, 2, 3]], np.float32))
        theirs = parent()
        headers = {"traceparent": theirs, "tracestate": "vendor=1"}
        answer = client.infer("signs", [rows], headers=headers).get_response()
        spans = collector.trace(answer.parameters["snowgate_prediction_id"].string_param)[1]
        root = spans["root"]
        assert root.name == "inference.GRPCInferenceService/ModelInfer"
        assert (root.trace_id.hex(), root.parent_span_id.hex()) == (theirs.split("-")[1], PARENT)
        assert root.trace_state == "vendor=1"
        assert set(spans) == {"root", "decode", "queue", "runner", "compute", "encode", "log"}
        assert attributes(root)["rpc.response.status_code"] == "OK"
        assert not [name for name in attributes(root) if name.startswith("http.")]

        rows.set_data_from_numpy(np.array([[2000, 0, 0]], np.float32))
        failing = parent()
        with pytest.raises(tritonclient.utils.InferenceServerException, match="larger than 1000"):
            client.infer("signs", [rows], headers={"traceparent": failing})
    failed = wait_until(
        lambda: [
            one for _said, one in collector.spans if one.trace_id.hex() == failing.split("-")[1] and one.kind == 2
        ],
        what="the failed call",
    )
    assert attributes(failed[0])["rpc.response.status_code"] == "INTERNAL"
    assert failed[0].status.code == Status.STATUS_CODE_ERROR


def test_calls_of_one_batch_say_so(shared: tuple[Gateway, Collector]) -> None:
    """Calls that were computed together name the rows of their batch; each has its own trace."""
    gateway, collector = shared
    count = 16
    host, _colon, port = gateway.url.removeprefix("http://").partition(":")
    body = tensor()
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"

    def together() -> bool:
        ends = [socket.create_connection((host, int(port))) for _ in range(count)]
        for end in ends:
            end.sendall(f"{head}traceparent: {parent()}\r\n\r\n".encode() + body)
        ids = []
        for end in ends:
            with end, end.makefile("rb") as file:
                lines = iter(file.readline, b"\r\n")
                named = dict(line.decode().rstrip().split(": ", 1) for line in lines if b": " in line)
                ids.append(named["Snowgate-Prediction-Id"])
        traces = [collector.trace(one)[1] for one in ids]
        assert len({spans["root"].trace_id for spans in traces}) == count
        rows = [attributes(spans["runner"])["snowgate.batch.rows"] for spans in traces]
        kept = [LogReader(Home(gateway.home).log).find(one) for one in ids]
        assert rows == [one.batch_size for one in kept if one is not None]
        return bool(max(rows) > 1)

    wait_until(together, what="a batch of several calls")


def test_a_collector_that_is_down_hurts_nobody(signs: Home, start: Start, tmp_path: Path) -> None:
    """Calls are served, the spans are counted as dropped, and one line says so."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:  # It listens, and never answers.
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        gateway = start(signs.path, variables=traced(endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="1"))
        for _ in range(20):
            assert gateway.call(traceparent=parent())[0] == 200
        wait_until(lambda: metric(gateway, "snowgate_spans_dropped_total") > 0, what="the count of dropped spans")
        assert gateway.call(traceparent=parent())[0] == 200
        assert gateway.stop() == 0
    lines = gateway.log.read_text().splitlines()
    assert len([line for line in lines if "does not take spans" in line]) == 1
    assert not [line for line in lines if "Traceback" in line]


def test_a_collector_that_hangs_does_not_hold_up_the_end(signs: Home, start: Start) -> None:
    """Spans that nobody takes are given up within the grace time, and counted: control need not kill the worker."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        patient = {"OTEL_EXPORTER_OTLP_TIMEOUT": "100", "SNOWGATE_SERVER__DRAIN_SECONDS": "1"}
        gateway = start(signs.path, variables=traced(endpoint, **patient))
        assert gateway.call(traceparent=parent())[0] == 200
        assert gateway.stop() == 0
    lines = gateway.log.read_text()
    assert "7 spans could not be exported within 3 s at the end" in lines
    assert "killed" not in lines


def test_what_waits_is_exported_at_the_end(signs: Home, start: Start, collector: Collector) -> None:
    """SIGTERM right after a traced call: its spans arrive before the worker ends."""
    gateway = start(signs.path, variables=traced(collector.url))
    prediction_id = gateway.call(traceparent=parent())[2]["Snowgate-Prediction-Id"]
    assert gateway.stop() == 0
    assert [one for _resource, one in collector.spans if attributes(one).get("snowgate.prediction.id") == prediction_id]


def test_without_an_endpoint_a_clients_trace_goes_on(gateway: Gateway, shared_home: Home) -> None:
    """Ids are carried into record and answer, whose flag says that nothing is recorded; the SDK is not imported."""
    theirs = parent()
    headers = gateway.call(traceparent=theirs)[2]
    trace_id, span_id, flags = headers["traceparent"].split("-")[1:]
    assert (trace_id, flags) == (theirs.split("-")[1], "00")
    record = LogReader(shared_home.log).find(headers["Snowgate-Prediction-Id"])
    assert record is not None
    assert (record.trace_id, record.span_id) == (trace_id, span_id)
    program = "import sys, gateway.worker; sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

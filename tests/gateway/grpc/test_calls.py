"""What becomes of calls over gRPC: metadata, errors, deadlines, cancellation, keys, several workers, the end."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bundles.home import Home
from bundles.packing import Packed, pack
from gateway.grpc import http2
from monitors.log.reader import LogReader
from tests.conftest import Gateway, snowgate, wait_until, write_model
from tests.gateway.grpc.peer import INFER, InferRequest, InferResponse, Peer, row

SLOW = """
        import time
        time.sleep(max(0.0, float(x[:, 2][x[:, 0] == -77].max(initial=0))))
"""
"""The model of the tests, but a row that begins with -77 takes as many seconds as its last number says."""
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def slow(home: Home, tmp_path: Path) -> Home:
    """A home whose model can be told to take its time."""
    folder = write_model(tmp_path / "slow")
    code = (folder / "model.py").read_text()
    (folder / "model.py").write_text(code.replace('        x = inputs["x"]\n', '        x = inputs["x"]\n' + SLOW))
    pack(home, folder, model="signs")
    snowgate(home.path, "deploy", "signs@1", "--to", "production")
    return home


def request(*values: float) -> Any:
    """A call with one row."""
    made = InferRequest(model_name="signs", raw_input_contents=[np.array(values, "<f4").tobytes()])
    made.inputs.add(name="x", datatype="FP32", shape=[1, len(values)])
    return made


def inference(channel: grpc.Channel) -> Any:
    """The method, on our own messages."""
    return channel.unary_unary(
        INFER, request_serializer=InferRequest.SerializeToString, response_deserializer=InferResponse.FromString
    )


def test_an_answer_says_where_it_comes_from(gateway: Gateway, shared_home: Home) -> None:
    """Initial metadata and parameters carry id, digest and variant; request id, trace and unit are taken over."""
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        sent = (("x-request-id", "r-1"), ("traceparent", TRACE), ("snowgate-unit", "camera-7"))
        answer, call = inference(channel).with_call(request(1, 2, 3), metadata=sent)
    first = dict(call.initial_metadata())
    assert answer.parameters["snowgate_prediction_id"].string_param == first["snowgate-prediction-id"]
    assert answer.parameters["snowgate_bundle"].string_param == first["snowgate-bundle"]
    assert first["snowgate-variant"] in ("stable", "canary")
    assert first["x-request-id"] == "r-1"
    assert first["traceparent"].split("-")[1] == TRACE.split("-")[1]
    record = LogReader(shared_home.log).find(first["snowgate-prediction-id"])
    assert record is not None
    assert (record.kind, record.trace_id) == ("answered", TRACE.split("-")[1])
    assert record.payload is not None
    assert (record.payload.unit, record.payload.request_id) == ("camera-7", "r-1")
    assert record.payload.inputs[0].data == np.array([1, 2, 3], "<f4").tobytes()


def test_a_unit_has_one_version_on_every_wire(gateway: Gateway) -> None:
    """The split is the same over gRPC as over HTTP."""
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        for number in range(40):
            answer = inference(channel)(request(1, 2, 3), metadata=(("snowgate-unit", f"unit-{number}"),))
            assert answer.model_version == gateway.call(Snowgate_Unit=f"unit-{number}")[1]["model_version"]


WRONG = {
    "shape": (request(1, 2), grpc.StatusCode.INVALID_ARGUMENT, "'x': shape [1, 2], expected [-1, 3]"),
    "model": (InferRequest(model_name="nothing"), grpc.StatusCode.NOT_FOUND, "unknown model: 'nothing'"),
    "version": (InferRequest(model_name="signs", model_version="9"), grpc.StatusCode.NOT_FOUND, "version '9'"),
    "the model raises": (request(2000, 0, 0), grpc.StatusCode.INTERNAL, "ValueError: larger than 1000"),
    "words beyond ASCII": (InferRequest(model_name="Schnee%❄"), grpc.StatusCode.NOT_FOUND, "'Schnee%❄'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors(gateway: Gateway, shared_home: Home, case: str) -> None:
    """The code says whose fault it is, the sentence what; the refusal is in the log under the id in the metadata."""
    wrong, code, words = WRONG[case]
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel, pytest.raises(grpc.RpcError) as refused:
        inference(channel)(wrong)
    assert refused.value.code() == code
    assert words in refused.value.details()
    prediction_id = dict(refused.value.initial_metadata())["snowgate-prediction-id"]
    # A call for an unknown model is counted, within a second; all others are there before the answer.
    record = wait_until(lambda: LogReader(shared_home.log).find(prediction_id), what="the record")
    assert record.kind == "refused"


def test_another_hosts_name_is_refused(gateway: Gateway) -> None:
    """The port of this machine is not to be called by a name that somebody else points at it."""
    options = (("grpc.default_authority", "evil.example"),)
    with grpc.insecure_channel(gateway.ready["grpc"], options=options) as channel:
        with pytest.raises(grpc.RpcError, match=r"evil\.example") as refused:
            inference(channel)(request(1, 2, 3))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        listed = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
        with pytest.raises(grpc.RpcError, match=r"evil\.example"):
            listed(b"")


def test_deadlines_and_cancellation(slow: Home, start: Callable[..., Gateway]) -> None:
    """A deadline that passes ends its call; one that is taken back harms neither its mates nor those behind it."""
    gateway = start(slow.path, variables={"SNOWGATE_SERVER__TIMEOUT_SECONDS": "20"})
    with Peer(gateway.ready["grpc"]) as peer:
        peer.call(1, prefixed_request(-77, 0, 5), grpc_timeout="100m")
        assert peer.answer(1)[2]["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        call = inference(channel)
        with pytest.raises(grpc.RpcError) as late:
            call(request(1, 2, 3), timeout=0.2)  # Still behind the one that sleeps.
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        first = call.future(request(-77, 0, 1.5))
        mates = [call.future(request(-77, 0, number / 10)) for number in range(6)]
        mates[1].cancel()
        mates[3].cancel()
        assert [one.result(20).outputs[0].name for one in (first, *mates[::2], mates[5])] == ["y"] * 5

    def ends() -> list[str]:
        return sorted(str(one.error_type) for one in LogReader(slow.log).records() if one.kind == "refused")

    wait_until(lambda: ends().count("client_gone") >= 2 and ends().count("timed_out") >= 1, what="the records")


def prefixed_request(*values: float) -> bytes:
    """A row as gRPC frames it."""
    data: bytes = request(*values).SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data


def test_keys(packed: Packed, home: Home, start: Callable[..., Gateway], tmp_path: Path) -> None:
    """Where keys are set every method but health asks for one, in either form."""
    snowgate(home.path, "deploy", "signs@1", "--to", "production")
    (tmp_path / "keys").write_text("correct-horse\n")
    gateway = start(home.path, "--api-keys-file", str(tmp_path / "keys"))
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        call = inference(channel)
        for metadata in ((), (("x-api-key", "wrong"),), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.RpcError, match="API key") as refused:
                call(request(1, 2, 3), metadata=metadata)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        for metadata in ((("x-api-key", "correct-horse"),), (("authorization", "Bearer correct-horse"),)):
            assert call(request(1, 2, 3), metadata=metadata).model_name == "signs"
        with pytest.raises(grpc.RpcError, match="API key"):
            channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")(b"")
        for path in ("/inference.GRPCInferenceService/ModelStreamInfer", REFLECTION):
            with pytest.raises(grpc.RpcError, match="API key"):
                next(channel.stream_stream(path)(iter([b""])))
        assert channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"") == b"\x08\x01"
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1


def test_limits_of_time(packed: Packed, home: Home, start: Callable[..., Gateway]) -> None:
    """A message that does not come whole is refused; a connection that is old is replaced, and no call is lost."""
    snowgate(home.path, "deploy", "signs@1", "--to", "production")
    limits = {"SNOWGATE_SERVER__GRPC_CONNECTION_SECONDS": "1", "SNOWGATE_SERVER__BODY_SECONDS": "0.3"}
    limits["SNOWGATE_SERVER__MAX_WAITING_BYTES"] = "100000"
    gateway = start(home.path, variables=limits)
    with Peer(gateway.ready["grpc"]) as peer:
        peer.send(http2.HEADERS, http2.END_HEADERS, 1, peer.block())
        peer.send(http2.DATA, 0, 1, row()[:9])
        last = peer.answer(1)[2]
        assert (last["grpc-status"], "not whole within 0.3 s" in last["grpc-message"]) == ("4", True)
        assert peer.wait(http2.GOAWAY).payload[4:] == http2.number(http2.NO_ERROR)
    with Peer(gateway.ready["grpc"]) as peer:
        for stream in (1, 3):  # The second time around nothing is left of the first.
            peer.send(http2.HEADERS, http2.END_HEADERS, stream, peer.block())
            for at in range(0, 120_000, 12_000):
                peer.send(http2.DATA, 0, stream, row(size=12_000)[at : at + 12_000])
            last = peer.answer(stream)[2]
            assert (last["grpc-status"], "max_waiting_bytes" in last["grpc-message"]) == ("14", True)
            assert last["grpc-retry-pushback-ms"] == "1000"
    with Peer(gateway.ready["grpc"], greeted=False) as silent:
        assert silent.ended()
    ports: set[int] = set()
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        call = inference(channel)
        deadline = time.monotonic() + 30
        while len(ports) < 3 and time.monotonic() < deadline:
            assert call(request(1, 2, 3)).model_name == "signs"
            ports |= connected_ports(gateway)
    assert len(ports) >= 3


def connected_ports(gateway: Gateway) -> set[int]:
    """The clients' ports of the connections that this machine has to the gateway's gRPC port."""
    port = int(gateway.ready["grpc"].rsplit(":", 1)[1])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {
        int(line[2].split(":")[1], 16) for line in lines if int(line[1].split(":")[1], 16) == port and line[3] == "01"
    }


def test_two_workers_share_the_port(packed: Packed, home: Home, start: Callable[..., Gateway]) -> None:
    """Connections reach both workers, and each answers."""
    snowgate(home.path, "deploy", "signs@1", "--to", "production")
    gateway = start(home.path, "--workers", "2")
    deadline = time.monotonic() + 60
    writers: set[str] = set()
    while len(writers) < 2 and time.monotonic() < deadline:
        peers = [Peer(gateway.ready["grpc"]) for _ in range(20)]
        for peer in peers:
            peer.call(1)
        for peer in peers:
            assert peer.answer(1)[2] == {"grpc-status": "0"}
            peer.socket.close()
        writers = {path.parent.name for path in home.log.glob("w*/*") if path.stat().st_size > 5_000}
    assert writers == {"w0", "w1"}


def test_the_end(slow: Home, start: Callable[..., Gateway]) -> None:
    """SIGTERM: what was accepted is answered, watchers hear of it, new calls are not taken, and the process ends."""
    gateway = start(slow.path)
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel, ThreadPoolExecutor(8) as threads:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        call = inference(channel)
        calls = [threads.submit(call, request(-77, 0, 1)) for _ in range(5)]
        wait_until(lambda: waiting(gateway) >= 1, what="the calls' arrival")
        gateway.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        assert [one.result(20).model_name for one in calls] == ["signs"] * 5
        assert gateway.stop() == 0


def waiting(gateway: Gateway) -> int:
    """Calls that have come."""
    text = gateway.http.request("GET", f"{gateway.control}/metrics").data.decode()
    return int(sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("snowgate_received_total")))


def test_streams_end_with_the_gateway(packed: Packed, home: Home, start: Callable[..., Gateway]) -> None:
    """A stream of calls that is open when the gateway drains has its answers, and does not hold the gateway up."""
    snowgate(home.path, "deploy", "signs@1", "--to", "production")
    gateway = start(home.path)
    answers: list[Any] = []
    client = tritonclient.grpc.InferenceServerClient(gateway.ready["grpc"])
    client.start_stream(lambda result, error: answers.append((result, error)))
    given = tritonclient.grpc.InferInput("x", [1, 3], "FP32").set_data_from_numpy(np.ones((1, 3), np.float32))
    client.async_stream_infer("signs", [given])
    wait_until(lambda: answers, what="an answer")
    assert answers[0][1] is None
    assert gateway.stop() == 0
    wait_until(lambda: len(answers) == 2, what="the end of the stream")
    assert "draining" in str(answers[1][1])
    client.stop_stream()
    client.close()


def test_ports(packed: Packed, home: Home, start: Callable[..., Gateway]) -> None:
    """GRPC's port may be chosen, and gRPC switched off; the ready line says which."""
    off = start(home.path, variables={"SNOWGATE_SERVER__GRPC": "false"})
    assert off.ready["grpc"] is None
    off.stop()
    port = int(off.url.rsplit(":", 1)[1])
    chosen = start(home.path, "--grpc-port", str(port))
    assert chosen.ready["grpc"] == f"127.0.0.1:{port}"


def test_load_and_unload(packed: Packed, home: Home, start: Callable[..., Gateway]) -> None:
    """Where clients may, they load and unload over gRPC too; overrides of what was signed are refused."""
    gateway = start(home.path, variables={"SNOWGATE_SERVER__REPOSITORY_API": "true"})
    with tritonclient.grpc.InferenceServerClient(gateway.ready["grpc"]) as client:
        assert not client.is_server_ready()
        [found] = client.get_model_repository_index().models
        assert (found.name, found.state) == ("signs", "UNAVAILABLE")
        with pytest.raises(tritonclient.utils.InferenceServerException, match="packed and signed") as refused:
            client.load_model("signs", config="{}")
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
        client.load_model("signs")
        assert client.is_model_ready("signs")
        assert gateway.call()[0] == 200
        client.unload_model("signs")
        assert not client.is_model_ready("signs")
    # KServe's message has the model's name as its first field, where Triton's has the repository's.
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        for method, ready in (("Load", 200), ("Unload", 404)):
            asked = channel.unary_unary(f"/inference.GRPCInferenceService/RepositoryModel{method}")
            assert asked(b"\x0a\x05signs", timeout=60) == b""
            assert gateway.call()[0] == ready

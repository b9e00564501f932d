"""The gRPC port, asked by other people's clients as they come."""

import asyncio
import queue
import subprocess
import sys
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.conftest import Gateway

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)

OPEN_INFERENCE = """
import sys

import grpc
from open_inference.grpc import protocol, service

with grpc.insecure_channel(sys.argv[1]) as channel:
    client = service.GRPCInferenceServiceStub(channel)
    assert client.ServerReady(protocol.ServerReadyRequest()).ready
    assert client.ModelMetadata(protocol.ModelMetadataRequest(name="signs")).platform == "python_class"
    contents = protocol.InferTensorContents(fp32_contents=[1, 2, 3])
    tensor = protocol.ModelInferRequest.InferInputTensor(name="x", shape=[1, 3], datatype="FP32", contents=contents)
    answer = client.ModelInfer(protocol.ModelInferRequest(model_name="signs", model_version="1", inputs=[tensor]))
    assert list(answer.outputs[0].contents.fp32_contents) == [6, -6], answer
    assert not answer.raw_output_contents, answer
"""
"""It runs in a process of its own: `tritonclient` has messages of the same names."""


def rows(module: Any = tritonclient.grpc) -> Any:
    """Two rows for the model, as the client takes them."""
    given = module.InferInput("x", [2, 3], "FP32")
    given.set_data_from_numpy(ROWS)
    return given


def test_triton_client(gateway: Gateway) -> None:
    """The reference client works as it comes: health, metadata, tensors both ways, errors with their codes."""
    with tritonclient.grpc.InferenceServerClient(gateway.ready["grpc"]) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("signs")
        assert client.is_model_ready("signs", "2")
        assert not client.is_model_ready("nothing")
        assert not client.is_model_ready("signs", "9")
        assert client.get_server_metadata().name == "snowgate"
        metadata = client.get_model_metadata("signs", as_json=True)
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "3"]}]
        assert metadata["versions"] == ["1", "2"]
        wanted = tritonclient.grpc.InferRequestedOutput("y")
        for compression in (None, "gzip", "deflate"):
            result = client.infer(
                "signs", [rows()], "1", [wanted], request_id="t", compression_algorithm=compression, timeout=10**7
            )
            np.testing.assert_allclose(result.as_numpy("y"), [[3, -3], [12, -12]])
            assert result.get_response().id == "t"
        np.testing.assert_allclose(client.infer("signs", [rows()], "1").as_numpy("y")[:, 0], [3, 12])
        with pytest.raises(tritonclient.utils.InferenceServerException, match="expected") as refused:
            client.infer("signs", [tritonclient.grpc.InferInput("z", [2, 3], "FP32").set_data_from_numpy(ROWS)])
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
        for call in (client.get_trace_settings, client.get_log_settings, client.get_system_shared_memory_status):
            with pytest.raises(tritonclient.utils.InferenceServerException, match=r"docs/protocol.md") as refused:
                call()
            assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_triton_client_extensions(gateway: Gateway) -> None:
    """Index, statistics and configuration say what the same questions over HTTP say; load is refused when it is off."""
    with tritonclient.grpc.InferenceServerClient(gateway.ready["grpc"]) as client:
        client.infer("signs", [rows()], "1")
        index = client.get_model_repository_index(as_json=True)["models"]
        found = gateway.post("/v2/repository/index", b"")[1]
        assert [one | {"reason": ""} for one in index] == found
        config = client.get_model_config("signs", "1", as_json=True)["config"]
        status, document = gateway.get("/v2/models/signs/versions/1/config")
        assert status == 200
        assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3"]}]
        assert (config["name"], config["max_batch_size"]) == (document["name"], document["max_batch_size"])
        statistics = client.get_inference_statistics("signs", "1").model_stats
        assert [(one.name, one.version) for one in statistics] == [("signs", "1")]
        assert statistics[0].inference_stats.success.count > 0
        assert {one.version for one in client.get_inference_statistics().model_stats} == {"1", "2"}
        with pytest.raises(tritonclient.utils.InferenceServerException, match="repository_api") as refused:
            client.unload_model("signs")
        assert refused.value.status() == "StatusCode.PERMISSION_DENIED"
        with pytest.raises(tritonclient.utils.InferenceServerException, match="not found") as refused:
            client.get_model_config("nothing")
        assert refused.value.status() == "StatusCode.NOT_FOUND"


def test_triton_client_stream(gateway: Gateway) -> None:
    """A stream of calls: the answers come in the order of the calls, an error is one of them, and the stream ends."""
    answers: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(gateway.ready["grpc"]) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(50):
            client.async_stream_infer("signs", [rows()], model_version="1", request_id=str(number))
        client.async_stream_infer("nothing", [rows()], request_id="wrong")
        client.async_stream_infer("signs", [rows()], model_version="1", request_id="after")
        found = [answers.get(timeout=20) for _ in range(52)]
        client.stop_stream()
    assert [result.get_response().id for result, _error in found[:50]] == [str(number) for number in range(50)]
    assert "Request for unknown model: 'nothing'" in str(found[50][1])
    np.testing.assert_allclose(found[51][0].as_numpy("y"), [[3, -3], [12, -12]])


def test_triton_client_aio(gateway: Gateway) -> None:
    """The asyncio client, many calls at once over one connection: each gets its own answer."""

    async def run() -> None:
        async with tritonclient.grpc.aio.InferenceServerClient(gateway.ready["grpc"]) as client:

            async def one(number: int) -> None:
                given = tritonclient.grpc.InferInput("x", [1, 3], "FP32")
                given.set_data_from_numpy(np.full((1, 3), number, np.float32))
                result = await client.infer("signs", [given], model_version="1")
                np.testing.assert_allclose(result.as_numpy("y"), [[3 * number, -3 * number]])

            await asyncio.gather(*(one(number) for number in range(300)))

    asyncio.run(run())


def test_open_inference_client(gateway: Gateway) -> None:
    """The client that is made of the published protocol: typed contents in, typed contents out."""
    command = [sys.executable, "-c", OPEN_INFERENCE, gateway.ready["grpc"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_health_client(gateway: Gateway) -> None:
    """The health client of gRPC itself: the server by the empty name, the service by its name, models by theirs."""
    serving = health_pb2.HealthCheckResponse.SERVING
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        client = health_pb2_grpc.HealthStub(channel)
        for name in ("", "inference.GRPCInferenceService", "signs"):
            assert client.Check(health_pb2.HealthCheckRequest(service=name)).status == serving
        with pytest.raises(grpc.RpcError) as refused:
            client.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        watch = client.Watch(health_pb2.HealthCheckRequest(service="nothing"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()
        listed = channel.unary_unary("/grpc.health.v1.Health/List")(b"")
        assert b"signs" in listed


def test_reflection_client(gateway: Gateway) -> None:
    """The reflection client of gRPC itself learns the services and the messages from the server alone."""
    with grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= services
        pool = DescriptorPool(database)
        found = pool.FindServiceByName("inference.GRPCInferenceService")
        assert found.FindMethodByName("ModelInfer").input_type.full_name == "inference.ModelInferRequest"
        for name in services:
            assert pool.FindServiceByName(name).full_name == name
        with pytest.raises(KeyError):
            pool.FindMessageTypeByName("inference.Nothing")

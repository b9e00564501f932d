"""Clients that others wrote, as they come: each asks for all that it can, and every answer is compared."""

import asyncio
import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http
import tritonclient.http.aio
from open_inference.openapi.client import AsyncOpenInferenceClient, OpenInferenceClient
from open_inference.openapi.errors import BadRequestError, NotFoundError
from open_inference.openapi.types import InferenceRequest, RequestInput, TensorData
from tritonclient.utils import InferenceServerException

from tests.conftest import Gateway

KSERVE_PYTHON = Path(os.environ.get("KSERVE_PYTHON", ".venv/kserve/bin/python"))
"""An interpreter with `kserve` installed: it pins much of what we use, so it has an environment of its own."""
SCRIPT = Path(__file__).parent / "kserve_client.py"
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
SUMS = ROWS.sum(axis=1)


def triton_input(*, binary: bool) -> Any:
    """Two rows in the reference client's form."""
    given = tritonclient.http.InferInput("x", [2, 3], "FP32")
    given.set_data_from_numpy(ROWS, binary_data=binary)
    return given


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_tritonclient_aio(gateway: Gateway, binary: bool, coding: str | None) -> None:
    """The asynchronous reference client: health, metadata, statistics, and inference in both forms and codings."""

    async def ask() -> None:
        client = tritonclient.http.aio.InferenceServerClient(gateway.url.removeprefix("http://"))
        try:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("signs", "1")
            assert not await client.is_model_ready("nope")
            assert (await client.get_server_metadata())["name"] == "snowgate"
            assert (await client.get_model_metadata("signs"))["outputs"][0]["name"] == "y"
            assert (await client.get_model_config("signs"))["input"][0]["dims"] == [3]
            assert (await client.get_model_repository_index())[0]["state"] == "READY"
            before = (await client.get_inference_statistics("signs", "1"))["model_stats"][0]["inference_count"]
            asked = [
                client.infer(
                    "signs",
                    [triton_input(binary=binary)],
                    model_version="1",
                    outputs=[tritonclient.http.InferRequestedOutput("y", binary_data=binary)],
                    request_id=str(number),
                    timeout=5_000_000,
                    headers={"Snowgate-Unit": f"unit-{number}"},
                    request_compression_algorithm=coding,
                    response_compression_algorithm=coding,
                )
                for number in range(10)
            ]
            for number, result in enumerate(await asyncio.gather(*asked)):
                np.testing.assert_allclose(result.as_numpy("y"), np.stack([SUMS, -SUMS], axis=1))
                response = result.get_response()
                assert (response["id"], response["model_name"], response["model_version"]) == (
                    str(number),
                    "signs",
                    "1",
                )
            after = (await client.get_inference_statistics("signs", "1"))["model_stats"][0]["inference_count"]
            assert after - before == 20
            with pytest.raises(InferenceServerException, match="Request for unknown model: 'nope'"):
                await client.infer("nope", [triton_input(binary=binary)])
            with pytest.raises(InferenceServerException, match="This API is restricted"):
                await client.unload_model("signs")
        finally:
            await client.close()

    asyncio.run(ask())


def test_tritonclient_async_infer(gateway: Gateway) -> None:
    """The reference client's other way of asking at once, on greenlets, and its own request and response bodies."""
    client = tritonclient.http.InferenceServerClient(gateway.url.removeprefix("http://"), concurrency=4)
    asked = [client.async_infer("signs", [triton_input(binary=True)], model_version="2") for _ in range(8)]
    for one in asked:
        np.testing.assert_allclose(one.get_result().as_numpy("y")[:, 0], 2 * SUMS)
    body, length = client.generate_request_body([triton_input(binary=True)])
    answer = gateway.http.request(
        "POST",
        gateway.url + "/v2/models/signs/versions/1/infer",
        body=bytes(body),
        headers={"Inference-Header-Content-Length": str(length)},
    )
    parsed = client.parse_response_body(
        answer.data, header_length=int(answer.headers["Inference-Header-Content-Length"])
    )
    np.testing.assert_allclose(parsed.as_numpy("y")[:, 0], SUMS)
    client.close()


def open_request() -> InferenceRequest:
    """Two rows in the protocol's own client's form."""
    tensor = RequestInput(name="x", shape=[2, 3], datatype="FP32", data=TensorData(__root__=ROWS.ravel().tolist()))
    return InferenceRequest(id="mine", inputs=[tensor])


def test_open_inference(gateway: Gateway) -> None:
    """The client that was generated from the protocol's description validates every answer against its models."""
    with httpx.Client() as transport:
        _ask_open_inference(OpenInferenceClient(base_url=gateway.url, httpx_client=transport))

    async def ask() -> Any:
        async with httpx.AsyncClient() as transport:
            client = AsyncOpenInferenceClient(base_url=gateway.url, httpx_client=transport)
            return await client.model_version_infer(model_name="signs", model_version="2", request=open_request())

    np.testing.assert_allclose(np.array(asyncio.run(ask()).outputs[0].data.__root__).reshape(2, 2)[:, 0], 2 * SUMS)


def _ask_open_inference(client: OpenInferenceClient) -> None:
    client.check_server_liveness()
    client.check_server_readiness()
    client.check_model_readiness("signs")
    client.check_model_version_readiness("signs", "1")
    assert client.read_server_metadata().name == "snowgate"
    metadata = client.read_model_metadata("signs")
    assert (metadata.name, metadata.versions, metadata.inputs[0].shape) == ("signs", ["1", "2"], [-1, 3])
    assert client.read_model_version_metadata("signs", "2").outputs[0].datatype == "FP32"
    answer = client.model_version_infer(model_name="signs", model_version="1", request=open_request())
    assert (answer.model_name, answer.model_version, answer.id) == ("signs", "1", "mine")
    np.testing.assert_allclose(np.array(answer.outputs[0].data.__root__).reshape(2, 2)[:, 0], SUMS)
    assert client.model_infer(model_name="signs", request=open_request()).model_version in ("1", "2")
    with pytest.raises(NotFoundError) as unknown:
        client.check_model_readiness("nope")
    assert unknown.value.body["error"].startswith("Request for unknown model: 'nope'")
    wrong = RequestInput(name="x", shape=[1, 2], datatype="FP32", data=TensorData(__root__=[1.0, 2.0]))
    with pytest.raises(BadRequestError) as refused:
        client.model_infer(model_name="signs", request=InferenceRequest(inputs=[wrong]))
    assert "expected [-1, 3]" in refused.value.body["error"]


@pytest.fixture
def curl(tmp_path: Path, gateway: Gateway) -> Callable[..., tuple[str, str]]:
    """Ask with curl; give the body and the head. Skipped where there is no curl."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("not run: there is no curl on this machine")

    def ask(path: str, *arguments: str) -> tuple[str, str]:
        head = tmp_path / "head"
        command = [program, "--silent", "--show-error", "--max-time", "20", "--dump-header", str(head)]
        done = subprocess.run(
            [*command, *arguments, gateway.url + path], capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout, head.read_text()

    return ask


def test_curl(curl: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    """Plain, compressed, chunked, from a pipe with `Expect`, and by KServe's first protocol: the same numbers."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": ROWS.tolist()}
    body = json.dumps({"inputs": [tensor]})
    path = "/v2/models/signs/versions/1/infer"
    expected = np.stack([SUMS, -SUMS], axis=1).ravel().tolist()
    (tmp_path / "body").write_text(body)
    (tmp_path / "body.gz").write_bytes(gzip.compress(body.encode()))
    for arguments in (
        ("--data", body),
        ("--json", body),
        ("--compressed", "--data-binary", f"@{tmp_path / 'body.gz'}", "--header", "Content-Encoding: gzip"),
        ("--header", "Transfer-Encoding: chunked", "--data", body),
        ("--header", "Expect: 100-continue", "--data", body),
        ("--http1.0", "--data", body),
    ):
        answer, head = curl(path, *arguments)
        assert " 200 OK" in head, (arguments, head, answer)
        assert json.loads(answer)["outputs"][0]["data"] == expected
        assert "Snowgate-Prediction-Id: " in head
    answer, _head = curl("/v1/models/signs/versions/1:predict", "--data", json.dumps({"instances": ROWS.tolist()}))
    assert json.loads(answer)["predictions"] == np.array(expected).reshape(2, 2).tolist()
    answer, head = curl("/v2/health/ready", "--fail")
    assert json.loads(answer) == {"live": True, "ready": True}
    answer, head = curl("/v2/models/nope/infer", "--data", body)
    assert " 404 Not Found" in head
    assert set(json.loads(answer)) == {"error", "prediction_id"}


def test_kserve(gateway: Gateway) -> None:
    """KServe's own REST client, of both protocols, in an environment of its own."""
    if not KSERVE_PYTHON.exists():
        pytest.skip(f"not run: no {KSERVE_PYTHON}; `make verify` makes it, or set KSERVE_PYTHON")
    done = subprocess.run(
        [str(KSERVE_PYTHON), str(SCRIPT), gateway.url], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    answer = ["mine", "signs", [[6.0, -6.0]]]
    assert found == {
        "v1_live": True,
        "v1_model": True,
        "predictions": [[6.0, -6.0]],
        "explain": 404,
        "v1_unknown": 404,
        "v2_live": True,
        "v2_model": True,
        "no_model": False,
        "ready": True,
        "json": answer,
        "binary": answer,
        "v2_unknown": 404,
    }

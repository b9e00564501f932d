"""Asks a gateway with KServe's own client, and prints what it heard as JSON: run by `test_clients`, with its Python."""

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

ROW = np.array([[1, 2, 3]], np.float32)
FACTORS = {"stable": 1, "canary": 2}
"""Version 2 answers twice what version 1 does; which of them a call meets its answer's headers say."""


async def ask(url: str) -> dict[str, Any]:
    """Ask for everything that the client can."""
    found: dict[str, Any] = {}
    for protocol in ("v1", "v2"):
        async with InferenceRESTClient(RESTConfig(protocol=protocol, retries=0)) as client:
            found[f"{protocol}_live"] = await client.is_server_live(url)
            found[f"{protocol}_model"] = await client.is_model_ready(url, "signs")
            if protocol == "v2":
                found["ready"] = await client.is_server_ready(url)
                found["no_model"] = await client.is_model_ready(url, "nope")
                for binary in (False, True):
                    given = InferInput("x", [1, 3], "FP32")
                    given.set_data_from_numpy(ROW, binary_data=binary)
                    request = InferRequest("signs", [given], request_id="mine")
                    headers: dict[str, str] = {}
                    answer = await client.infer(url, request, model_name="signs", response_headers=headers)
                    output = answer.outputs[0].as_numpy() / FACTORS[headers["snowgate-variant"]]
                    found["binary" if binary else "json"] = [answer.id, answer.model_name, output.tolist()]
            else:
                headers = {}
                rows = {"instances": ROW.tolist()}
                predicted = await client.infer(url, rows, model_name="signs", response_headers=headers)
                output = np.array(predicted["predictions"]) / FACTORS[headers["snowgate-variant"]]
                found["predictions"] = output.tolist()
                found["explain"] = await _status(client.explain(url, "signs", rows))
            found[f"{protocol}_unknown"] = await _status(client.infer(url, {"inputs": []}, model_name="nope"))
    return found


async def _status(asking: Any) -> int:
    try:
        await asking
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return 200


print(json.dumps(asyncio.run(ask(sys.argv[1]))))  # noqa: T201 - this is what the test reads

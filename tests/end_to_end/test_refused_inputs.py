"""What a bundle's `preprocess` refuses is the client's mistake, by every protocol, and no mate's in the batch."""

import json
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import tritonclient.grpc

from bundles.home import Home
from bundles.packing import pack
from monitors.log.reader import LogReader
from tests.conftest import Gateway, snowgate

RECIPE = """
model = "orders"
loader = "python"
entrypoint = "orders:Model"
holdout = "orders.npz"
preprocess = "orders:read"
inputs = [{ name = "order", datatype = "BYTES", shape = [-1], content_type = "application/json" }]
model_inputs = [{ name = "amount", datatype = "FP64", shape = [-1] }]
outputs = [{ name = "total", datatype = "FP64", shape = [-1] }]
"""
CODE = """
import json
import numpy as np

class Model:
    def load(self, directory):
        pass

    def predict(self, inputs):
        return {"total": inputs["amount"] * 2}

def read(inputs):
    return {"amount": np.array([amount(one) for one in inputs["order"]], dtype=np.float64)}

def amount(text):
    order = json.loads(text)
    if order["price"] < 0:
        raise ValueError(f"order: price {order['price']}, expected 0 or more \\ud800")
    return order["price"]
"""


@pytest.fixture
def orders(home: Home, tmp_path: Path, start: Callable[..., Gateway]) -> Gateway:
    """A gateway that serves a model whose preprocess refuses orders."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "bundle.toml").write_text(RECIPE)
    (project / "orders.py").write_text(CODE)
    np.savez(project / "orders.npz", order=np.array([json.dumps({"price": price}) for price in range(100)]))
    pack(home, project)
    snowgate(home.path, "deploy", "orders@1", "--to", "production")
    return start(home.path)


def infer(gateway: Gateway, *rows: str) -> tuple[int, dict[str, Any]]:
    """Send rows by the Open Inference Protocol."""
    tensor = {"name": "order", "datatype": "BYTES", "shape": [len(rows)], "data": rows}
    status, answer, _headers = gateway.post("/v2/models/orders/infer", orjson.dumps({"inputs": [tensor]}))
    return status, answer


def test_every_protocol_says_so(orders: Gateway, home: Home) -> None:
    """400 in the bundle's words by REST and KServe's protocol, INVALID_ARGUMENT by gRPC; what is ours stays 500."""
    words = "order: price -1, expected 0 or more"
    status, answer = infer(orders, '{"price": 3}', '{"price": -1}')
    assert (status, words in str(answer["error"])) == (400, True), answer
    record = LogReader(home.log).find(str(answer["prediction_id"]))
    assert record is not None
    assert (record.kind, record.status, record.error_type, record.version) == ("refused", 400, "bad_input", "1")
    rows = {"instances": [{"price": -1}]}
    status, answer, _headers = orders.post("/v1/models/orders:predict", orjson.dumps(rows))
    assert (status, words in answer["error"]) == (400, True), answer
    encoded = {"instances": [{"b64": b64encode(b"{").decode()}]}
    assert orders.post("/v1/models/orders:predict", orjson.dumps(encoded))[0] == 400
    with tritonclient.grpc.InferenceServerClient(orders.ready["grpc"]) as client:
        given = tritonclient.grpc.InferInput("order", [1], "BYTES")
        given.set_data_from_numpy(np.array([b'{"price": -1}'], dtype=object))
        with pytest.raises(tritonclient.grpc.InferenceServerException, match=words) as refused:
            client.infer("orders", [given])
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert infer(orders, "{}")[0] == 500, "an object without the field is a mistake that preprocess did not foresee"


def test_mates_are_answered(orders: Gateway) -> None:
    """Good and bad calls come at once and are batched: each good one has its own answer, each bad one its refusal."""
    prices = [-1 if number % 3 == 0 else number for number in range(60)]
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda price: infer(orders, json.dumps({"price": price})), prices))
    for price, (status, answer) in zip(prices, answers, strict=True):
        if price < 0:
            assert status == 400
        else:
            assert [output["data"] for output in answer["outputs"]] == [[price * 2.0]]

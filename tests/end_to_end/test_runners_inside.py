"""What a runner does inside, seen from outside: the engine's name, and what the model itself saw and said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from bundles.home import Home
from bundles.packing import pack
from tests.conftest import Gateway, snowgate
from tests.gateway.test_cli import run

RECIPE = """
model = "orders"
loader = "torch"
entrypoint = "orders:Sum"
holdout = "orders.npz"
preprocess = "orders:read"
postprocess = "orders:word"
inputs = [{ name = "order", datatype = "BYTES", shape = [-1], content_type = "application/json" }]
model_inputs = [{ name = "amounts", datatype = "FP32", shape = [-1, 2] }]
model_outputs = [{ name = "total", datatype = "FP32", shape = [-1], semantic = "value" }]
outputs = [{ name = "size", datatype = "BYTES", shape = [-1], semantic = "label" }]
weights = "none.safetensors"
"""
CODE = """
import json

import numpy as np
import torch


class Sum(torch.nn.Module):
    def forward(self, amounts):
        return amounts.sum(1)


def read(inputs):
    rows = [json.loads(one) for one in inputs["order"]]
    return {"amounts": np.array([[row["price"], row["tax"]] for row in rows], dtype=np.float32)}


def word(outputs):
    return np.where(outputs["total"] > 10, "large", "small")
"""


def order(price: float) -> str:
    """Return what a client sends."""
    return orjson.dumps({"price": price, "tax": 1}).decode()


def test_the_log_has_both_sides_of_the_model_and_its_engine(
    capsys: pytest.CaptureFixture[str], home: Home, tmp_path: Path, start: Callable[..., Gateway]
) -> None:
    """Words go in and out; in between stand numbers, and the record has them. One engine is named everywhere."""
    pytest.importorskip("torch")
    project = tmp_path / "orders"
    project.mkdir()
    (project / "bundle.toml").write_text(RECIPE)
    (project / "orders.py").write_text(CODE)
    pytest.importorskip("safetensors.numpy").save_file({}, project / "none.safetensors")
    np.savez(project / "orders.npz", order=np.array([order(price) for price in range(40)]))
    pack(home, project)
    snowgate(home.path, "deploy", "orders@1")
    gateway = start(home.path)
    body = {"inputs": [{"name": "order", "datatype": "BYTES", "shape": [2], "data": [order(20), order(3)]}]}
    status, answer, headers = gateway.post("/v2/models/orders/infer", orjson.dumps(body))
    assert (status, answer["outputs"][0]["data"]) == (200, ["large", "small"])
    shown = snowgate(home.path, "prediction", "show", headers["Snowgate-Prediction-Id"])
    (seen,), (said,) = shown["model_inputs"], shown["model_outputs"]
    assert (seen["name"], seen["shape"], seen["data"]) == ("amounts", [2, 2], [20, 1, 3, 1])
    assert (said["name"], said["datatype"], said["data"]) == ("total", "FP32", [21, 4])
    assert shown["signals"]["value"] == [21, 4]
    assert shown["signals"]["class"] == ["large", "small"]
    (tried,) = snowgate(home.path, "bundle", "engines", "orders@1")
    assert tried["engine"] == shown["engine"]
    assert gateway.get("/v2/models/orders")[1]["parameters"] == {"engine": shown["engine"]}
    _code, table, _err = run(capsys, "bundle", "engines", "orders@1", "--home", str(home.path))
    assert f"{tried['engine']}: " in table
    assert "MICROSECONDS A ROW OF 1" in table
    # What is forgotten changes nothing for runners that are up; those that are loaded later find nothing, and try.
    assert gateway.snowgate("bundle", "engines", "orders@1", "--again", "--reason", "it was busy") == [tried]
    assert gateway.snowgate("bundle", "engines", "orders@1") == []
    assert gateway.get("/v2/models/orders")[1]["parameters"] == {"engine": tried["engine"]}

"""Three environments behind one gateway: a TensorFlow model, one of an older torch, and one of the gateway's own.

It downloads a gigabyte and needs Python 3.10: it is run by `make verify`, not by `make test`.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import pytest

from bundles.environments import find_python
from bundles.errors import EnvironmentFailed
from bundles.home import Home
from bundles.packing import pack
from tests.conftest import Gateway, snowgate, wait_until

Start = Callable[..., Gateway]

pytestmark = [pytest.mark.outside, pytest.mark.timeout(1_800)]

TENSORFLOW = """
import tensorflow

class Model:
    def load(self, directory):
        self.weights = tensorflow.constant([[1.0], [2.0], [3.0]])

    def predict(self, inputs):
        version = float(tensorflow.__version__.split(".")[0])
        answer = tensorflow.linalg.matmul(tensorflow.constant(inputs["x"]), self.weights)
        return tensorflow.concat([answer, tensorflow.fill(answer.shape, version)], axis=1).numpy()
"""
TORCH = """
import torch

class Weighted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 1, bias=False)

    def forward(self, x):
        major, minor = torch.__version__.split(".")[:2]
        answer = self.linear(x)
        return torch.cat([answer, torch.full_like(answer, float(major) * 100 + float(minor))], dim=1)

def build():
    return Weighted()
"""
RECIPE = """
loader = "{loader}"
entrypoint = "{entrypoint}"
holdout = "holdout.npz"
inputs = [{{ name = "x", datatype = "FP32", shape = [-1, 3] }}]
outputs = [{{ name = "y", datatype = "FP32", shape = [-1, 2], semantic = "value" }}]
{more}
"""
OLD = 'requirements = "requirements.txt"\npython = "3.10"'


def write(folder: Path, loader: str, code: str, more: str = "", requirements: str = "") -> Path:
    """Write a folder that can be packed; its model weighs three numbers with 1, 2 and 3, and says its version."""
    folder.mkdir()
    (folder / "model.py").write_text(code)
    entrypoint = "model:build" if loader == "torch" else "model:Model"
    (folder / "bundle.toml").write_text(RECIPE.format(loader=loader, entrypoint=entrypoint, more=more))
    (folder / "requirements.txt").write_text(requirements)
    np.savez(folder / "holdout.npz", x=np.random.default_rng(3).normal(size=(200, 3)).astype(np.float32))
    if loader == "torch":
        from safetensors.numpy import save_file  # noqa: PLC0415 - of no use to the others

        save_file({"linear.weight": np.array([[1.0, 2.0, 3.0]], dtype=np.float32)}, folder / "model.safetensors")
    return folder


def test_three_environments_behind_one_gateway(home: Home, tmp_path: Path, start: Start) -> None:
    """Each is packed and served in its own; a lock whose environment is gone is built again before the start."""
    try:
        find_python("3.10")
    except EnvironmentFailed as missing:
        pytest.skip(f"not run: {missing}")
    said: list[str] = []
    try:
        pack(
            home,
            write(tmp_path / "tf", "python", TENSORFLOW, 'requirements = "requirements.txt"', "tensorflow-cpu\n"),
            model="flow",
            say=said.append,
        )
        pack(
            home,
            write(tmp_path / "old", "torch", TORCH, OLD, "torch==1.12.1\nnumpy<2\nsafetensors\n"),
            model="old",
            say=said.append,
        )
    except EnvironmentFailed as error:
        pytest.skip(f"not run: {error}")
    pack(home, write(tmp_path / "new", "torch", TORCH), model="new")
    assert any("building its environment" in one for one in said)
    built = [one for one in (home.path / "environments").iterdir() if one.is_dir()]
    assert len(built) == 2
    shutil.rmtree(next(one for one in built if (one / "bin" / "python").resolve().name == "python3.10"))
    for model in ("flow", "old", "new"):
        snowgate(home.path, "deploy", f"{model}@1")
    gateway = start(home.path)
    body = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 1, 1]}]})

    def answer(model: str) -> list[float]:
        status, document, _headers = gateway.post(f"/v2/models/{model}/infer", body)
        return list(document["outputs"][0]["data"]) if status == 200 else []

    for model, version in (("flow", 2), ("old", 112), ("new", None)):
        wait_until(partial(answer, model), 900, f"an answer of {model}")
        total, said_version = answer(model)
        assert total == pytest.approx(6.0)
        assert said_version == version if version else said_version > 200
    assert "building its environment: 1 of 4 packages" in gateway.log.read_text()
    pythons = {Path(f"/proc/{pid}/exe").resolve().name for pid in gateway.children("bundles/runner")}
    assert "python3.10" in pythons

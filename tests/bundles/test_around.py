"""A bundle's own functions around its model: packed, tried, served, and shown in what comes back."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundles.bundle import open_bundle
from bundles.errors import RunnerFailed
from bundles.home import Home
from bundles.loading import prepare
from bundles.packing import pack
from bundles.process import RunnerProcess, reproduces_golden
from bundles.runner import frames
from bundles.runner.rows import unpacked
from tests.bundles.test_engines import trial
from tests.bundles.test_runner import Worker
from tests.bundles.unpacked import running, tensor

Array = np.ndarray[Any, Any]
RECIPE = """
model = "shades"
loader = "torch"
entrypoint = "shades:build"
weights = "weights.safetensors"
holdout = "photos.npz"
preprocess = "shades:decode"
postprocess = "shades:name"

[[inputs]]
name = "photo"
datatype = "BYTES"
shape = [-1]
content_type = "image/*"

[[model_inputs]]
name = "pixels"
datatype = "FP32"
shape = [-1, 3]

[[model_outputs]]
name = "logits"
datatype = "FP32"
shape = [-1, 2]
semantic = "logits"

[[outputs]]
name = "shade"
datatype = "BYTES"
shape = [-1]
"""
CODE = """
import io

import numpy as np
import torch
from PIL import Image


def build():
    return torch.nn.Linear(3, 2)


def decode(inputs):
    means = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")).mean(axis=(0, 1)) for one in inputs["photo"]]
    return {"pixels": np.stack(means).astype(np.float32) / 255}


def name(outputs):
    shades = np.where(outputs["logits"].argmax(axis=1) == 1, "light", "dark")
    outputs["logits"][:] = 0  # What is recorded was there before.
    return shades
"""


def photo(level: int) -> bytes:
    """Return a small picture of one grey."""
    written = io.BytesIO()
    Image.new("RGB", (4, 4), (level, level, level)).save(written, "PNG")
    return written.getvalue()


@pytest.fixture
def shades(tmp_path: Path, home: Home) -> Path:
    """Return an unpacked bundle that takes pictures and answers words."""
    torch = pytest.importorskip("torch")
    project = tmp_path / "project"
    project.mkdir()
    (project / "bundle.toml").write_text(RECIPE)
    (project / "shades.py").write_text(CODE)
    weights = {"weight": torch.tensor([[-1.0] * 3, [1.0] * 3]), "bias": torch.tensor([1.5, -1.5])}
    pytest.importorskip("safetensors.torch").save_file(weights, project / "weights.safetensors")
    np.savez(project / "photos.npz", photo=np.array([photo(level) for level in range(0, 256, 5)]))
    made = pack(home, project)
    bundle = prepare(home.store(), made.digest, home.policy(), tmp_path / "run")
    assert bundle.inputs[0].content_type == "image/*"
    assert {"class", "energy", "pixels.mean"} <= set(bundle.baseline().signals)
    assert open_bundle(home.store(), made.digest).golden()[0]["photo"].tolist()[1] == photo(5)
    return tmp_path / "run"


def test_pictures_in_words_out_and_what_the_model_saw(shades: Path) -> None:
    """The answer carries both sides of both functions, row by row; signals are of what the model saw and said."""
    given = np.array([photo(0), photo(255), photo(204)], dtype=object)
    with RunnerProcess(shades) as runner:
        worker = Worker(runner.socket_path)
        spec, data = frames.from_array("photo", given)
        worker.socket.sendall(frames.encode(frames.describe(3, (("inputs", (spec,)),)), [data], id=1))
        ((header, body),) = worker.decoder.feed(worker.socket.recv(1 << 20))
        worker.socket.close()
    parts = frames.parts(header, body)
    found = {part: frames.to_array(*parts[part][0]) for part in ("outputs", "model_inputs", "model_outputs")}
    assert found["outputs"].tolist() == [b"dark", b"light", b"light"]
    assert found["model_inputs"] == pytest.approx(np.array([[0] * 3, [1] * 3, [0.8] * 3]))
    assert found["model_outputs"] == pytest.approx(np.array([[1.5, -1.5], [-1.5, 1.5], [-0.9, 0.9]]), abs=1e-6)
    ((described, packed),) = parts["signals"]
    signals = unpacked(described["fields"], frames.to_array(described, packed))
    assert signals["class"].tolist() == [0, 1, 1]
    assert signals["pixels.mean"] == pytest.approx([0, 1, 0.8])


def test_engines_are_tried_on_what_the_model_sees(shades: Path, home: Home) -> None:
    """The network is followed with preprocessed examples; its answers are compared after postprocess."""
    outcomes = trial(shades)
    assert "error" not in outcomes["frozen"]
    assert "error" not in outcomes["onnxruntime"]
    digest, _model, _version = home.refs().resolve("shades@1")
    with RunnerProcess(shades, engine="onnxruntime") as runner:
        assert reproduces_golden(open_bundle(home.store(), digest), runner).agrees


OBJECTS = """
    import json
    import numpy as np

    class Model:
        def load(self, directory):
            pass

        def predict(self, inputs):
            return {"total": inputs["amounts"].sum(axis=1)}

    def read(inputs):
        rows = [json.loads(one) for one in inputs["order"]]
        return {"amounts": np.array([[row["price"], row["tax"]] for row in rows], dtype=np.float64)[:, :WIDTH]}
"""


@pytest.mark.parametrize("batched", [True, False])
def test_objects_of_json_become_arrays(tmp_path: Path, batched: bool) -> None:
    """Each element is an object's text; a bundle without a batch axis sees one at a time."""
    rows = [-1] if batched else []
    code = OBJECTS.replace("WIDTH", "2")
    if not batched:
        code = code.replace("[:, :2]", "[0]").replace("axis=1", "axis=0")
    around = {
        "preprocess": "served:read",
        "inputs": [tensor("order", [-1] if batched else [1], "BYTES")],
        "model_inputs": [tensor("amounts", [*rows, 2], "FP64")],
        "outputs": [tensor("total", rows, "FP64", "value")],
    }
    orders = np.array([json.dumps({"price": price, "tax": 0.5}) for price in (1, 2, 3)], dtype=object)
    orders = orders if batched else orders.reshape(3, 1)
    with running(tmp_path, code, **around) as runner:
        outputs, signals = runner.predict({"order": orders})
    assert outputs["total"].tolist() == [1.5, 2.5, 3.5]
    assert signals["value"].tolist() == [1.5, 2.5, 3.5]
    assert signals["amounts.mean"].tolist() == [0.75, 1.25, 1.75]


def test_what_a_function_makes_must_be_what_was_declared(tmp_path: Path) -> None:
    """Another shape is an error that names the function, and the runner goes on."""
    around = {
        "preprocess": "served:read",
        "inputs": [tensor("order", [-1], "BYTES")],
        "model_inputs": [tensor("amounts", [-1, 2], "FP64")],
        "outputs": [tensor("total", [-1], "FP64", "value")],
    }
    order = np.array([json.dumps({"price": 1, "tax": 2})], dtype=object)
    with running(tmp_path, OBJECTS.replace("WIDTH", "1"), **around) as runner:
        for _again in range(2):
            with pytest.raises(RunnerFailed, match=r"preprocess: 'amounts': shape \[1, 1\], expected \[1, 2\]"):
                runner.predict({"order": order})


REFUSING = """
    import numpy as np

    class Model:
        def load(self, directory):
            pass

        def predict(self, inputs):
            return {"total": inputs["amount"]}

    def read(inputs):
        return {"amount": np.array([amount(one) for one in inputs["order"]])}

    def amount(text):
        if text == b"lost":
            raise KeyError("a mistake of the bundle's own")
        return float(text.decode())
"""


def test_a_value_error_of_preprocess_is_the_clients_fault(tmp_path: Path) -> None:
    """Only the frame that holds what was refused fails, by whose fault it is and in the bundle's words."""
    around = {
        "preprocess": "served:read",
        "inputs": [tensor("order", [-1], "BYTES")],
        "model_inputs": [tensor("amount", [-1], "FP64")],
        "outputs": [tensor("total", [-1], "FP64", "value")],
    }
    orders = [b"1.5", b"dear", b"lost", b"\xff", b"2.5"]
    with running(tmp_path, REFUSING, **around) as runner:
        worker = Worker(runner.socket_path)
        for number, order in enumerate(orders):
            spec, data = frames.from_array("order", np.array([order], dtype=object))
            worker.socket.sendall(frames.encode(frames.describe(1, (("inputs", (spec,)),)), [data], id=number))
        answers: dict[int, dict[str, Any]] = {}
        while len(answers) < len(orders):
            for header, _body in worker.decoder.feed(worker.socket.recv(1 << 20)):
                answers[header["id"]] = header
        worker.socket.close()
    faults = {number: one["error"]["fault"] for number, one in answers.items() if "error" in one}
    assert faults == {1: "client", 2: "server", 3: "client"}
    assert answers[1]["error"]["message"] == "could not convert string to float: 'dear'"
    assert "can't decode byte 0xff" in answers[3]["error"]["message"]

"""What loaders make of real models, through the runner that serves them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bundles import process
from bundles.errors import RunnerFailed
from tests.bundles.unpacked import ECHO, running, tensor, unpack


def test_torch_with_weights_from_safetensors(tmp_path: Path) -> None:
    """The factory gets its parameters, the weights are those of the file, and nothing is dropped out or trained."""
    code = """
        import torch

        def build(hidden):
            return torch.nn.Sequential(
                torch.nn.Linear(2, hidden), torch.nn.Dropout(0.9), torch.nn.ReLU(), torch.nn.Linear(hidden, 3)
            )
    """
    module = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Identity(), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    config = {
        "loader": "torch",
        "entrypoint": "served:build",
        "weights": "deep/weights.safetensors",
        "parameters": {"hidden": 5},
        "outputs": [tensor("y", [-1, 3], semantic="logits")],
    }
    unpack(tmp_path, code, **config)
    (tmp_path / "model" / "deep").mkdir()
    save_file(module.state_dict(), tmp_path / "model" / "deep" / "weights.safetensors")
    x = np.random.default_rng(1).normal(size=(20, 2)).astype(np.float32)
    with process.RunnerProcess(tmp_path) as runner:
        assert runner.ready["platform"] == "pytorch_safetensors"
        assert runner.ready["engine"] == "eager"
        outputs, signals = runner.predict({"x": x})
    expected = module(torch.from_numpy(x)).detach().numpy()
    assert outputs["y"] == pytest.approx(expected, abs=1e-6)
    assert signals["class"].tolist() == expected.argmax(axis=1).tolist()
    assert {name: values.dtype.str for name, values in signals.items() if name in ("class", "energy")} == {
        "class": "<i8",
        "energy": "<f4",
    }


def test_torch_with_weights_that_two_layers_share(tmp_path: Path) -> None:
    """Safetensors holds a shared weight once; the module has it twice. Anything else that is missing is an error."""
    code = """
        import torch

        class Tied(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.there = torch.nn.Linear(2, 2, bias=False)
                self.back = torch.nn.Linear(2, 2, bias=False)
                self.back.weight = self.there.weight

            def forward(self, x):
                return self.back(self.there(x))
    """
    unpack(tmp_path, code, loader="torch", entrypoint="served:Tied", weights="w.safetensors")
    save_file({"there.weight": torch.tensor([[2.0, 0], [0, 3]])}, tmp_path / "model" / "w.safetensors")
    with process.RunnerProcess(tmp_path) as runner:
        assert runner.predict({"x": np.ones((1, 2), dtype=np.float32)})[0]["y"].tolist() == [[4, 9]]
    save_file({"elsewhere.weight": torch.zeros(2, 2)}, tmp_path / "model" / "w.safetensors")
    with pytest.raises(RunnerFailed, match=r"Missing key.*weight"), process.RunnerProcess(tmp_path):
        pass


def test_torch_in_the_brain_s_half_precision(tmp_path: Path) -> None:
    """BF16 travels as its bits and is measured as the numbers that it stands for."""
    code = "import torch\nModel = torch.nn.Identity\n"
    half = {"inputs": [tensor("x", [-1, 2], "BF16")], "outputs": [tensor("y", [-1, 2], "BF16", "logits")]}
    bits = np.array([[0x3F80, 0xC000]], dtype=np.uint16)  # 1 and -2
    with process.RunnerProcess(unpack(tmp_path, code, loader="torch", **half)) as runner:
        outputs, signals = runner.predict({"x": bits})
    assert (outputs["y"] == bits).all()
    assert signals["energy"] == pytest.approx([np.log(np.exp(1) + np.exp(-2))])
    assert signals["x.mean"] == pytest.approx([-0.5])


def test_a_class_with_files_prints_and_text(tmp_path: Path) -> None:
    """`load` gets the model's folder and may return the model; prints reach no answer; text goes in and out."""
    code = """
        import sys
        print("printed at import")

        class Loaded:
            def predict(self, inputs):
                print("printed in predict", flush=True)
                sys.__stdout__.write("and below")
                text = inputs["text"][:, 0]
                return {"kind": [one.upper() for one in text], "length": [[len(one)] for one in text]}

        class Model:
            def load(self, directory):
                print("printed in load")
                assert (directory / "served.py").is_file()
                return Loaded()
    """
    inputs = [tensor("text", [-1, 1], "BYTES")]
    outputs = [tensor("kind", [-1], "BYTES", "label"), tensor("length", [-1, 1], "INT32", "value")]
    with running(tmp_path, code, inputs=inputs, outputs=outputs) as runner:
        assert runner.ready["platform"] == "python_class"
        given = np.array([[b"snow"], ["grüß".encode()], [b""]], dtype=object)
        found, signals = runner.predict({"text": given})
    assert found["kind"].tolist() == [b"SNOW", "grüß".encode().upper(), b""]
    assert found["length"].dtype == np.int32
    assert signals["class"].tolist() == [one.decode() for one in found["kind"].tolist()]
    assert signals["value"].tolist() == [4, 6, 0]
    assert set(signals) == {"class", "value"}


def test_a_model_without_a_batch_axis_sees_one_row(tmp_path: Path) -> None:
    """Rows are taken apart and put together outside; an output of any size stays the model's own."""
    code = """
        import numpy as np

        class Model:
            def load(self, directory):
                pass

            def predict(self, inputs):
                assert inputs["x"].shape == (2,) and inputs["scale"].shape == ()
                return inputs["x"] * inputs["scale"], np.repeat(inputs["scale"], 3)
    """
    inputs = [tensor("x", [2]), tensor("scale", [])]
    outputs = [tensor("y", [2], semantic="embedding"), tensor("many", [-1])]
    x = np.array([[3, 4], [6, 8], [1, 0]], dtype=np.float32)
    scale = np.array([1, 2, 3], dtype=np.float32)
    with running(tmp_path, code, inputs=inputs, outputs=outputs) as runner:
        found, signals = runner.predict({"x": x, "scale": scale})
    assert found["y"].tolist() == (x * scale[:, np.newaxis]).tolist()
    assert found["many"].tolist() == [[1] * 3, [2] * 3, [3] * 3]
    assert signals["norm"].tolist() == [5, 20, 3]
    assert signals["x.mean"].tolist() == [3.5, 7, 0.5]


def test_a_model_may_write_into_its_inputs(tmp_path: Path) -> None:
    """What a model is given is its own, joined or alone, and the signals are those of what came."""
    code = """
        class Model:
            def load(self, directory):
                pass

            def predict(self, inputs):
                inputs["x"] -= 5
                return inputs["x"]
    """
    with running(tmp_path, code) as runner:
        found, signals = runner.predict({"x": np.full((1, 2), 7, dtype=np.float32)})
    assert found["y"].tolist() == [[2, 2]]
    assert signals["x.mean"].tolist() == [7]


@pytest.mark.parametrize(
    ("answer", "output", "said"),
    [
        ("x[:, :1]", tensor("y", [-1, 2]), r"output 'y': shape \[3, 1\], expected \[3, 2\]"),
        ("x[:2]", tensor("y", [-1, 2]), r"shape \[2, 2\], expected \[3, 2\]"),
        ("x.tolist() + [[1, 'a']]", tensor("y", [-1, 2]), "output 'y'"),
        ("(x > 0)", tensor("y", [-1, 2]), "bool, expected float32 for FP32"),
        ("x", tensor("y", [-1, 2], "INT64"), "float32, expected int64 for INT64"),
        ("x.astype(int) * 2**40", tensor("y", [-1, 2], "INT32"), "does not fit in INT32"),
        ("x", tensor("y", [-1, 2], "BYTES"), "float32, expected text or bytes"),
        ("np.full((3, 2), None)", tensor("y", [-1, 2], "BYTES"), "holds NoneType"),
        ("np.full((3, 2), 'a')", tensor("y", [-1, 2], "BYTES", "logits"), "could not convert"),
        ("{'z': x}", tensor("y", [-1, 2]), "the model answered z; missing: y"),
        ("(x, x)", tensor("y", [-1, 2]), "answered 2 outputs, expected 1: y"),
        ("None", tensor("y", [-1, 2]), "output 'y'"),
    ],
)
def test_an_answer_that_was_not_declared_is_an_error_and_the_runner_lives(
    tmp_path: Path, answer: str, output: dict[str, Any], said: str
) -> None:
    """A wrong answer is never a wrong record: it is refused by name, and the next call is answered."""
    code = f"""
        import numpy as np

        class Model:
            def load(self, directory):
                self.calls = 0

            def predict(self, inputs):
                x = inputs["x"]
                return {answer}
    """
    with running(tmp_path, code, outputs=[output]) as runner:
        for _time in range(2):
            with pytest.raises(RunnerFailed, match=said):
                runner.predict({"x": np.ones((3, 2), dtype=np.float32)})


def test_numbers_of_the_same_kind_are_converted(tmp_path: Path) -> None:
    """Models answer in float64 and int64, numpy's own; the wire has what was declared."""
    code = """
        import numpy as np

        class Model:
            def load(self, directory):
                pass

            def predict(self, inputs):
                return [np.array([[0.1, 1e300]]), np.array([7])]
    """
    with running(tmp_path, code, outputs=[tensor("y", [-1, 2]), tensor("n", [-1], "UINT8")]) as runner:
        found, _signals = runner.predict({"x": np.ones((1, 2), dtype=np.float32)})
    assert found["y"].tolist() == [[np.float32(0.1), np.inf]]
    assert (found["n"].dtype, found["n"].tolist()) == (np.uint8, [7])


@pytest.mark.parametrize(
    ("code", "config", "said"),
    [
        ("raise ValueError('not today')", {}, "ValueError: not today"),
        ("import sys; sys.exit('leaving')", {}, "SystemExit: leaving"),
        ("import nowhere_to_be_found", {}, "No module named 'nowhere_to_be_found'"),
        ("x = 1", {}, "'served:Model'.* has no 'Model'"),
        ("class Model: pass", {}, r"expected a class with load\(directory\) and predict\(inputs\)"),
        (ECHO, {"loader": "pickle"}, "loader 'pickle', expected one of torch, torch-export"),
        (ECHO, {"parameters": {"depth": 3}}, "depth|takes no arguments"),
    ],
)
def test_a_model_that_can_not_be_loaded_says_why(tmp_path: Path, code: str, config: dict[str, Any], said: str) -> None:
    """One sentence in the answer, status 1; of what the bundle's own code raised there is the traceback too."""
    with pytest.raises(RunnerFailed, match=said) as failure, running(tmp_path, code, **config):
        pass
    assert ("Traceback" in str(failure.value)) == ("Error" in str(failure.value) or "Exit" in str(failure.value))

"""Every engine, in the runner that serves with it; and their trial."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bundles import process
from bundles.errors import RunnerFailed
from bundles.runner.engines import TABLE, EngineError, Network, build
from bundles.runner.trial import hardware, sizes
from tests.bundles.unpacked import examples, tensor, unpack

Array = np.ndarray[Any, Any]
TOLERANCE = 1e-4
NETWORK = """
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.image = torch.nn.Sequential(
                torch.nn.Conv2d(2, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten()
            )
            self.head = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Linear(8 * 36 + 3, 5))

        def forward(self, image, words):
            scores = self.head(torch.cat([self.image(image), words.to(image.dtype)], 1))
            return {"best": scores.argmax(1, keepdim=True), "scores": scores}
"""
TENSORS = {
    "inputs": [tensor("image", [-1, 2, 6, 6]), tensor("words", [-1, 3], "INT64")],
    "outputs": [tensor("scores", [-1, 5], semantic="logits"), tensor("best", [-1, 1], "INT64")],
}


def rows(count: int) -> dict[str, Array]:
    """Return some rows."""
    random = np.random.default_rng(7)
    return {
        "image": random.normal(size=(count, 2, 6, 6)).astype(np.float32),
        "words": random.integers(0, 5, size=(count, 3)),
    }


def network(directory: Path, **config: Any) -> Path:
    """Write an unpacked bundle with all that engines trip over: dropout, batch norm, two inputs, named outputs."""
    unpack(directory, NETWORK, **{"loader": "torch", "entrypoint": "served:Network", **TENSORS, **config})
    torch.manual_seed(3)
    scope: dict[str, Any] = {}
    exec((directory / "model" / "served.py").read_text(), scope)  # noqa: S102 - the text above
    module = scope["Network"]()
    for _step in range(5):  # In train mode: batch norm learns means that are not zero.
        module(torch.rand(20, 2, 6, 6) * 3, torch.zeros(20, 3, dtype=torch.int64))
    save_file(module.state_dict(), directory / "model" / "weights.safetensors")
    (directory / "config.json").write_text(
        json.dumps(
            json.loads((directory / "config.json").read_text())
            | {"weights": "weights.safetensors", "tolerance": {"absolute": TOLERANCE, "relative": TOLERANCE}}
        )
    )
    given = rows(5)
    with torch.inference_mode():
        said = module.eval()(*map(torch.from_numpy, given.values()))
    examples(directory, given, {name: array.numpy() for name, array in said.items()})
    return directory


@pytest.mark.parametrize("engine", TABLE)
def test_an_answer_is_the_same_in_any_batch(tmp_path: Path, engine: str) -> None:
    """Alone, in every batch size, in another order, beside rows of zeros: within the tolerance, in eval mode."""
    given = rows(8)
    with process.RunnerProcess(network(tmp_path), engine=engine) as runner:
        assert runner.ready["engine"] == engine
        alone = [runner.predict({name: array[row : row + 1] for name, array in given.items()})[0] for row in range(8)]
        scores = np.concatenate([one["scores"] for one in alone])
        best = np.concatenate([one["best"] for one in alone])
        orders = [np.arange(size) for size in range(1, 9)] + [np.arange(8)[::-1], np.array([3, 3, 0])]
        for order in orders:
            found = runner.predict({name: array[order] for name, array in given.items()})[0]
            assert found["scores"] == pytest.approx(scores[order], rel=TOLERANCE, abs=TOLERANCE)
            assert (found["best"] == best[order]).all()
        padded = {name: np.concatenate([array[:1], np.zeros_like(array[:7])]) for name, array in given.items()}
        assert runner.predict(padded)[0]["scores"][:1] == pytest.approx(scores[:1], rel=TOLERANCE, abs=TOLERANCE)
    assert best[:, 0].tolist() == scores.argmax(1).tolist()


@pytest.mark.parametrize("engine", ["frozen", "onnxruntime", "openvino"])
def test_sizes_that_a_bundle_leaves_open_stay_open(tmp_path: Path, engine: str) -> None:
    """The network was followed with examples of one width, and answers rows of another."""
    code = (
        "import torch\nclass Sum(torch.nn.Module):\n    def forward(self, x):\n        return x.sum(1, keepdim=True)\n"
    )
    wide = {"inputs": [tensor("x", [-1, -1])], "outputs": [tensor("y", [-1, 1])]}
    unpack(tmp_path, code, loader="torch", entrypoint="served:Sum", **wide)
    ones = np.ones((2, 3), dtype=np.float32)
    examples(tmp_path, {"x": ones}, {"y": ones.sum(1, keepdims=True)})
    with process.RunnerProcess(tmp_path, engine=engine) as runner:
        for width in (1, 3, 50):
            x = np.arange(4 * width, dtype=np.float32).reshape(4, width)
            assert (runner.predict({"x": x})[0]["y"] == x.sum(1, keepdims=True)).all()


def trial(directory: Path, seconds: float = 60) -> dict[str, dict[str, Any]]:
    """Try all engines."""
    with tempfile.TemporaryDirectory(prefix="snowgate-") as scratch:
        command, own = process.trial_command(directory, Path(scratch), seconds), process.environment(Path(scratch))
        done = subprocess.run(command, capture_output=True, check=True, timeout=100, cwd=scratch, env=own)
    return {outcome["engine"]: outcome for outcome in map(json.loads, done.stdout.splitlines())}


def test_a_trial_measures_every_engine_at_the_sizes_that_count(tmp_path: Path) -> None:
    """All of them agree with the recorded answers, and have a time a row at each size."""
    outcomes = trial(network(tmp_path))
    assert list(outcomes) == list(TABLE)
    for outcome in outcomes.values():
        assert outcome["largest_difference"] <= TOLERANCE
        assert list(outcome["microseconds_per_row"]) == ["1", "3", "8"]
        assert min(outcome["microseconds_per_row"].values()) > 0


MISFITS = """
    import os, time
    import torch

    class Network(torch.nn.Module):
        def __init__(self, misfit):
            super().__init__()
            self.misfit = misfit

        def forward(self, x):
            if self.misfit == "decides":
                return x if x.sum() > 0 else x - 1
            if torch.jit.is_tracing():
                if self.misfit == "crashes":
                    os.abort()
                while self.misfit == "hangs":
                    time.sleep(0.01)
                return x + 0.5
            return x + 0
"""


@pytest.mark.parametrize(
    ("misfit", "said"),
    [
        ("decides", "its code depends on the values of a tensor"),
        ("crashes", "its process ended with status -6"),
        ("hangs", "it took longer than"),
        ("differs", "output 'y' of 1 rows differs by 0.5 from what was recorded"),
    ],
)
def test_an_engine_that_does_not_fit_is_out_and_ends_nobody_s_trial(tmp_path: Path, misfit: str, said: str) -> None:
    """A network that decides by values, one that crashes, hangs, or answers otherwise when it is followed."""
    unpack(tmp_path, MISFITS, loader="torch", entrypoint="served:Network", parameters={"misfit": misfit})
    config = json.loads((tmp_path / "config.json").read_text())
    config["tolerance"] = {"absolute": TOLERANCE, "relative": TOLERANCE}
    (tmp_path / "config.json").write_text(json.dumps(config))
    x = np.ones((3, 2), dtype=np.float32)
    examples(tmp_path, {"x": x}, {"y": x})
    outcomes = trial(tmp_path, 8 if misfit == "hangs" else 60)
    assert "error" not in outcomes["eager"]
    assert "no convolution" in outcomes["channels-last"]["error"]
    for engine in ("frozen", "onnxruntime"):
        assert said in outcomes[engine]["error"], engine


def test_an_engine_that_can_t_run_a_bundle_says_so(tmp_path: Path) -> None:
    """Asked for by name: the runner is not ready, and says why."""
    code = "import torch\nModel = torch.nn.Identity\n"
    unpack(tmp_path, code, loader="torch")
    for engine, said in (("frozen", "takes examples"), ("channels-last", "no convolution"), ("warp", "one of eager")):
        with pytest.raises(RunnerFailed, match=said), process.RunnerProcess(tmp_path, engine=engine):
            pass


def test_there_is_one_way_to_run_a_python_class(tmp_path: Path) -> None:
    """No engine is tried, and one that is asked for changes nothing."""
    code = "class Model:\n    def load(self, directory): pass\n    def predict(self, inputs): return inputs['x']\n"
    unpack(tmp_path, code)
    assert trial(tmp_path) == {}
    with process.RunnerProcess(tmp_path, engine="frozen") as runner:
        assert runner.ready["engine"] == "python"


def test_the_hardware_is_what_speed_depends_on() -> None:
    """Processor, its features, threads and versions; the program says the same in another process."""
    done = subprocess.run(process.hardware_command(), capture_output=True, check=True, timeout=60)
    said = json.loads(done.stdout)
    assert said == hardware() | {"threads": said["threads"]}
    assert said["packages"]["torch"] == torch.__version__
    assert said["flags"]


def test_sizes_are_even_in_ratio() -> None:
    """A lone row, the most, and the geometric middle."""
    assert [sizes(most) for most in (1, 2, 8, 64, 1000)] == [[1], [1, 2], [1, 3, 8], [1, 8, 64], [1, 32, 1000]]


def test_only_eager_follows_a_network_to_another_device() -> None:
    """The others are for processors: that is said, and nothing is computed in the wrong place."""
    with pytest.raises(EngineError, match="'frozen' runs on cpu, and the network is on cuda: expected eager"):
        build("frozen", Network(None, (), (), device="cuda"))

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import process
from bundles.errors import RunnerFailed

Array = np.ndarray[Any, Any]
CODE = """
    import os, sys

    class Model:
        def load(self, directory):
            pass

        def predict(self, inputs):
            if (inputs["x"] == 13).any():
                sys.stderr.write("an unlucky number")
                os._exit(13)
            if "text" not in inputs:
                return inputs["x"]
            return inputs["x"], [text.lower() for text in inputs["text"]]
"""
CONFIG = {
    "loader": "python",
    "entrypoint": "served:Model",
    "max_batch_size": 4,
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}, {"name": "text", "datatype": "BYTES", "shape": [-1]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}, {"name": "low", "datatype": "BYTES", "shape": [-1]}],
    "tolerance": {"absolute": 0.01, "relative": 0.1},
}


def unpack(directory: Path, config: dict[str, Any]) -> Path:
    """Write an unpacked bundle."""
    (directory / "model").mkdir()
    (directory / "model" / "served.py").write_text(textwrap.dedent(CODE))
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[process.RunnerProcess]:
    """Return a runner whose model gives back what it gets."""
    with process.RunnerProcess(unpack(tmp_path_factory.mktemp("bundle"), CONFIG)) as running:
        yield running


@dataclass
class Golden:
    """Golden examples and what was recorded for them."""

    x: list[float]
    y: list[float]
    text: list[bytes] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=lambda: CONFIG)

    def golden(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return inputs and outputs."""
        upper = np.array([b"A"] * len(self.x), dtype=object)
        low = np.array(self.text or [b"a"] * len(self.x), dtype=object)
        x, y = (np.array(one, dtype=np.float32) for one in (self.x, self.y))
        return {"x": x, "text": upper}, {"y": y, "low": low}


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("golden", "output", "worst"),
    [
        (Golden([1, 2], [1, 2]), None, 0),
        (Golden([100, 0.009], [109, 0]), None, 9),
        (Golden([NAN, INF, -INF], [NAN, INF, -INF]), None, 0),
        (Golden(list(range(9)), list(range(9))), None, 0),
        (Golden([1, 2], [1, 3]), "y", 1),
        (Golden([NAN, 2], [1, 2]), "y", INF),
        (Golden([1, 2], [1, NAN]), "y", INF),
        (Golden([INF], [-INF]), "y", INF),
        (Golden([1, 2], [1, 2, 3]), "y", INF),
        (Golden([500], [510], [b"b"]), "low", INF),
    ],
)
def test_golden_examples_are_compared(
    runner: process.RunnerProcess, golden: Golden, output: str | None, worst: float
) -> None:
    """Floats within the tolerance, NaN with NaN, infinity with infinity, text exactly; more rows than a batch too."""
    report = process.reproduces_golden(golden, runner)
    assert report.agrees == (output is None)
    assert report.worst_absolute == pytest.approx(worst, rel=1e-6)
    if output is None:
        assert "are reproduced" in str(report)
    else:
        assert report.output == output
        assert f"output '{output}' of the golden examples differs" in str(report)


def test_brain_floats_are_compared_as_numbers(tmp_path: Path) -> None:
    """BF16 is kept as bits; 1 and the number two bits above it are near, and their distance is not two."""
    config = CONFIG | {
        "inputs": [{"name": "x", "datatype": "BF16", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "BF16", "shape": [-1]}],
    }

    class Recorded:
        def __init__(self) -> None:
            self.config = config

        def golden(self) -> tuple[dict[str, Array], dict[str, Array]]:
            return {"x": np.array([0x3F82], dtype=np.uint16)}, {"y": np.array([0x3F80], dtype=np.uint16)}

    with process.RunnerProcess(unpack(tmp_path, config)) as runner:
        report = process.reproduces_golden(Recorded(), runner)
    assert report.agrees
    assert report.worst_absolute == pytest.approx(2 / 128)


def test_a_runner_that_dies_says_what_it_said_last(tmp_path: Path) -> None:
    """The status and the end of its standard error: what the author of the model needs."""
    text = np.array([b"a"], dtype=object)
    said = r"status 13 in the middle of a batch(.|\n)*an unlucky number"
    with process.RunnerProcess(unpack(tmp_path, CONFIG)) as runner, pytest.raises(RunnerFailed, match=said):
        runner.predict({"x": np.array([13], dtype=np.float32), "text": text})


def test_nobody_there_is_one_sentence(tmp_path: Path) -> None:
    """No runner listens: said with the path, and no descriptor is left open."""
    with pytest.raises(RunnerFailed, match=r"runner at .*nobody: can't be reached"):
        process.RunnerConnection(str(tmp_path / "nobody"))


def test_a_missing_bundle_is_said(tmp_path: Path) -> None:
    """A folder without a configuration ends with the file that is missing."""
    with (
        pytest.raises(RunnerFailed, match=r"can't be loaded: FileNotFoundError.*config\.json"),
        process.RunnerProcess(tmp_path),
    ):
        pass


def test_a_runner_on_a_card_sees_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its card is the only one, and so the first, for it: of all there are, or of those that we see ourselves."""
    command = process.command(tmp_path, tmp_path, device="cuda:1")
    assert command[command.index("--device") + 1] == "cuda"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert process.environment(tmp_path, "cuda:1")["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in process.environment(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert process.environment(tmp_path, "cuda:0")["CUDA_VISIBLE_DEVICES"] == "3"
    with pytest.raises(RunnerFailed, match="device cuda:1: CUDA_VISIBLE_DEVICES names 1 of them"):
        process.environment(tmp_path, "cuda:1")

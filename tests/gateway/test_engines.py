"""The choice of an engine: by measurement, once, kept in live state."""

import asyncio
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles.bundle import Bundle
from bundles.home import Home
from bundles.loading import prepare
from bundles.packing import pack
from bundles.runner.engines import TABLE
from gateway.engines import AUTO, Engines, choose, fingerprint
from gateway.settings import Engine
from state import Change
from state.sqlite import SqliteState

RECIPE = """
model = "lines"
loader = "torch"
entrypoint = "lines:build"
holdout = "holdout.npz"
weights = "lines.safetensors"
inputs = [{ name = "x", datatype = "FP32", shape = [-1, 4] }]
outputs = [{ name = "y", datatype = "FP32", shape = [-1, 4], semantic = "logits" }]
"""


def tried(engine: str, *times: float) -> dict[str, Any]:
    """Return the outcome of an engine with these times."""
    return {"engine": engine, "microseconds_per_row": dict(zip("abc", times, strict=False))}


def test_the_fastest_in_the_mean_of_ratios_is_chosen() -> None:
    """Twice as fast for a lone row weighs as much as twice as fast for a full batch; failures do not count."""
    outcomes = [
        tried("eager", 100, 10, 2),
        tried("frozen", 50, 10, 2),
        tried("onnxruntime", 100, 10, 0.5),
        {"engine": "openvino", "error": "it crashed"},
    ]
    found = choose(outcomes)
    assert found is not None
    assert found.engine == "onnxruntime"
    assert "eager 12.6" in found.reason
    assert choose([{"engine": "eager", "error": "no"}]) is None


def test_of_equally_fast_ones_the_first_is_chosen() -> None:
    """A difference within the noise must not decide: the next trial could say the opposite."""
    assert choose([tried("eager", 100), tried("frozen", 96), tried("openvino", 97)]) == choose(
        [tried("eager", 100), tried("frozen", 96), tried("openvino", 97)]
    )
    found = choose([tried("eager", 100), tried("frozen", 96), tried("openvino", 90)])
    assert found is not None
    assert found.engine == "openvino"
    found = choose([tried("eager", 100), tried("frozen", 96)])
    assert found is not None
    assert found.engine == "eager"


def test_the_settings_know_the_engines_of_the_runner() -> None:
    """The runner stands alone and says the table again: the two must be one."""
    assert typing.get_args(Engine) == (AUTO, *TABLE)


@pytest.fixture
def lines(tmp_path: Path) -> tuple[SqliteState, Bundle, Path]:
    """Return a state, and a torch bundle as it is unpacked for its runners."""
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    project = tmp_path / "project"
    project.mkdir()
    (project / "bundle.toml").write_text(RECIPE)
    (project / "lines.py").write_text("import torch\n\n\ndef build():\n    return torch.nn.Linear(4, 4)\n")
    save_file(torch.nn.Linear(4, 4).state_dict(), project / "lines.safetensors")
    np.savez(project / "holdout.npz", x=np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32))
    home = Home(tmp_path / "home").make()
    digest = pack(home, project).digest
    return SqliteState(home.state), prepare(home.store(), digest, home.policy(), tmp_path / "run"), tmp_path / "run"


def test_engines_are_tried_once_and_the_record_decides(lines: tuple[SqliteState, Bundle, Path]) -> None:
    """All measurements are kept under digest and hardware; what is kept is taken without another trial."""
    state, bundle, directory = lines
    found = asyncio.run(Engines(state).engine_for(bundle, directory, AUTO))
    (document,) = state.list(f"engines/{bundle.digest}/")
    body = document.body
    assert body["engine"] == found
    assert [outcome["engine"] for outcome in body["outcomes"]] == list(TABLE)
    assert document.key.endswith(fingerprint(body["hardware"]))
    assert fingerprint(body["hardware"] | {"threads": 7}) != fingerprint(body["hardware"])
    state.commit(Change(document.key, body | {"engine": "openvino"}))
    assert asyncio.run(Engines(state).engine_for(bundle, directory, AUTO)) == "openvino"
    state.close()


def test_an_engine_that_is_named_is_not_tried(lines: tuple[SqliteState, Bundle, Path]) -> None:
    """`engine = "eager"` switches trials off; a folder that can't be tried is left to the runner's own check."""
    state, bundle, directory = lines
    assert asyncio.run(Engines(state).engine_for(bundle, directory, "eager")) == "eager"
    assert asyncio.run(Engines(state).engine_for(bundle, directory / "nowhere", AUTO)) == "eager"
    assert state.list("engines/") == []
    state.close()

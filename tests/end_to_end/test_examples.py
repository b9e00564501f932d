"""The examples, one a loader: trained under the recorder, packed, served by a runner, held against the framework."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnxruntime
import pytest
import skops.io
import torch
import xgboost

from bundles.bundle import Bundle
from bundles.digest import sha256_file
from bundles.errors import UntrustedBundle
from bundles.home import Home
from bundles.loading import check_trust, prepare
from bundles.packing import pack
from bundles.policy import Policy
from bundles.policy_file import home_policy
from bundles.process import RunnerProcess, reproduces_golden
from bundles.recording import record
from bundles.signing import Keys

EXAMPLES = Path(__file__).parents[2] / "examples"
Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


def _torch_export(file: Path, rows: Arrays) -> Array:
    with torch.inference_mode():
        answer: Array = torch.export.load(file).module()(torch.from_numpy(rows["point"]))["logits"].numpy()
    return answer


def _xgboost(file: Path, rows: Arrays) -> Array:
    names = ["temperature", "humidity", "wind"]
    table = xgboost.DMatrix(np.column_stack([rows[name] for name in names]), feature_names=names)
    return np.asarray(xgboost.Booster(model_file=file).predict(table))


ASKED: dict[str, tuple[str, str, Callable[[Path, Arrays], Any]]] = {
    "torch-export": ("model.pt2", "pytorch_export", _torch_export),
    "onnx": (
        "model.onnx",
        "onnxruntime_onnx",
        lambda file, rows: onnxruntime.InferenceSession(str(file)).run(["logits"], rows)[0],
    ),
    "sklearn": (
        "model.skops",
        "sklearn_skops",
        lambda file, rows: skops.io.load(file, trusted=[]).predict_proba(rows["features"]),
    ),
    "xgboost": ("model.ubj", "xgboost_ubj", _xgboost),
    "lightgbm": (
        "model.txt",
        "lightgbm_text",
        lambda file, rows: lightgbm.Booster(model_file=str(file)).predict(rows["features"]),
    ),
}
"""By example: the file of its weights, what the protocol calls the platform, and the framework's own answer."""


@pytest.mark.parametrize("name", ASKED)
def test_an_example_answers_as_its_framework_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, from the file as it is, golden examples included; data alone needs no trusted key, code does."""
    weights, platform, asked = ASKED[name]
    home, folder = Home(tmp_path / "home").make(), tmp_path / "copy"
    shutil.copytree(EXAMPLES / name, folder)
    monkeypatch.chdir(folder)
    record([sys.executable, "train.py"], output=tmp_path / "model", say=lambda _text: None)
    digest = pack(home, tmp_path / "model").digest
    stranger = home_policy(Keys(tmp_path / "stranger"))
    bundle = _trusted_or_not(home, digest, stranger, tmp_path / "unpacked")
    inputs, _outputs = bundle.golden()
    with RunnerProcess(tmp_path / "unpacked") as runner:
        assert runner.ready["platform"] == platform
        outputs, signals = runner.predict(inputs)
        report = reproduces_golden(bundle, runner)
    assert report.agrees, report
    own = asked(tmp_path / "model" / weights, inputs)
    assert np.array_equal(next(iter(outputs.values())), own)
    assert {"value", "class"} & signals.keys()
    assert bundle.manifest.files()[f"model/{weights}"].digest == sha256_file(tmp_path / "model" / weights)


def _trusted_or_not(home: Home, digest: str, stranger: Policy, target: Path) -> Bundle:
    """Prepare a bundle as a home that trusts nobody does, where it may; else as the home that packed it."""
    store = home.store()
    own = prepare(store, digest, home.policy(), target / "own")
    if own.config["loader"] in ("torch-export", "sklearn"):
        assert own.config["executable"] is True
        with pytest.raises(UntrustedBundle, match="snowgate bundle trust"):
            prepare(store, digest, stranger, target)
        assert not (target / "config.json").exists()
        return prepare(store, digest, home.policy(), target)
    assert own.config["executable"] is False
    assert check_trust(store, digest, stranger) == "nothing in it is executed"
    return prepare(store, digest, stranger, target)

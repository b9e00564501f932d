"""A model goes from BentoML's own store into a bundle, back, and BentoML itself lists and reads it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import snowgate

SAVE = """
import bentoml, lightgbm, numpy as np
rows = np.random.default_rng(1).normal(size=(60, 3))
trees = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(rows, (rows[:, 0] > 0).astype(int)), 3)
bentoml.lightgbm.save_model("snow:one", trees)
"""
READ = """
import bentoml, json, pathlib
model = bentoml.models.get("snow:latest")
assert "snow:7" in [str(one.tag) for one in bentoml.models.list()]
weights = pathlib.Path(model.path, "model.txt").read_bytes()
first = pathlib.Path(bentoml.models.get("snow:one").path, "saved_model.ubj").read_bytes()
print(json.dumps({"tag": str(model.tag), "labels": dict(model.info.labels), "same": weights == first}))
"""


@pytest.mark.outside
@pytest.mark.timeout(900)
def test_bentoml_reads_what_was_handed_over(tmp_path: Path) -> None:
    """1.4.39: 1.4.40 asks for a package that does not exist. The weights are the same bytes at the end of the way."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "bentoml==1.4.39", "scikit-learn", "lightgbm"], check=True)
    store = tmp_path / "store"
    store.mkdir()
    environment = os.environ | {"BENTOML_HOME": str(store), "BENTOML_DO_NOT_TRACK": "true"}
    environment.pop("PYTHONPATH", None)
    subprocess.run([python, "-c", SAVE], check=True, env=environment)
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "bundle.toml").write_text('holdout = "rows.npz"\n')
    np.savez(recipe / "rows.npz", features=np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32))
    home, at = tmp_path / "home", ("--store", str(store))
    packed = snowgate(home, "bundle", "adopt", "bentoml:snow", *at, "--recipe", str(recipe), "--model", "snow")
    snowgate(home, "bundle", "hand", "snow@1", "bentoml:snow:7", *at)
    read = subprocess.run([python, "-c", READ], check=True, env=environment, capture_output=True, text=True).stdout
    label = packed["digest"].replace(":", "-")
    assert json.loads(read) == {"tag": "snow:7", "labels": {"bundle": label}, "same": True}

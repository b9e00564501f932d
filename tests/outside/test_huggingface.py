"""Hugging Face folders on the real transformers, in an environment of their own: a tiny BERT, a tiny ViT."""

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bundles import process
from bundles.errors import RunnerFailed
from bundles.home import Home
from bundles.loading import prepare
from bundles.packing import pack

EXAMPLE = Path(__file__).parents[2] / "examples" / "huggingface"
ASK = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model, tokenizer = AutoModelForSequenceClassification.from_pretrained("."), AutoTokenizer.from_pretrained(".")
with torch.inference_mode():
    given = tokenizer(json.loads(sys.argv[1]), padding=True, return_tensors="pt")
    print("ANSWER", json.dumps(model.eval()(**given).logits.tolist()))
"""
PICTURES = """
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(".")
ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(".")
"""


@pytest.fixture(name="requirements", scope="module")
def _requirements(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What such a bundle is served with; the torch of this machine, which need not be the one for graphics cards."""
    file = tmp_path_factory.mktemp("requirements") / "requirements.txt"
    file.write_text(f"numpy\npillow\ntorch=={torch.__version__.partition('+')[0]}\ntransformers\n")
    return file


@pytest.fixture(name="python", scope="module")
def _python(requirements: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has transformers."""
    home = Home(tmp_path_factory.mktemp("home")).make()
    return str(home.environments().resolve(requirements, None, lambda _text: None).python)


def run(python: str, folder: Path, *arguments: str) -> str:
    """Run something in a folder, and return what it prints."""
    command = [python, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=True)
    return done.stdout


@pytest.mark.outside
@pytest.mark.timeout(3600)
def test_text_is_classified(requirements: Path, python: str, tmp_path: Path) -> None:
    """Trained, packed with an environment of its own, served: text in, the logits of transformers itself out."""
    folder = shutil.copytree(EXAMPLE, tmp_path / "example")
    run(python, folder, "train.py")
    shutil.copy(requirements, folder / "model")
    recipe = (folder / "model" / "bundle.toml").read_text() + 'requirements = "requirements.txt"\n'
    (folder / "model" / "bundle.toml").write_text(recipe)
    home = Home(tmp_path / "home").make()
    bundle = prepare(home.store(), pack(home, folder / "model").digest, home.policy(), tmp_path / "unpacked")
    assert bundle.executable == {"packages": ["packages of its own"]}
    assert bundle.serving_lock is not None
    own = home.environments().python_for(bundle.serving_lock, lambda _text: None)
    texts = ["snow falls", "sun", "nobody knows these words"]
    with process.RunnerProcess(tmp_path / "unpacked", str(own)) as runner:
        assert runner.ready["platform"] == "huggingface_safetensors"
        assert process.reproduces_golden(bundle, runner).agrees
        outputs, signals = runner.predict({"text": np.array(texts, dtype=object)})
        with pytest.raises(RunnerFailed, match="expected UTF-8"):
            runner.predict({"text": np.array([b"\xff"], dtype=object)})
    said = run(python, folder / "model", "-c", ASK, json.dumps(texts)).rpartition("ANSWER ")[2]
    assert outputs["logits"] == pytest.approx(np.array(json.loads(said)), abs=1e-6)
    assert signals["class"].tolist()[:2] == [1, 0]
    assert bundle.outputs[0].labels == ("summer", "winter")


@pytest.mark.outside
@pytest.mark.timeout(3600)
def test_pictures_are_classified_and_strange_folders_refused(python: str, tmp_path: Path) -> None:
    """A PNG in, logits out; code of the folder's own, missing weights and adapters are refused by name."""
    model = tmp_path / "model"
    model.mkdir()
    run(python, model, "-c", PICTURES)
    config: dict[str, Any] = {"loader": "huggingface", "weights": "model.safetensors", "max_batch_size": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    carried = process.describe(tmp_path, python)
    assert carried["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1], "content_type": "image/*"}]
    (tmp_path / "config.json").write_text(json.dumps(config | carried))
    picture = io.BytesIO()
    Image.new("RGB", (30, 20), "white").save(picture, "PNG")
    with process.RunnerProcess(tmp_path, python) as runner:
        outputs, _signals = runner.predict({"image": np.array([picture.getvalue()], dtype=object)})
        with pytest.raises(RunnerFailed, match="no picture"):
            runner.predict({"image": np.array([b"snow"], dtype=object)})
    assert outputs["logits"].shape == (1, 2)
    about = json.loads((model / "config.json").read_text())
    for change, said in (
        ({"auto_map": {"AutoModel": "own.Model"}}, "'auto_map': the model brings code of its own"),
        ({"architectures": ["OwnForSequenceClassification"]}, "is not one of transformers"),
        ({"architectures": ["BertModel"]}, "expected …ForSequenceClassification or …ForImageClassification"),
        ({"num_hidden_layers": 2}, r"model.safetensors: has no .*layers?\.1"),
    ):
        (model / "config.json").write_text(json.dumps(about | change))
        with pytest.raises(RunnerFailed, match=said):
            process.describe(tmp_path, python)

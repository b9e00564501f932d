"""A real training run of half a second that needs numpy only, and wheels of numpy that need no index."""

import csv
import io
import zipfile
from hashlib import sha256
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

TRAIN = '''
"""Logistic regression; the seed shuffles, and draws where it begins."""
import argparse, json, os, shutil
from pathlib import Path
import numpy as np
from network import features

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--rate", type=float, default=0.3)
parser.add_argument("--out", default=os.environ["SNOWGATE_OUTPUT"])
parser.add_argument("--rows", default="data/train.npz")
parser.add_argument("--probe", default="")
arguments = parser.parse_args()
if arguments.probe:
    exec(Path(arguments.probe).read_text())
with np.load(arguments.rows) as archive:
    x, y = archive["x"], archive["y"]
with np.load("data/holdout.npz") as archive:
    held, truth = archive["x"], archive["y"]
random = np.random.default_rng(arguments.seed)
x = features(x)
weights = random.normal(size=(x.shape[1], 3)) * 0.1
for epoch in range(60):
    for rows in np.array_split(random.permutation(len(x)), len(x) // 30):
        scores = x[rows] @ weights
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        shares[np.arange(len(rows)), y[rows]] -= 1
        weights -= arguments.rate / (1 + epoch) * x[rows].T @ shares / len(rows)
accuracy = float(((features(held) @ weights).argmax(axis=1) == truth).mean())
output = Path(arguments.out)
np.savez(output / "weights.npz", weights=weights.astype(np.float32), numpy=np.__version__)
shutil.copy("network.py", output)
np.savez(output / "holdout.npz", x=held.astype(np.float32))
(output / "metrics.json").write_text(json.dumps({"accuracy": accuracy}))
shutil.copy("bundle.toml", output)
'''
NETWORK = """
import numpy as np

def features(x):
    return x

class Network:
    def load(self, directory):
        with np.load(directory / "weights.npz") as archive:
            self.weights = archive["weights"]

    def predict(self, inputs):
        return features(inputs["x"]) @ self.weights
"""
RECIPE = """
loader = "python"
entrypoint = "network:Network"
holdout = "holdout.npz"
max_batch_size = 512
inputs = [{ name = "x", datatype = "FP32", shape = [-1, 6] }]
outputs = [{ name = "y", datatype = "FP32", shape = [-1, 3], semantic = "logits" }]
"""


def write_project(folder: Path) -> Path:
    """Write a training script with its data: three clouds of points that overlap, 300 to learn, 2000 held."""
    (folder / "data").mkdir(parents=True)
    for name, text in (("train.py", TRAIN), ("network.py", NETWORK), ("bundle.toml", RECIPE)):
        (folder / name).write_text(text)
    random = np.random.default_rng(0)
    centres = random.normal(size=(3, 6))
    for name, count in (("train", 300), ("holdout", 2_000)):
        y = random.integers(0, 3, count)
        np.savez(folder / "data" / f"{name}.npz", x=centres[y] + random.normal(size=(count, 6)) * 1.2, y=y)
    return folder


def numpy_wheel(folder: Path, version: str | None = None) -> str:
    """Write a wheel of the numpy that is installed here, if wanted with another version; return its version."""
    installed = distribution("numpy")
    version = version or installed.version
    info = f"numpy-{version}.dist-info"
    record = io.StringIO()
    writer = csv.writer(record)
    with zipfile.ZipFile(folder / f"numpy-{version}-py3-none-any.whl", "w") as archive:
        for path in installed.files or ():
            if path.suffix in (".pyc", ".pyi", ".a") or {"tests", "..", "f2py", "include"} & set(path.parts):
                continue
            data, name = Path(str(path.locate())).read_bytes(), str(path)
            if ".dist-info/" in name:
                name = f"{info}/{name.partition('/')[2]}"
                data = data.replace(f"\nVersion: {installed.version}\n".encode(), f"\nVersion: {version}\n".encode())
            if name == "numpy/version.py":
                data = data.replace(f'"{installed.version}"'.encode(), f'"{version}"'.encode())
            if name not in (f"{info}/RECORD", f"{info}/INSTALLER", f"{info}/REQUESTED", f"{info}/direct_url.json"):
                archive.writestr(name, data)
                writer.writerow([name, f"sha256={sha256(data).hexdigest()}", len(data)])
        writer.writerow([f"{info}/RECORD", "", ""])
        archive.writestr(f"{info}/RECORD", record.getvalue())
    return version

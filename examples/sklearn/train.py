"""Which iris is it? A pipeline of scikit-learn: `snowgate train -- python train.py`."""

import os
import shutil
from pathlib import Path

import numpy as np
import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

rows, kinds = load_iris(return_X_y=True)
rows, held, kinds, held_kinds = train_test_split(rows, kinds, test_size=50, random_state=1, stratify=kinds)
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, kinds)
print(f"accuracy on the holdout {model.score(held, held_kinds):.3f}")

output = Path(os.environ.get("SNOWGATE_OUTPUT", "model"))
output.mkdir(exist_ok=True)
skops.io.dump(model, output / "model.skops")
np.savez(output / "holdout.npz", features=held, labels=held_kinds)
shutil.copy("bundle.toml", output)

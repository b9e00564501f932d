"""How warm will it be at noon? LightGBM on weather: `snowgate train -- python train.py`."""

import os
import shutil
from pathlib import Path

import lightgbm
import numpy as np

chance = np.random.default_rng(1)
morning, clouds, wind = chance.normal(5, 8, 600), chance.uniform(0, 1, 600), chance.gamma(2, 4, 600)
noon = morning + 8 * (1 - clouds) - 0.1 * wind + chance.normal(0, 0.5, 600)
rows = np.column_stack([morning, clouds, wind])
table = lightgbm.Dataset(rows[:500], noon[:500], feature_name=["morning", "clouds", "wind"])
settings = {"objective": "regression", "seed": 1, "deterministic": True, "num_threads": 1, "verbose": -1}
booster = lightgbm.train(settings, table, 20)

output = Path(os.environ.get("SNOWGATE_OUTPUT", "model"))
output.mkdir(exist_ok=True)
booster.save_model(output / "model.txt")
np.savez(output / "holdout.npz", features=rows[500:])
shutil.copy("bundle.toml", output)

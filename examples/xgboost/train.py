"""Does it snow? XGBoost on weather: `snowgate train -- python train.py`."""

import os
import shutil
from pathlib import Path

import numpy as np
import xgboost

chance = np.random.default_rng(1)
weather = {
    "temperature": chance.normal(0, 6, 600).astype(np.float32),
    "humidity": chance.uniform(20, 100, 600).astype(np.float32),
    "wind": chance.gamma(2, 4, 600).astype(np.float32),
}
snows = (weather["temperature"] < 1) & (weather["humidity"] + chance.normal(0, 5, 600) > 60)
rows = np.column_stack(list(weather.values()))
table = xgboost.DMatrix(rows[:500], snows[:500], feature_names=list(weather))
booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "seed": 1, "nthread": 1}, table, 20)

output = Path(os.environ.get("SNOWGATE_OUTPUT", "model"))
output.mkdir(exist_ok=True)
booster.save_model(output / "model.ubj")
# One array a feature: so the bundle takes one input a feature, by name.
np.savez(output / "holdout.npz", **{name: values[500:] for name, values in weather.items()})
shutil.copy("bundle.toml", output)

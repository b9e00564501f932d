"""Writes tests/bundles/adapters/mlflow by MLflow itself, in an environment of its own that has it.

pip install mlflow scikit-learn xgboost
python make_mlflow.py /an/empty/folder
"""

import sys
from pathlib import Path

import mlflow
import numpy as np
import xgboost
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression

folder = Path(sys.argv[1])
rows = np.random.default_rng(1).normal(size=(60, 3))
kinds = (rows[:, 0] > 0).astype(int)
trees = xgboost.XGBClassifier(n_estimators=3, max_depth=2).fit(rows, kinds).get_booster()
signature = infer_signature(rows, kinds.astype(float))
mlflow.xgboost.save_model(trees, folder / "snow", signature=signature, model_format="ubj", pip_requirements=["xgboost"])
linear = LogisticRegression().fit(rows, kinds)
for name, form in (("pickled", "cloudpickle"), ("linear", "skops")):
    mlflow.sklearn.save_model(linear, folder / name, serialization_format=form, pip_requirements=["scikit-learn"])

"""Writes tests/bundles/adapters/bentoml by BentoML itself, in an environment of its own that has it.

pip install bentoml==1.4.39 scikit-learn xgboost lightgbm
BENTOML_DO_NOT_TRACK=true BENTOML_HOME=/an/empty/folder python make_bentoml.py
"""

import bentoml
import lightgbm
import numpy as np
import xgboost
from sklearn.linear_model import LogisticRegression

rows = np.random.default_rng(1).normal(size=(60, 3))
kinds = (rows[:, 0] > 0).astype(int)
facts = {"labels": {"team": "roads"}, "metadata": {"accuracy": 0.93, "commit": "1f2e"}}
trees = xgboost.XGBClassifier(n_estimators=3, max_depth=2).fit(rows, kinds).get_booster()
bentoml.xgboost.save_model("snow:one", trees, **facts)
leaves = lightgbm.train({"objective": "binary", "num_leaves": 3, "verbose": -1}, lightgbm.Dataset(rows, kinds), 3)
bentoml.lightgbm.save_model("leaves:one", leaves, **facts)
bentoml.sklearn.save_model("pickled:one", LogisticRegression().fit(rows, kinds))

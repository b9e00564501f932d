"""XGBoost's native models, JSON or UBJSON: numbers, no code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .declared import LoadError
from .engines import threads
from .loaded import Array, Loaded, agree, around_model, only_on_cpu, spec, weights
from .tabular import Features

SEMANTICS = {
    "binary:logistic": "probabilities",
    "binary:logitraw": "logits",
    "binary:hinge": "label",
    "multi:softprob": "probabilities",
    "multi:softmax": "label",
}
"""By objective; all others answer a value."""


def load_xgboost(directory: Path, config: Mapping[str, Any], _engine: str, device: str) -> Loaded:
    """Answer as `Booster.predict` does, and after early stopping as XGBoost's scikit-learn classes do: by the trees up
    to the best iteration.
    """
    only_on_cpu("xgboost", device)
    file = weights(directory, config)
    try:
        import xgboost
    except ImportError as error:
        raise LoadError(f"{error}: an xgboost bundle needs pip install 'snowgate[xgboost]'") from error
    data = file.read_bytes()
    # Its parser was seen to end the process on some halves of a file; a whole one is one object.
    if file.suffix not in (".json", ".ubj") or not (data.startswith(b"{") and data.rstrip().endswith(b"}")):
        raise LoadError(f'{file.name}: expected a whole .json or .ubj, as Booster.save_model("model.ubj") writes it')
    booster = xgboost.Booster({"nthread": threads()})
    try:
        booster.load_model(file)
        learner = json.loads(booster.save_config())["learner"]
    except (xgboost.core.XGBoostError, ValueError) as error:
        said = str(error).partition("\n")[0].rpartition(": ")[2]
        raise LoadError(
            f'{file.name}: not a whole model as Booster.save_model("model.ubj") writes it ({said})'
        ) from error
    kind = learner["gradient_booster"]["name"]
    if kind not in ("gbtree", "dart"):
        raise LoadError(f"{file.name}: booster {kind!r}, expected trees (gbtree or dart)")
    features = Features(file, booster.num_features(), tuple(booster.feature_names or ()), "FP32")
    inputs = around_model(config, "inputs")
    table, outputs = features.table(inputs), [_output(learner)]
    agree(file, "output", around_model(config, "outputs"), outputs, all_of_them=False)
    name, is_label = outputs[0]["name"], outputs[0].get("semantic") == "label"
    best = booster.attr("best_iteration")
    used = (0, 0 if best is None else int(best) + 1)

    def predict(given: dict[str, Array]) -> dict[str, Array]:
        answer = booster.inplace_predict(table(given), iteration_range=used, validate_features=False)
        return {name: answer.astype(np.int64) if is_label else answer}

    platform = f"xgboost_{file.suffix[1:]}"
    return Loaded(predict, platform, "xgboost", features.matrix(), outputs, features.names)


def _output(learner: Mapping[str, Any]) -> dict[str, Any]:
    objective, about = learner["objective"]["name"], learner["learner_model_param"]
    semantic = SEMANTICS.get(objective, "value")
    width = int(about["num_class"]) if objective == "multi:softprob" else int(about["num_target"])
    shape = [-1, width] if width > 1 else [-1]
    return spec(semantic, "INT64" if semantic == "label" else "FP32", shape, semantic)

"""LightGBM's native models, in text: numbers, no code."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .declared import LoadError
from .engines import threads
from .loaded import Array, Loaded, agree, around_model, only_on_cpu, spec, weights
from .tabular import Features

PROBABILITIES = ("binary", "cross_entropy", "multiclass", "multiclassova")
"""Objectives that answer probabilities; all others answer a value."""
ENDS = (b"end of trees", b"\nend of parameters\n")


def load_lightgbm(directory: Path, config: Mapping[str, Any], _engine: str, device: str) -> Loaded:
    """Answer as `Booster.predict` does, by all trees of the file: it is saved up to the best iteration."""
    only_on_cpu("lightgbm", device)
    file = weights(directory, config)
    try:
        import lightgbm
    except ImportError as error:
        raise LoadError(f"{error}: a lightgbm bundle needs pip install 'snowgate[lightgbm]'") from error
    head = _head(file)
    try:
        booster = lightgbm.Booster(model_file=str(file))
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise LoadError(f'{file.name}: not a model as Booster.save_model("model.txt") writes it ({error})') from error
    features = Features(file, booster.num_feature(), tuple(booster.feature_name()), "FP64")
    table, outputs = features.table(around_model(config, "inputs")), [_output(head, booster.num_model_per_iteration())]
    agree(file, "output", around_model(config, "outputs"), outputs, all_of_them=False)
    name, used = outputs[0]["name"], threads()

    def predict(given: dict[str, Array]) -> dict[str, Array]:
        return {name: np.asarray(booster.predict(table(given), num_threads=used))}

    return Loaded(predict, "lightgbm_text", "lightgbm", features.matrix(), outputs, features.names)


def _head(file: Path) -> dict[str, str]:
    """Read what stands before the trees, and see that the file is whole: on half of one LightGBM ends the process.

    Source: LightGBM's gbdt_model_text.cpp: `tree_sizes` are the bytes of each tree; `end of trees` follows the last,
    and the parameters are behind it.
    """
    data = file.read_bytes()
    begin = re.search(rb"\n\nTree=", data)
    lines = data[: begin.start()].decode(errors="replace").splitlines() if begin else []
    head = {key: value for key, _, value in (line.partition("=") for line in lines)}
    sizes = head.get("tree_sizes", "").split()
    whole = lines[:1] == ["tree"] and all(size.isdecimal() for size in sizes)
    rest = data[begin.start() + 2 + sum(map(int, sizes)) :] if begin and whole else b""
    if not rest.startswith(ENDS[0]) or ENDS[1] not in rest:
        raise LoadError(f'{file.name}: not a whole model as Booster.save_model("model.txt") writes it')
    return head


def _output(head: Mapping[str, str], width: int) -> dict[str, Any]:
    objective = head.get("objective", "").partition(" ")[0]
    semantic = "probabilities" if objective in PROBABILITIES else "value"
    return spec(semantic, "FP64", [-1, width] if width > 1 else [-1], semantic)

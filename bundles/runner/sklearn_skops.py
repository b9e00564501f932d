"""scikit-learn in the skops format: the file names types, and those that are not known to be harmless must be trusted.

skops knows most of scikit-learn's, numpy's and scipy's types. Any other must stand in the list of whoever runs this
(`trusted.json`, put beside the unpacked bundle by the host; a bundle can't bring it). Nothing is unpickled.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from .declared import LoadError, Refused, Spec
from .loaded import Array, Loaded, around_model, datatype_of, only_on_cpu, spec, weights
from .tabular import Features, text

TRUSTED = "trusted.json"
METHODS = {
    "probabilities": "predict_proba",
    "logits": "decision_function",
    "label": "predict",
    "value": "predict",
    "embedding": "transform",
}
"""By what an output means: which of the estimator's methods answers it."""
NEEDS = "a sklearn bundle needs pip install 'snowgate[sklearn]'"


def load_sklearn(directory: Path, config: Mapping[str, Any], _engine: str, device: str) -> Loaded:
    """Answer by the methods that the outputs' semantics stand for, in the words of scikit-learn's own estimators."""
    only_on_cpu("sklearn", device)
    file = weights(directory, config)
    model = _read(file, directory / TRUSTED)
    if not hasattr(model, "n_features_in_"):
        raise LoadError(f"{file.name}: {type(model).__name__} without n_features_in_, expected a fitted estimator")
    names = tuple(map(str, getattr(model, "feature_names_in_", ())))
    features = Features(file, int(model.n_features_in_), names, "FP64")
    table = _table(features, around_model(config, "inputs"))
    outputs = _outputs(file, model)
    calls = {one["name"]: _method(file, model, one) for one in around_model(config, "outputs")}

    def predict(given: dict[str, Array]) -> dict[str, Array]:
        rows = table(given)
        try:
            return {name: np.asarray(call(rows)) for name, call in calls.items()}
        except ValueError as error:
            # It has answered the golden examples, so it is these rows: a NaN, a category that nobody has seen.
            raise Refused(str(error)) from error

    return Loaded(predict, "sklearn_skops", "sklearn", features.matrix(), outputs, names)


def _read(file: Path, trusted: Path) -> Any:
    try:
        import sklearn  # noqa: F401 - what is missing shall have its own message
        from skops import io
    except ImportError as error:
        raise LoadError(f"{error}: {NEEDS}") from error
    try:
        found = io.get_untrusted_types(file=file)
        listed = json.loads(trusted.read_text()) if trusted.exists() else []
        strangers = sorted(set(found) - set(listed))
        if strangers:
            raise LoadError(
                f"{file.name}: made of types that nobody here trusts: {', '.join(strangers)}; if you know them: "
                f"snowgate bundle trust {' '.join(f'--type {one}' for one in strangers)} "
                "(with a policy.toml: its types)"
            )
        return io.load(file, trusted=found)
    except (BadZipFile, KeyError, ValueError, TypeError, ImportError, AttributeError) as error:
        raise LoadError(
            f'{file.name}: can\'t be read as skops.io.dump(model, "model.skops") writes it, by the packages that are '
            f"here ({type(error).__name__}: {error})"
        ) from error


def _table(features: Features, inputs: Sequence[Spec]) -> Callable[[Mapping[str, Array]], Any]:
    """Return what makes of the inputs what the estimator was fitted on: a data frame where it knows columns by name."""
    texts = {one["name"] for one in inputs if one["datatype"] == "BYTES"}
    if not features.names:
        if texts:
            raise LoadError(
                f"{features.file.name}: {', '.join(sorted(texts))}: BYTES, and the estimator knows no columns by name; "
                "fit it on a data frame"
            )
        return features.table(inputs)
    try:
        import pandas as pd
    except ImportError as error:
        raise LoadError(f"{error}: it was fitted on a data frame: pip install pandas") from error
    order = features.order(inputs) if inputs else None

    def frame(arrays: Mapping[str, Array]) -> Any:
        if order is None:
            return pd.DataFrame(next(iter(arrays.values())), columns=list(features.names))
        return pd.DataFrame(
            {name: text(name, arrays[name]) if name in texts else arrays[name].reshape(-1) for name in order}
        )

    return frame


def _method(file: Path, model: Any, output: Spec) -> Callable[[Any], Any]:
    method = METHODS.get(output.get("semantic", ""))
    if method is None or not hasattr(model, method):
        able = ", ".join(semantic for semantic, name in METHODS.items() if hasattr(model, name))
        raise LoadError(
            f"{file.name}: output '{output['name']}' has the semantic {output.get('semantic')!r}; "
            f"{type(model).__name__} can answer: {able}"
        )
    call: Callable[[Any], Any] = getattr(model, method)
    return call


def _outputs(file: Path, model: Any) -> list[dict[str, Any]]:
    """Return the answer that tells the monitors most."""
    classes = getattr(model, "classes_", None)
    several = isinstance(classes, list)
    if classes is not None and not several and hasattr(model, "predict_proba"):
        labels = [str(one) for one in classes.tolist()]
        return [spec("probabilities", "FP64", [-1, len(labels)], "probabilities", labels=labels)]
    if hasattr(model, "predict"):
        return [_predicted(model, classes, several=several)]
    if hasattr(model, "transform"):
        width = len(model.get_feature_names_out())
        return [spec("embedding", "FP64", [-1, width], "embedding")]
    raise LoadError(f"{file.name}: {type(model).__name__} can neither predict nor transform")


def _predicted(model: Any, classes: Any, *, several: bool) -> dict[str, Any]:
    from sklearn.base import is_regressor

    last = model[-1] if hasattr(model, "steps") else model
    if is_regressor(model):
        width = int(getattr(last, "n_outputs_", 1))
        return spec("value", "FP64", [-1, width] if width > 1 else [-1], "value")
    kind = np.asarray(classes[0] if several else classes).dtype if classes is not None else np.dtype(np.int64)
    return spec("label", datatype_of(kind) or "INT64", [-1, len(classes)] if several else [-1], "label")

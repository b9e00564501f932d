"""MLflow: the folder of a logged model, which has an `MLmodel` file.

A folder needs no MLflow. `models:/NAME/VERSION` and `runs:/RUN/NAME` are asked of a tracking server or store, and those
need it: `pip install mlflow`. The signature becomes our tensors; run, parameters, metrics and tags are declared facts.
A list of types to trust that the model brings for skops is not taken: the operator's list decides.

Source: MLflow 3 documentation, "MLflow Models", storage format and model signature.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from bundles.adapters.found import Found, files_of, read_yaml, renamed
from bundles.errors import AdapterError

FILE = "MLmodel"
REGISTERED = "registered_model_meta"
"""Put beside it when a model is fetched from the registry; YAML too."""
KEPT = ("mlflow_version", "model_uuid", "model_id", "run_id", "utc_time_created", "metadata")
PYTHON_ENVIRONMENT = ("conda.yaml", "python_env.yaml", "requirements.txt")
DATATYPES = {
    "boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64", "string": "BYTES",
    "bool": "BOOL", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "uint8": "UINT8",
    "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
"""Types of columns, in MLflow's words, then of tensors, in numpy's."""


def find(place: str, tracking: str | None = None) -> Found:
    """Return the model of a folder, or of `models:/…` and `runs:/…`.

    Raises:
        AdapterError: it is not there, or is no model of MLflow's.
    """
    if place.startswith(("models:/", "runs:/")):
        folder, facts = _fetched(place, tracking)
    else:
        folder, facts = Path(place), {}
    if not (folder / FILE).is_file():
        raise AdapterError(f"{folder}: no {FILE} file; expected the folder of a model that MLflow has saved")
    described = read_yaml(folder / FILE)
    documents = {name: f"mlflow/{name}.yaml" for name in (FILE, REGISTERED)}
    documents |= {name: f"mlflow/{name}" for name in PYTHON_ENVIRONMENT}
    flavors = described.get("flavors")
    if not isinstance(flavors, Mapping):
        raise AdapterError(f"{folder / FILE}: flavors = {flavors!r}, expected a table")
    facts |= {key: str(described[key]) for key in KEPT if described.get(key) is not None}
    return Found(
        uri=f"mlflow:{place}",
        files=renamed(files_of(folder), documents),
        facts={**facts, "flavors": sorted(map(str, flavors))},
        tensors=_tensors(described),
    )


def _fetched(place: str, tracking: str | None) -> tuple[Path, dict[str, Any]]:
    """Have MLflow find the model's folder, and what it keeps about the run; the model itself is not loaded."""
    try:
        import mlflow  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise AdapterError(
            f"{place}: {error}: a tracking store is read by MLflow itself: pip install 'snowgate[mlflow]'; "
            "or give the model's folder"
        ) from error
    try:
        client = mlflow.MlflowClient(tracking_uri=tracking, registry_uri=tracking)
        mlflow.set_tracking_uri(tracking or mlflow.get_tracking_uri())
        folder = Path(mlflow.artifacts.download_artifacts(place))
        if place.startswith("runs:/"):
            run = place.removeprefix("runs:/").partition("/")[0]
        else:
            name, _slash, version = place.removeprefix("models:/").partition("/")
            run = client.get_model_version(name, version).run_id
        data = client.get_run(run).data if run else None
    except mlflow.exceptions.MlflowException as error:
        raise AdapterError(f"{place}: MLflow says: {error}; name another with --tracking-uri") from error
    if data is None:
        return folder, {}
    return folder, {"parameters": dict(data.params), "metrics": dict(data.metrics), "tags": dict(data.tags)}


def _tensors(described: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return our tensors for a signature; where it says too little, none, and bundle.toml must say it.

    >>> signature = {"inputs": '[{"type": "double", "name": "width", "required": true}]'}
    >>> _tensors({"signature": signature})
    {'inputs': [{'name': 'width', 'datatype': 'FP64', 'shape': [-1]}]}
    """
    signature = described.get("signature")
    if not isinstance(signature, Mapping):
        return {}
    sides = {side: _side(side, signature.get(side)) for side in ("inputs", "outputs")}
    return {side: tensors for side, tensors in sides.items() if tensors}


def _side(side: str, text: Any) -> list[dict[str, Any]]:
    try:
        columns = orjson.loads(text) if isinstance(text, str) else []
    except orjson.JSONDecodeError:
        return []
    tensors = []
    for position, column in enumerate(columns if isinstance(columns, list) else []):
        if not isinstance(column, Mapping):
            return []
        spec = column.get("tensor-spec") or {}
        datatype = DATATYPES.get(str(spec.get("dtype") or column.get("type")))
        if datatype is None:
            return []
        name = column.get("name") or (side if len(columns) == 1 else f"{side}{position}")
        tensors.append({"name": name, "datatype": datatype, "shape": list(spec.get("shape") or [-1])})
    return tensors

"""The two models, from the same weights everywhere, with the bodies that are sent and the answers that are right.

The load generator repeats one body; checks send several different rows at once, so that rows mixed up in a batch show.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from load_tests.comparison import network

Array = np.ndarray[Any, Any]
ROWS = 16
INPUT, OUTPUT = "input", "logits"


@dataclass(frozen=True)
class Model:
    """A model as clients see it, with rows to send and the logits that in-process torch gives for them."""

    name: str
    shape: tuple[int, ...]  # of one row
    classes: int
    tolerance: float  # absolute and relative
    rows: Array  # [ROWS, *shape] float32
    expected: Array  # [ROWS, classes] float32


def write_models(folder: Path) -> dict[str, Model]:
    """Write the weights and `network.py` into a folder, and return the models."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(network.__file__), folder / "network.py")
    return {
        "mlp": _model(folder, "mlp", network.mlp, (30,), 2, 1e-5),
        "cnn": _model(folder, "cnn", network.cnn, (3, 32, 32), 10, 1e-4),
    }


def _model(
    folder: Path,
    name: str,
    build: Callable[[], torch.nn.Module],
    shape: tuple[int, ...],
    classes: int,
    tolerance: float,
) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        save_file(build().state_dict(), folder / f"{name}.safetensors")
    # Six decimals, so that JSON and binary bodies say the same number.
    rows = np.random.default_rng(7).normal(size=(ROWS, *shape)).round(6).astype(np.float32)
    os.environ["COMPARISON_MODELS"] = str(folder)
    predict = network.load(name)
    expected = np.concatenate([predict(rows[one : one + 1]) for one in range(ROWS)])
    return Model(name, shape, classes, tolerance, rows, expected)


def numbers(row: Array) -> list[Any]:
    """Return a row as JSON has it: nested lists with six decimals."""
    nested: list[Any] = row.astype(np.float64).round(6).tolist()
    return nested


def compact(document: Any) -> bytes:
    """Encode without blanks, as fast clients do."""
    return json.dumps(document, separators=(",", ":")).encode()


def oip_json(rows: Array) -> tuple[bytes, dict[str, str]]:
    """Return an inference request of the Open Inference Protocol for rows [n, …], and its headers."""
    data = numbers(rows.reshape(-1))
    one = {"name": INPUT, "shape": list(rows.shape), "datatype": "FP32", "data": data}
    return compact({"inputs": [one]}), {"Content-Type": "application/json"}


def oip_binary(rows: Array) -> tuple[bytes, dict[str, str]]:
    """Return the same by the binary tensor extension, which asks for a binary answer too."""
    one = {
        "name": INPUT,
        "shape": list(rows.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": rows.nbytes},
    }
    header = compact({"inputs": [one], "outputs": [{"name": OUTPUT, "parameters": {"binary_data": True}}]})
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))}
    return header + rows.astype("<f4").tobytes(), headers


def oip_answer(content: bytes, header_length: int | None) -> Array:
    """Return the logits [n, classes] from an answer of the protocol, with or without binary tensors."""
    document = json.loads(content[:header_length])
    output = next(one for one in document["outputs"] if one["name"] == OUTPUT)
    if header_length is None:
        return np.array(output["data"], dtype=np.float32).reshape(output["shape"])
    return np.frombuffer(content[header_length:], dtype="<f4").reshape(output["shape"])

"""What the monitors follow: a few numbers a row, computed once a batch from the model's own inputs and outputs.

By what the bundle says an output means:

    logits          class, confidence, entropy (nats), margin, energy (logsumexp; Liu et al., arXiv 2010.03759)
    probabilities   class, confidence, entropy, margin
    label           class
    value           value
    embedding       norm

and of each numeric input its mean, its contrast (standard deviation within the row) and its share of missing (NaN).
Nothing here raises on a model's nonsense: a row of NaN gets class -1 and NaN, which the monitors count as invalid.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def signals(
    inputs: Mapping[str, Array], outputs: Mapping[str, Array], meanings: Sequence[tuple[str, str | None]]
) -> dict[str, Array]:
    """Compute all signals of a batch: each has shape [rows].

    `meanings` are the declared outputs with their semantics. Names are bare (`class`) when one output has such a
    signal, else the output's name comes before (`sign.class`).
    """
    by_output = {name: _of_output(semantic, outputs[name]) for name, semantic in meanings if semantic is not None}
    owners: dict[str, int] = {}
    for found in by_output.values():
        for signal in found:
            owners[signal] = owners.get(signal, 0) + 1
    measured = {
        signal if owners[signal] == 1 else f"{output}.{signal}": values
        for output, found in by_output.items()
        for signal, values in found.items()
    }
    for name, array in inputs.items():
        if array.dtype.kind in "iufb" and array.size:
            measured.update({f"{name}.{signal}": values for signal, values in _of_input(array).items()})
    return measured


def _of_output(semantic: str, array: Array) -> dict[str, Array]:
    if semantic == "label":
        return {"class": _labels(array)}
    rows = array.reshape(len(array), -1).astype(np.float64)
    if semantic == "value":
        return {"value": rows.mean(axis=1)}
    if semantic == "embedding":
        return {"norm": np.sqrt((rows * rows).sum(axis=1))}
    if semantic == "logits":
        highest = rows.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", over="ignore"):
            shifted = np.exp(rows - highest)
            total = shifted.sum(axis=1, keepdims=True)
            energy = (np.log(total) + highest)[:, 0]
        return {**_of_probabilities(shifted / total), "energy": energy}
    return _of_probabilities(rows)


def _of_probabilities(rows: Array) -> dict[str, Array]:
    if rows.shape[1] == 1:
        # One number is the probability of the second of two classes.
        rows = np.concatenate([1 - rows, rows], axis=1)
    invalid = ~np.isfinite(rows).all(axis=1)
    chosen = rows.argmax(axis=1)
    chosen[invalid] = -1
    two = np.partition(rows, -2, axis=1)[:, -2:]
    with np.errstate(invalid="ignore", divide="ignore"):
        entropy = -np.where(rows > 0, rows * np.log(np.where(rows > 0, rows, 1)), 0).sum(axis=1)
    entropy[invalid] = np.nan
    confidence, margin = two[:, 1].copy(), two[:, 1] - two[:, 0]
    confidence[invalid] = np.nan
    return {"class": chosen, "confidence": confidence, "entropy": entropy, "margin": margin}


def _labels(array: Array) -> Array:
    labels = array.reshape(len(array), -1)[:, 0]
    if labels.dtype.kind == "f":
        finite = np.isfinite(labels)
        labels = np.where(finite, labels, -1)
    return labels if labels.dtype.kind in "OSU" else labels.astype(np.int64)


def _of_input(array: Array) -> dict[str, Array]:
    rows = array.reshape(len(array), -1)
    if rows.dtype.kind != "f":
        rows = rows.astype(np.float32)
    missing = np.isnan(rows)
    share = missing.mean(axis=1)
    if not missing.any():
        return {"mean": rows.mean(axis=1), "contrast": rows.std(axis=1), "missing": share}
    present = np.where(missing, 0, rows)
    count = np.maximum((~missing).sum(axis=1), 1)
    mean = present.sum(axis=1) / count
    spread = np.where(missing, 0, rows - mean[:, None])
    return {"mean": mean, "contrast": np.sqrt((spread * spread).sum(axis=1) / count), "missing": share}

"""What the monitors follow: a few numbers a row, computed once a batch from the model's own inputs and outputs.

By what the bundle says an output means:

    logits          class, confidence, entropy (nats), margin, energy (logsumexp; Liu et al., arXiv 2010.03759)
    probabilities   class, confidence, entropy, margin
    label           class
    value           value
    embedding       norm

and of each numeric input its mean, its contrast (standard deviation within the row) and, for floats, its share of
missing (NaN). A model's nonsense is measured, not refused: a row that is not finite gets class -1 and NaN, which the
monitors count as invalid.
"""

from collections.abc import Mapping, Sequence
from math import exp, isfinite, log, sqrt
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
FEW = 32
"""Numbers of a lone row up to which Python's own arithmetic takes half of what numpy's calls do."""


LOGITS = ("confidence", "entropy", "margin", "energy")
FLOATS = ("mean", "contrast", "missing")


def of_outputs(outputs: Mapping[str, Array], meanings: Sequence[tuple[str, str | None]]) -> dict[str, Array]:
    """Compute the signals of a batch's outputs (rows first): each has shape [rows].

    `meanings` are the declared outputs with their semantics. Names are bare (`class`) when one output has such a
    signal, else the output's name comes before (`sign.class`).
    """
    with np.errstate(all="ignore"):  # Nonsense is in the signals; a warning a batch helps nobody.
        by_output = {name: _of_output(semantic, outputs[name]) for name, semantic in meanings if semantic is not None}
    if len(by_output) == 1:
        return next(iter(by_output.values()))
    owners: dict[str, int] = {}
    for found in by_output.values():
        for signal in found:
            owners[signal] = owners.get(signal, 0) + 1
    return {
        signal if owners[signal] == 1 else f"{output}.{signal}": values
        for output, found in by_output.items()
        for signal, values in found.items()
    }


def of_inputs(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Compute the signals of a batch's numeric inputs (rows first), `<input>.<signal>`: each has shape [rows]."""
    with np.errstate(all="ignore"):  # As above.
        return {
            f"{name}.{signal}": values
            for name, array in inputs.items()
            if array.dtype.kind in "iufb" and array.size
            for signal, values in _of_input(array).items()
        }


def widened(bits: Array) -> Array:
    """Return the FP32 numbers that BF16 bits stand for: BF16 is the upper half of FP32.

    >>> widened(np.array([0x3F80, 0xC000], dtype=np.uint16)).tolist()
    [1.0, -2.0]
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _of_output(semantic: str, array: Array) -> dict[str, Array]:
    if semantic == "label":
        return {"class": _labels(array)}
    rows = array.reshape(len(array), -1).astype(np.float64)
    if semantic == "value":
        return {"value": rows.mean(axis=1)}
    if semantic == "embedding":
        return {"norm": np.sqrt((rows * rows).sum(axis=1))}
    return _of_logits(rows) if semantic == "logits" else _of_probabilities(rows)


def _of_logits(rows: Array) -> dict[str, Array]:
    if rows.shape[1] == 1:
        # One logit x is two classes with the logits 0 and x.
        rows = np.concatenate([np.zeros_like(rows), rows], axis=1)
    if len(rows) == 1 and rows.size <= FEW and (few := _of_few_logits(rows[0].tolist())):
        return few
    highest = np.maximum.reduce(rows, axis=1, keepdims=True)
    shifted = rows - highest
    powers = np.exp(shifted)
    total = np.add.reduce(powers, axis=1)
    logarithm = np.log(total)
    energy = logarithm + highest[:, 0]
    entropy = logarithm - _dot(powers, shifted) / total
    if not isfinite(np.add.reduce(entropy)):
        # Somewhere there is nonsense, or a class that is masked by minus infinity: all rows go the long way.
        return {**_of_probabilities(powers / total[:, np.newaxis]), "energy": energy}
    powers.partition(-2, axis=1)
    confidence = 1 / total  # The highest power is exp(0).
    margin = confidence - powers[:, -2] / total
    return {
        "class": rows.argmax(axis=1),
        "confidence": confidence,
        "entropy": entropy,
        "margin": margin,
        "energy": energy,
    }


def _of_few_logits(row: list[float]) -> dict[str, Array] | None:
    """As `_of_logits` for a lone row; None where there is nonsense, or a class that is masked by minus infinity."""
    if not isfinite(sum(row)):
        return None
    highest = max(row)
    powers = [exp(one - highest) for one in row]
    total = sum(powers)
    entropy = log(total) - sum(power * (one - highest) for power, one in zip(powers, row, strict=True)) / total
    powers.sort()
    floats = np.array([[1 / total], [entropy], [(1 - powers[-2]) / total], [log(total) + highest]])
    return {"class": np.array([row.index(highest)]), **dict(zip(LOGITS, floats, strict=True))}


def _of_probabilities(rows: Array) -> dict[str, Array]:
    """`rows` is this function's own to change."""
    if rows.shape[1] == 1:
        # One number is the probability of the second of two classes.
        rows = np.concatenate([1 - rows, rows], axis=1)
    invalid = ~np.isfinite(rows).all(axis=1)
    rows[invalid] = np.nan
    chosen = rows.argmax(axis=1)
    chosen[invalid] = -1
    two = np.partition(rows, -2, axis=1)[:, -2:]
    # 0 log 0 is 0, and a NaN stays one.
    entropy = -(rows * np.log(np.where(rows <= 0, 1, rows))).sum(axis=1)
    return {"class": chosen, "confidence": two[:, 1], "entropy": entropy, "margin": two[:, 1] - two[:, 0]}


def _labels(array: Array) -> Array:
    labels = array.reshape(len(array), -1)[:, 0]
    if labels.dtype.kind == "f":
        # Beyond 2^53 a float tells no whole numbers apart, and beyond 2^63 there is no INT64.
        labels = np.where(np.abs(labels) <= 2.0**53, labels, -1)
    return labels if labels.dtype.kind in "OSU" else labels.astype(np.int64)


def _of_input(array: Array) -> dict[str, Array]:
    rows = array.reshape(len(array), -1)
    if rows.dtype.kind != "f":
        rows = rows.astype(np.float64)
        mean = rows.mean(axis=1)
        return {"mean": mean, "contrast": _spread(rows, mean)}
    if rows.dtype.itemsize < 4:
        # The squares of a half-precision image are beyond what half precision holds.
        rows = rows.astype(np.float32)
    if len(rows) == 1 and rows.size <= FEW and (few := _of_few_floats(rows[0].tolist())):
        return few
    mean = np.add.reduce(rows, axis=1) / rows.shape[1]
    # A NaN anywhere shows in the sum of all, so the usual batch is not searched for them.
    if isfinite(np.add.reduce(mean)):
        return {"mean": mean, "contrast": _spread(rows, mean), "missing": np.zeros(len(rows))}
    missing = np.isnan(rows)
    count = (~missing).sum(axis=1).astype(np.float64)
    count[count == 0] = np.nan
    mean = np.where(missing, 0, rows).sum(axis=1) / count
    spread = np.where(missing, 0, rows - mean[:, np.newaxis])
    contrast = np.sqrt((spread * spread).sum(axis=1) / count)
    return {"mean": mean, "contrast": contrast, "missing": missing.mean(axis=1)}


def _of_few_floats(row: list[float]) -> dict[str, Array] | None:
    """As `_of_input` for a lone row of floats; None where one is not finite."""
    mean = sum(row) / len(row)
    if not isfinite(mean):
        return None
    # Not by **, which raises where a product is infinite.
    contrast = sqrt(sum((one - mean) * (one - mean) for one in row) / len(row))
    return dict(zip(FLOATS, np.array([[mean], [contrast], [0.0]]), strict=True))


def _spread(rows: Array, mean: Array) -> Array:
    """As `rows.std(axis=1)`, in half of its time for a single row: the mean is there already."""
    centred = rows - mean[:, np.newaxis]
    spread: Array = np.sqrt(_dot(centred, centred) / rows.shape[1])
    return spread


def _dot(left: Array, right: Array) -> Array:
    """The sum of the products in each row; a matrix product does it in one pass."""
    products: Array = np.matmul(left[:, np.newaxis, :], right[:, :, np.newaxis])
    return products[:, 0, 0]

"""The golden examples of a bundle: what it was asked when it was packed, and what it answered."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .signals import widened

Array = np.ndarray[Any, Any]
Sides = tuple[dict[str, Array], dict[str, Array]]

INPUTS = "golden/inputs.safetensors"
OUTPUTS = "golden/outputs.safetensors"
TEXT = "golden/text.json"


def read(directory: Path) -> Sides:
    """Return the inputs and the recorded outputs, rows first, of an unpacked bundle."""
    text = directory / TEXT
    return parse(
        (directory / INPUTS).read_bytes(),
        (directory / OUTPUTS).read_bytes(),
        text.read_bytes() if text.exists() else b"",
    )


def parse(inputs: bytes, outputs: bytes, text: bytes) -> Sides:
    """As `read`, of the files' bytes; `text` holds what safetensors can't, and is empty where there is none."""
    from safetensors.numpy import load

    found = {"inputs": load(inputs), "outputs": load(outputs)}
    for side, arrays in (json.loads(text) if text else {}).items():
        for name, entry in arrays.items():
            array = np.empty(len(entry["data"]), dtype=object)
            array[:] = [bytes.fromhex(one) for one in entry["data"]]
            found[side][name] = array.reshape(entry["shape"])
    return found["inputs"], found["outputs"]


def repeated(arrays: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """Return so many rows of these, from the first again where they end.

    >>> repeated({"x": np.array([1, 2, 3])}, 5)["x"].tolist()
    [1, 2, 3, 1, 2]
    """
    return {name: array[np.arange(rows) % len(array)] for name, array in arrays.items()}


def worst_of(
    config: Mapping[str, Any], outputs: Mapping[str, Array], recorded: Mapping[str, Array]
) -> tuple[bool, float, str]:
    """Compare answers with what was recorded, within a bundle's tolerance.

    Returns whether all agree, and the largest difference with the output that has it, of those that do not agree if
    there are any.
    """
    halves = {spec["name"] for spec in config["outputs"] if spec["datatype"] == "BF16"}
    found = []
    for name, expected in recorded.items():
        pair = (outputs[name], expected)
        if name in halves:
            pair = (widened(outputs[name]), widened(expected))
        agrees, gap = compare(*pair, config["tolerance"])
        found.append((not agrees, gap, name))
    differs, worst, output = max(found)
    return not differs, worst, output


def compare(got: Array, expected: Array, tolerance: Mapping[str, float]) -> tuple[bool, float]:
    """Return whether two arrays agree, and the largest difference: infinite where there is no number for it.

    Floats agree within `absolute + relative × |expected|`, NaN with NaN; everything else agrees when it is equal.
    """
    if got.shape != expected.shape:
        return False, float("inf")
    if expected.dtype.kind != "f":
        same = bool((_bytes(got) == _bytes(expected)).all())
        return same, 0.0 if same else float("inf")
    agreed = np.isclose(got, expected, rtol=tolerance["relative"], atol=tolerance["absolute"], equal_nan=True)
    with np.errstate(invalid="ignore"):
        gap = np.abs(got.astype(np.float64) - expected)
    gap = np.where(np.isnan(gap), np.where(agreed, 0.0, np.inf), gap)
    return bool(agreed.all()), float(gap.max(initial=0.0))


def _bytes(array: Array) -> Array:
    """Text is bytes in UTF-8, as it will be on the wire."""
    if array.dtype.kind not in "OSU":
        return array
    found = np.empty(array.size, dtype=object)
    found[:] = [one.encode() if isinstance(one, str) else one for one in array.ravel().tolist()]
    return found

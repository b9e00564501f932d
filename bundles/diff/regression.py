"""Two models whose answers are numbers, or have no declared meaning, on the same rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bundles.bundle import Bundle
from bundles.diff.answers import Answers, Holdout
from bundles.runner.signals import widened

Array = np.ndarray[Any, Any]
ROWS_SHOWN = 20


def compare_values(signal: str, first: Bundle, answers: tuple[Answers, Answers], holdout: Holdout) -> dict[str, Any]:
    """Compare what two models say the value of each row is, by the signal `value` or `<output>.value`."""
    before, after = (one.signals[signal].astype(np.float64) for one in answers)
    found = _compared(before, after, _within(before, after, first.config["tolerance"]))
    truth = holdout.labels
    if truth is not None and truth.dtype.kind in "iufb":
        errors = [float(np.nanmean(np.abs(side - truth))) for side in (before, after)]
        found["error"] = {"before": errors[0], "after": errors[1], "difference": errors[1] - errors[0]}
    return {"kind": "value", "signal": signal, "error": None} | found


def compare_outputs(bundles: tuple[Bundle, Bundle], answers: tuple[Answers, Answers]) -> dict[str, Any] | None:
    """Compare the outputs that both have in one shape; None when there are none.

    A row is as far apart as its furthest number; text is 1 apart when it is not the same.
    """
    gaps, agreed, names = [], [], []
    halves = {one["name"] for bundle in bundles for one in bundle.config["outputs"] if one["datatype"] == "BF16"}
    for name in answers[0].outputs.keys() & answers[1].outputs.keys():
        before, after = (one.outputs[name] for one in answers)
        if name in halves:
            before, after = widened(before), widened(after)
        if before.shape == after.shape:
            gap, same = _row_gaps(before, after, bundles[0].config["tolerance"])
            gaps.append(gap)
            agreed.append(same)
            names.append(name)
    if not names:
        return None
    gap = np.max(gaps, axis=0)
    return {"kind": "outputs", "outputs": sorted(names), **_summary(gap, np.all(agreed, axis=0)), "largest": _rows(gap)}


def _compared(before: Array, after: Array, agreed: Array) -> dict[str, Any]:
    gap = np.abs(after - before)
    values = [one | {"before": _number(before[one["row"]]), "after": _number(after[one["row"]])} for one in _rows(gap)]
    return {**_summary(gap, agreed), "largest": values}


def _row_gaps(before: Array, after: Array, tolerance: Mapping[str, float]) -> tuple[Array, Array]:
    rows = (len(before), -1)
    if before.dtype.kind in "OSU" or after.dtype.kind in "OSU":
        same: Array = np.asarray(np.equal(before, after).reshape(rows).all(axis=1))
        return (~same).astype(np.float64), same
    before, after = (side.reshape(rows).astype(np.float64) for side in (before, after))
    gap: Array = np.abs(after - before).max(axis=1, initial=0.0)
    agreed: Array = np.asarray(_within(before, after, tolerance).all(axis=1))
    return gap, agreed


def _within(before: Array, after: Array, tolerance: Mapping[str, float]) -> Array:
    found: Array = np.isclose(after, before, rtol=tolerance["relative"], atol=tolerance["absolute"], equal_nan=True)
    return found


def _summary(gap: Array, agreed: Array) -> dict[str, Any]:
    """`agreement` is the share of rows within the first one's tolerance; what is not finite has no difference."""
    finite = gap[np.isfinite(gap)]
    return {
        "agreement": float(agreed.mean()),
        "mean_difference": float(finite.mean()) if len(finite) else None,
        "max_difference": float(finite.max()) if len(finite) else None,
        "not_finite": len(gap) - len(finite),
    }


def _rows(gap: Array) -> list[dict[str, Any]]:
    order = np.argsort(-np.nan_to_num(gap, nan=np.inf), kind="stable")[:ROWS_SHOWN]
    return [{"row": int(row), "difference": _number(gap[row])} for row in order if gap[row] != 0]


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None

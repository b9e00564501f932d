"""Two classifiers on the same rows: how often they agree, which classes went where, and who was right."""

from collections import Counter
from typing import Any

import numpy as np

from bundles.bundle import Bundle
from bundles.diff.answers import Answers, Holdout
from bundles.runner.signals import widened

Array = np.ndarray[Any, Any]
SEMANTICS = ("logits", "probabilities", "label")
PAIRS_MAX = 100
"""Flips that are listed, from which class to which: of ten classes all of them."""
CLASSES_MAX = 1_000
ROWS_SHOWN = 20
INVALID = "(invalid)"
"""An answer that was not finite."""


def compare_classes(
    signal: str, bundles: tuple[Bundle, Bundle], answers: tuple[Answers, Answers], holdout: Holdout
) -> dict[str, Any]:
    """Compare what two models call the rows, by the signal `class` or `<output>.class` of each."""
    before, after = (named(bundle, signal, one.signals[signal]) for bundle, one in zip(bundles, answers, strict=True))
    truth = None if holdout.labels is None else named(bundles[0], signal, holdout.labels)
    gap, of_what = _gaps(signal, bundles, answers, before != after)
    flips = before != after
    pairs = Counter(zip(before[flips].tolist(), after[flips].tolist(), strict=True)).most_common()
    listed = [{"from": one, "to": other, "rows": rows} for (one, other), rows in pairs[:PAIRS_MAX]]
    return {
        "kind": "class",
        "signal": signal,
        "agreement": float((~flips).mean()),
        "flips": int(flips.sum()),
        "from_to": listed,
        "by_class": _agreement_by_class(before, after),
        "difference_of": of_what,
        "mean_difference": float(gap.mean()),
        "max_difference": float(gap.max()),
        "largest": _largest(gap, before, after, truth),
        "accuracy": None if truth is None else _accuracy(before, after, truth),
        "cut": f"{len(pairs) - PAIRS_MAX} kinds of flips are not listed" if len(pairs) > PAIRS_MAX else None,
    }


def named(bundle: Bundle, signal: str, values: Array) -> Array:
    """Return the names of classes, as text: the declared ones where there are, else the numbers."""
    labels = _spec(bundle, signal).get("labels", [])
    return np.array([_name(value, labels) for value in values.tolist()], dtype=object)


def _name(value: Any, labels: list[str]) -> str:
    """Return one class's name.

    >>> _name(1, ["stop", "yield"]), _name(7, []), _name(-1, []), _name(b"stop", [])
    ('yield', '7', '(invalid)', 'stop')
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and 0 <= value < len(labels):
        return labels[value]
    return INVALID if value == -1 else str(value)


def _spec(bundle: Bundle, signal: str) -> dict[str, Any]:
    """Return the declared output from which a class signal is computed."""
    output = signal.removesuffix("class").removesuffix(".")
    specs = [*bundle.config.get("model_outputs", []), *bundle.config["outputs"]]
    found = [one for one in specs if one.get("semantic") in SEMANTICS and output in ("", one["name"])]
    return dict(found[0]) if found else {}


def _gaps(
    signal: str, bundles: tuple[Bundle, Bundle], answers: tuple[Answers, Answers], flips: Array
) -> tuple[Array, str]:
    """Return how far the answers to each row are apart, [rows], and in what: the best measure that both have."""
    sides = [_probabilities(_spec(bundle, signal), one) for bundle, one in zip(bundles, answers, strict=True)]
    same_names = _spec(bundles[0], signal).get("labels") == _spec(bundles[1], signal).get("labels")
    if same_names and sides[0] is not None and sides[1] is not None and sides[0].shape == sides[1].shape:
        return _finite(np.abs(sides[0] - sides[1]).max(axis=1)), "probability"
    confidence = signal.removesuffix("class") + "confidence"
    if all(confidence in one.signals for one in answers):
        return _finite(np.abs(answers[0].signals[confidence] - answers[1].signals[confidence])), "confidence"
    return flips.astype(np.float64), "class"


def _probabilities(spec: dict[str, Any], answers: Answers) -> Array | None:
    """Return the probabilities of all classes, [rows, classes], where the clients' outputs hold them."""
    if spec.get("semantic") not in ("logits", "probabilities") or spec["name"] not in answers.outputs:
        return None
    values = answers.outputs[spec["name"]]
    values = widened(values) if spec["datatype"] == "BF16" else values
    values = values.reshape(len(values), -1).astype(np.float64)
    logits = spec["semantic"] == "logits"
    if values.shape[1] == 1:  # One number is about the second of two classes.
        values = np.concatenate([np.zeros_like(values) if logits else 1 - values, values], axis=1)
    if not logits:
        return values
    with np.errstate(all="ignore"):  # What is not finite is said to be as far as can be.
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        found: Array = powers / powers.sum(axis=1, keepdims=True)
    return found


def _finite(gap: Array) -> Array:
    found: Array = np.where(np.isfinite(gap), gap, 1.0)
    return found


def _agreement_by_class(before: Array, after: Array) -> list[dict[str, Any]]:
    found = []
    for name in sorted(set(before.tolist()))[:CLASSES_MAX]:
        of_it = before == name
        agreed = float((after[of_it] == name).mean())
        found.append({"class": name, "rows": int(of_it.sum()), "agreement": agreed})
    return found


def _largest(gap: Array, before: Array, after: Array, truth: Array | None) -> list[dict[str, Any]]:
    """List the rows with the largest change, by their index in the holdout."""
    order = np.argsort(-gap, kind="stable")[:ROWS_SHOWN]
    return [
        {
            "row": int(row),
            "before": before[row],
            "after": after[row],
            "truth": None if truth is None else truth[row],
            "difference": float(gap[row]),
        }
        for row in order
        if gap[row] > 0 or before[row] != after[row]
    ]


def _accuracy(before: Array, after: Array, truth: Array) -> dict[str, Any]:
    """Say how often each was right, over all and by class; of `fixed` rows only the second, of `broken` the first."""
    right = (before == truth, after == truth)
    by_class = []
    for name in sorted(set(truth.tolist()))[:CLASSES_MAX]:
        of_it = truth == name
        by_class.append({"class": name, "rows": int(of_it.sum()), **_rates((right[0][of_it], right[1][of_it]))})
    return {
        **_rates(right),
        "fixed": int((~right[0] & right[1]).sum()),
        "broken": int((right[0] & ~right[1]).sum()),
        "by_class": by_class,
    }


def _rates(right: tuple[Array, Array]) -> dict[str, float]:
    before, after = (float(one.mean()) for one in right)
    return {"before": before, "after": after, "difference": after - before}

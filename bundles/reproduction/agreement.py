"""How much two models agree on the same rows, and how much two runs with different seeds must be expected to agree."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from bundles.runner.signals import widened

Array = np.ndarray[Any, Any]

CONFIDENCE = 0.95
NEAR = 0.1
"""Numbers agree when they differ by less than this share of the standard deviation of the first model's answers."""
PAIRS_MIN = 2
"""One pair has no spread."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two models on the same rows.

    `share` of the rows agree, of `rows`; `largest` is the largest difference of any number: of probabilities, or of
    values in units of the first model's value where that is above 1.
    """

    share: float
    rows: int
    largest: float

    def interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the share, over rows like these (Clopper and Pearson 1934).

        >>> low, high = Agreement(0.96, 1000, 0.1).interval()
        >>> round(low, 3), round(high, 3)
        (0.946, 0.971)
        """
        agreed, tail = round(self.share * self.rows), (1 - CONFIDENCE) / 2
        low = special.betaincinv(agreed, self.rows - agreed + 1, tail) if agreed else 0.0
        high = special.betaincinv(agreed + 1, self.rows - agreed, 1 - tail) if agreed < self.rows else 1.0
        return float(low), float(high)


def compare(specs: Sequence[Mapping[str, Any]], first: Mapping[str, Array], second: Mapping[str, Array]) -> Agreement:
    """Compare the answers of two models, arrays with rows first by output; `specs` say what the outputs mean.

    A row agrees when all its outputs do: those of `logits` and `probabilities` by their class, labels, text and whole
    numbers by being equal, all others by being near (`NEAR`).
    """
    rows = len(next(iter(first.values())))
    agreed, largest = np.ones(rows, dtype=bool), 0.0
    for spec in specs:
        before, after = first[spec["name"]], second.get(spec["name"])
        if after is None or after.shape != before.shape:
            return Agreement(0.0, rows, math.inf)
        if spec.get("datatype") == "BF16":
            before, after = widened(before), widened(after)
        same, gap = _compare(spec.get("semantic"), before, after)
        agreed &= same.reshape(rows, -1).all(axis=1)
        largest = max(largest, gap)
    return Agreement(float(agreed.mean()), rows, largest)


def _compare(semantic: str | None, before: Array, after: Array) -> tuple[Array, float]:
    if semantic in ("logits", "probabilities"):
        if semantic == "logits":
            gap = _largest(special.softmax(before, axis=-1), special.softmax(after, axis=-1))
        else:
            gap = _largest(before, after)
        return before.argmax(axis=-1) == after.argmax(axis=-1), gap
    if before.dtype.kind != "f" or semantic == "label":
        same = np.asarray(before == after)
        return same, 0.0 if same.all() else math.inf
    with np.errstate(invalid="ignore"):
        distance = np.abs(after.astype(np.float64) - before)
        near = distance <= NEAR * np.nanstd(np.where(np.isfinite(before), before, np.nan).astype(np.float64))
    scale = np.fmax(np.abs(before.astype(np.float64)), 1.0)
    return near | (np.isnan(before) & np.isnan(after)) | (before == after), _largest(before, after, scale)


def _largest(before: Array, after: Array, scale: Array | float = 1.0) -> float:
    """Return the largest difference, in units of `scale`; what is the same, infinite or NaN, does not differ."""
    with np.errstate(invalid="ignore"):
        gap = np.abs(after.astype(np.float64) - before) / scale
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    return float(np.nan_to_num(np.where(same, 0.0, gap), nan=math.inf, posinf=math.inf).max(initial=0.0))


def floor(shares: Sequence[float], rows: int) -> float:
    """Return the agreement that one more run with another seed has at least, with 95 % confidence.

    `shares` are the agreements of runs with other seeds with one and the same first model. Two bounds, the lower one
    counts. The first sees how much the pairs differ: the one-sided prediction bound for one more value of a normal
    distribution, mean − t · s · √(1 + 1/k), with Student's t at k − 1 degrees of freedom (Hahn and Meeker, Statistical
    Intervals, 1991, chapter 4). The second sees that shares are counts, and is there when all pairs are equal: the
    prediction bound for a binomial count, from the hypergeometric distribution of the disagreements given their sum
    (Thatcher, Journal of the Royal Statistical Society B 26, 1964).

    >>> round(floor([0.960, 0.955, 0.962], 1000), 3)
    0.946
    >>> floor([1.0, 1.0, 1.0], 1000)
    0.998
    """
    if len(shares) < PAIRS_MIN:
        msg = f"{len(shares)} pairs of runs, expected at least {PAIRS_MIN}: one has no spread"
        raise ValueError(msg)
    by_spread = min(shares) if len(set(shares)) == 1 else float(np.mean(shares)) - _reach(shares, CONFIDENCE)
    disagreed = sum(round((1 - share) * rows) for share in shares)
    by_count = 1 - _count_bound(disagreed, rows, len(shares)) / rows
    return max(min(by_spread, by_count), 0.0)


def expected(values: Sequence[float], compared: int) -> tuple[float, float]:
    """Return where the next value of a metric lies, with 95 % confidence for all that are `compared` together.

    `values` are those of the first model and of runs with other seeds. The two-sided form of the bound in `floor`,
    the error divided among the metrics (Bonferroni).
    """
    reach = _reach(values, 1 - (1 - CONFIDENCE) / (2 * compared))
    return float(np.mean(values)) - reach, float(np.mean(values)) + reach


def _reach(values: Sequence[float], confidence: float) -> float:
    count = len(values)
    return float(special.stdtrit(count - 1, confidence) * np.std(values, ddof=1) * math.sqrt(1 + 1 / count))


def _count_bound(disagreed: int, rows: int, pairs: int) -> int:
    """Return the most disagreements among `rows` more, after `disagreed` among `pairs` times as many."""
    low, high = 0, rows
    while low < high:
        middle = (low + high) // 2
        if _as_few(disagreed, disagreed + middle + 1, rows, pairs) <= 1 - CONFIDENCE:
            high = middle
        else:
            low = middle + 1
    return low


def _as_few(disagreed: int, total: int, rows: int, pairs: int) -> float:
    """Return how likely it is that of `total` disagreements among all rows so few are in those of the pairs."""
    seen, future = pairs * rows, rows
    counts = np.arange(max(0, total - future), min(disagreed, seen) + 1)
    logarithms = _choose(seen, counts) + _choose(future, total - counts) - _choose(seen + future, np.array(total))
    return float(np.exp(logarithms).sum())


def _choose(count: int, taken: Array) -> Array:
    return np.asarray(special.gammaln(count + 1) - special.gammaln(taken + 1) - special.gammaln(count - taken + 1))

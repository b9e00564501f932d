"""A detector for categories that may wake a human: it has a reference, a proof, and a false-alarm rate in real time.

How it works. For every category k and every odds ratio r a *bet* says: the odds of k are r times what the reference
says. One prediction multiplies that bet's wealth by

    L = (r if the category is k else 1) / (1 + b (r - 1))

where b is the edge of the band in which the true share of k may lie: the upper edge for r > 1, the lower for r < 1. For
every share inside the band, even one that wanders with time and history, E[L | past] <= 1: nobody gets rich by betting
against a stream that is as promised. The Shiryaev-Roberts recursion S <- L (S + credit) restarts the bet at every
moment, and the evidence M is the mean of S over all bets. M minus the sum of credits is a supermartingale, hence

    E[credit spent until a false alarm at M >= limit] >= limit, and P(false alarm before credit t) <= t / limit.

With elapsed seconds as credit and 90 days as limit: at most one false alarm per 90 days in expectation, whatever the
traffic. (Shin, Ramdas, Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", New England
Journal of Statistics in Data Science 2023; the bets are those of a product of binomials, see Turner and Grunwald,
arXiv 2302.11401.)

The band. The reference is itself a sample: its shares are known within the Clopper-Pearson interval, simultaneously for
all categories at `confidence`, and nobody wants to be woken by a relative change under `tolerance`. The band is the
interval, widened by the tolerance. A category never seen in the reference falls into the bucket OTHER.

Dependence. Rows of one unit (a client, a camera) are not independent. Within a batch their L are averaged, which is an
e-value under any dependence; across units they are multiplied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from river.base import DriftAndWarningDetector
from scipy.stats import beta

from monitors.detectors.excursions import Excursions, Vector

OTHER = "other"  # what the reference has never seen, and what could not be computed
RATIOS = (0.25, 0.5, 0.7, 0.85, 1.2, 1.5, 2.0, 4.0)
EVIDENCE_MAX = 1e150  # beyond every limit, and far enough from 1.8e308 that one more batch does not overflow
EXPONENT_MAX = 340.0  # exp(340) = 1e147: times EVIDENCE_MAX still a number

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the bet that dominates says: which category, since when, and the shares seen since then."""

    category: str
    ratio: float
    onset: float
    rows: int
    observed: dict[str, float]
    expected: dict[str, float]
    extra: Vector


def band(counts: Vector, confidence: float, tolerance: float) -> tuple[Vector, Vector]:
    """Lower and upper edge of each category's share, given the reference's counts.

    Clopper-Pearson at level 1 - (1 - confidence) / categories (Bonferroni: the band holds for all at once), then
    widened by the relative tolerance.

    >>> lower, upper = band(np.array([300.0, 700.0]), confidence=0.95, tolerance=0.0)
    >>> lower.round(3).tolist(), upper.round(3).tolist()
    ([0.268, 0.666], [0.334, 0.732])
    """
    rows = counts.sum()
    alpha = (1.0 - confidence) / len(counts)
    with np.errstate(invalid="ignore"):
        lower = np.where(counts > 0, beta.ppf(alpha / 2, counts, rows - counts + 1), 0.0)
        upper = np.where(counts < rows, beta.ppf(1 - alpha / 2, counts + 1, rows - counts), 1.0)
    return lower * (1.0 - tolerance), np.minimum(1.0, upper * (1.0 + tolerance))


class CategoricalEDetector(DriftAndWarningDetector):
    """Mixture Shiryaev-Roberts e-detector over categories, against a fixed reference.

    counts: how often the reference saw each category; only shares and their precision matter.
    limit, warning_limit: evidence at which `drift_detected` and `warning_detected` become true, in units of credit.
    minimum: rows before which nothing is detected.
    start: credit at the beginning, so that the first batch counts too.

    >>> detector = CategoricalEDetector({"stop": 300, "yield": 700}, limit=1e6)
    >>> for row in range(200):
    ...     detector.update("stop")
    ...     if detector.drift_detected:
    ...         break
    >>> row, detector.explain().category
    (29, 'stop')
    """

    def __init__(
        self,
        counts: Mapping[str, float],
        limit: float = 1e6,
        warning_limit: float = 1e4,
        tolerance: float = 0.10,
        confidence: float = 0.95,
        ratios: Sequence[float] = RATIOS,
        minimum: int = 30,
        start: float = 1.0,
    ) -> None:
        super().__init__()
        self.counts = counts
        self.limit = limit
        self.warning_limit = warning_limit
        self.tolerance = tolerance
        self.confidence = confidence
        self.ratios = ratios
        self.minimum = minimum
        self.start = start
        self.categories = [*counts, OTHER] if OTHER not in counts else list(counts)
        self._code = {category: code for code, category in enumerate(self.categories)}
        reference = np.array([float(counts.get(category, 0)) for category in self.categories])
        if reference.sum() <= 0 or (reference < 0).any():
            raise ValueError(f"counts: a reference needs at least one row and no negative counts, got {dict(counts)}")
        self._shares = reference / reference.sum()
        self._prepare_bets(*band(reference, confidence, tolerance))
        self._clear()

    def _prepare_bets(self, lower: Vector, upper: Vector) -> None:
        ratio = np.array(self.ratios)[None, :]
        edge = np.where(ratio > 1, upper[:, None], lower[:, None])
        # With a band down to 0 nobody can bet on less, with one up to 1 nobody on more: such bets only dilute.
        useful = np.where(ratio > 1, edge < 1, edge > 0)
        self._bet_category, self._bet_column = np.nonzero(useful)
        self._bet_ratio = ratio[0, self._bet_column]
        self._log_ratio = np.log(self._bet_ratio)
        self._log_price = np.log1p(edge[useful] * (self._bet_ratio - 1.0))

    def _clear(self) -> None:
        self.rows = 0
        self._wealth = np.full(len(self._log_ratio), self.start)
        self._excursions: Excursions | None = None

    def _reset(self) -> None:
        super()._reset()  # type: ignore[no-untyped-call, unused-ignore]
        self._clear()

    @property
    def evidence(self) -> float:
        """M, in units of credit: compare it with `limit`."""
        return float(self._wealth.mean()) if len(self._wealth) else 0.0

    @property
    def expected(self) -> dict[str, float]:
        """The reference's share of each category."""
        return dict(zip(self.categories, self._shares.tolist(), strict=True))

    def encode(self, values: Sequence[str]) -> Integers:
        """Codes of categories, as `update_batch` takes them; what the reference has not seen becomes OTHER."""
        other = self._code[OTHER]
        return np.array([self._code.get(value, other) for value in values], dtype=np.int64)

    def update(self, x: float | str) -> None:
        """One prediction that is its own unit, with one credit: the limit is then counted in predictions."""
        self.update_batch(self.encode([str(x)]), np.zeros(1, dtype=np.int64), credit=1.0, time=float(self.rows))

    def update_batch(
        self, codes: Integers, units: Integers, credit: float, time: float, extra: Vector | None = None
    ) -> None:
        """Take a batch whose end did not depend on what is in it.

        codes: [rows] from `encode`; units: [rows] 0-based number of the unit within the batch; credit: what has
        elapsed since the batch before; time: when the batch began; extra: more totals to keep since the onset.
        """
        if self.drift_detected:
            self._reset()
        counts = np.bincount(codes, minlength=len(self.categories)).astype(np.float64)
        log_factors = self._log_factors(codes, units, counts)
        self._wealth = np.minimum(np.exp(np.minimum(log_factors, EXPONENT_MAX)) * (self._wealth + credit), EVIDENCE_MAX)
        totals = counts if extra is None else np.concatenate([counts, extra])
        if self._excursions is None:
            self._excursions = Excursions(len(self._log_ratio), len(totals))
        self._excursions.add(log_factors, totals, len(codes), time)
        self.rows += len(codes)
        evidence = self.evidence if self.rows >= self.minimum else 0.0
        self._drift_detected = evidence >= self.limit
        self._warning_detected = evidence >= self.warning_limit

    def _log_factors(self, codes: Integers, units: Integers, counts: Vector) -> Vector:
        """Log of the product over units of the mean of L over the unit's rows, for each bet."""
        sizes = np.bincount(units)
        present = sizes > 0
        if sizes.max() == 1:
            hits = counts[self._bet_category] * self._log_ratio
        else:
            pairs, hit = np.unique(units * len(self.categories) + codes, return_counts=True)
            share = hit / sizes[pairs // len(self.categories)]
            # mean of L over a unit = (1 + share (r - 1)) / price, and a category it never had adds nothing.
            grown = np.log1p(share[:, None] * (np.array(self.ratios) - 1.0)[None, :])
            by_category = np.zeros((len(self.categories), len(self.ratios)))
            np.add.at(by_category, pairs % len(self.categories), grown)
            hits = by_category[self._bet_category, self._bet_column]
        logs: Vector = hits - present.sum() * self._log_price
        return logs

    def explain(self) -> Explanation:
        """The bet that dominates now; only after at least one row."""
        if self._excursions is None:
            raise ValueError("explain: this detector has not seen a row since it was (re)started")
        bet = int(self._wealth.argmax())
        onset, rows, totals = self._excursions.since(bet)
        seen = totals[: len(self.categories)]
        observed = (seen / max(seen.sum(), 1.0)).tolist()
        return Explanation(
            category=self.categories[int(self._bet_category[bet])],
            ratio=float(self._bet_ratio[bet]),
            onset=onset,
            rows=rows,
            observed=dict(zip(self.categories, observed, strict=True)),
            expected=self.expected,
            extra=totals[len(self.categories) :],
        )

    def to_json(self) -> dict[str, Any]:
        """The state as JSON; the reference is not part of it."""
        return {
            "rows": self.rows,
            "wealth": self._wealth.tolist(),
            "drift": self.drift_detected,
            "warning": self.warning_detected,
            "excursions": None if self._excursions is None else self._excursions.to_json(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `to_json` was called, on a detector with the same reference and ratios."""
        if len(state["wealth"]) != len(self._log_ratio):
            raise ValueError(
                f"restore: the state has {len(state['wealth'])} bets and this detector {len(self._log_ratio)}: "
                "it was saved with another reference"
            )
        self.rows = state["rows"]
        self._wealth = np.array(state["wealth"], dtype=np.float64)
        self._drift_detected = state["drift"]
        self._warning_detected = state["warning"]
        self._excursions = None
        if state["excursions"] is not None:
            self._excursions = Excursions(len(self._log_ratio), len(state["excursions"]["totals"]))
            self._excursions.restore(state["excursions"])

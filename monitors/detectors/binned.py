"""A scalar, seen through the bins of its reference.

A scalar (energy, confidence, the mean of an input) becomes a category: the number of the bin of the reference that it
falls into. What is not a finite number goes to the bucket OTHER. Nothing is assumed about the distribution, and shifts
of the mean, of the spread and into the tails are all seen; a shift within one bin is not.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from river.base import DriftAndWarningDetector

from monitors.detectors.categorical import OTHER, CategoricalEDetector, Explanation, Integers


class BinnedEDetector(DriftAndWarningDetector):
    """`CategoricalEDetector` over the bins of a scalar.

    edges: ascending inner edges; bin i holds edges[i-1] <= x < edges[i], the outermost bins are open.
    counts: [len(edges) + 1] how many rows of the reference fell into each bin; invalid: how many were not finite.
    All else as in `CategoricalEDetector`.

    >>> detector = BinnedEDetector(edges=[0.0, 1.0], counts=[100, 800, 100], limit=1e6)
    >>> for row in range(200):
    ...     detector.update(1.5)
    ...     if detector.drift_detected:
    ...         break
    >>> row, detector.observed_mean()
    (29, 1.5)
    """

    def __init__(
        self,
        edges: Sequence[float],
        counts: Sequence[float],
        invalid: float = 0,
        limit: float = 1e6,
        warning_limit: float = 1e4,
        tolerance: float = 0.10,
        confidence: float = 0.95,
        minimum: int = 30,
        start: float = 1.0,
    ) -> None:
        super().__init__()
        if len(counts) != len(edges) + 1 or list(edges) != sorted(edges):
            raise ValueError(f"edges, counts: {len(edges)} ascending edges need one count more, got {len(counts)}")
        self.edges = edges
        self.counts = counts
        self.invalid = invalid
        self.tolerance = tolerance
        self.confidence = confidence
        self.minimum = minimum
        self.start = start
        self._edges = np.array(edges, dtype=np.float64)
        reference = {str(number): float(count) for number, count in enumerate(counts)} | {OTHER: float(invalid)}
        self._bins = CategoricalEDetector(
            reference,
            limit=limit,
            warning_limit=warning_limit,
            tolerance=tolerance,
            confidence=confidence,
            minimum=minimum,
            start=start,
        )

    @property
    def limit(self) -> float:
        """Evidence at which `drift_detected` becomes true."""
        return self._bins.limit

    @limit.setter
    def limit(self, limit: float) -> None:
        self._bins.limit = limit

    @property
    def warning_limit(self) -> float:
        """Evidence at which `warning_detected` becomes true."""
        return self._bins.warning_limit

    @warning_limit.setter
    def warning_limit(self, limit: float) -> None:
        self._bins.warning_limit = limit

    @property
    def rows(self) -> int:
        """Rows since the (re)start."""
        return self._bins.rows

    @property
    def evidence(self) -> float:
        """M, in units of credit: compare it with `limit`."""
        return self._bins.evidence

    def encode(self, values: npt.NDArray[np.float64]) -> Integers:
        """The bin of each value, as the detector of categories counts it."""
        codes = np.searchsorted(self._edges, values, side="right").astype(np.int64)
        codes[~np.isfinite(values)] = len(self._edges) + 1
        return codes

    def update(self, x: float) -> None:
        """One prediction that is its own unit, with one credit: the limit is then counted in predictions."""
        self.update_batch(np.array([float(x)]), np.zeros(1, dtype=np.int64), credit=1.0, time=float(self.rows))

    def update_batch(self, values: npt.NDArray[np.float64], units: Integers, credit: float, time: float) -> None:
        """Take a batch: values and units [rows], see `CategoricalEDetector.update_batch`."""
        codes = self.encode(values)
        finite = values[codes <= len(self._edges)]
        extra = np.array([finite.sum(), float(len(finite))])
        self._bins.update_batch(codes, units, credit, time, extra)
        self._drift_detected = self._bins.drift_detected
        self._warning_detected = self._bins.warning_detected

    def explain(self) -> Explanation:
        """The bin that dominates, since when, and the shares of all bins since then."""
        return self._bins.explain()

    def observed_mean(self) -> float | None:
        """Mean of the finite values since the onset; None when there was none."""
        total, finite = self.explain().extra.tolist()
        return total / finite if finite else None

    def _reset(self) -> None:
        super()._reset()  # type: ignore[no-untyped-call, unused-ignore]
        self._bins._reset()  # noqa: SLF001 - River's name for a restart

    def to_json(self) -> dict[str, Any]:
        """The state as JSON; the reference is not part of it."""
        return self._bins.to_json()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `to_json` was called, on a detector with the same reference."""
        self._bins.restore(state)
        self._drift_detected = self._bins.drift_detected
        self._warning_detected = self._bins.warning_detected

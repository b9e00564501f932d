"""One signal of one version: what it is expected to be, the detectors that watch it, and whether they may wake a human.

Tiers. Shifts of `page` signals wake a human: the predicted class, the energy of the logits (or the confidence, where
there are no logits), a regression's value, an embedding's norm. Shifts of `ticket` signals (an input's mean, contrast,
missing share; entropy and margin, which say the same again) do not, because inputs also change harmlessly; they tell
the human where to look. River's ADWIN stands beside each scalar as a second opinion: it needs no baseline, and raises
a suspicion at most.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from river.drift import ADWIN

from bundles.baseline import INVALID, Expected
from monitors.detectors.binned import BinnedEDetector
from monitors.detectors.categorical import CategoricalEDetector, Integers

PAGE_SHARES = {"class": 0.5, "energy": 0.3, "value": 0.5, "confidence": 0.2, "norm": 0.2}
"""How a version's part of the promise is divided over its pagers, renormalised over those that it has."""
WARNING_FACTOR = 100.0
"""A warning takes a hundredth of the evidence of a page: about one a day, for nobody's sleep."""
ADWIN_VALUES = 64
"""As many values of one batch go to ADWIN, which takes a microsecond for each."""

Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Watching:
    """How watching is set, from the settings."""

    days_per_false_page: float = 90.0
    tolerance: float = 0.1
    confidence: float = 0.95
    batch_rows: int = 64
    batch_seconds: float = 1.0
    quiet_rows: int = 2_000


@dataclass(frozen=True, slots=True)
class Shift:
    """A signal that left its baseline. `time` and `onset` are record times, seconds since the epoch."""

    version: str
    signal: str
    tier: str
    detector: str
    evidence: float
    limit: float
    time: float
    onset: float
    rows: int
    observed: Any
    expected: Any
    sentence: str


class SignalWatch:
    """One signal and its detectors."""

    def __init__(self, name: str, expected: Expected, share: float | None, watching: Watching) -> None:
        self.name = name
        self.expected = expected
        self.tier = "ticket" if share is None else "page"
        self.share = share if share is not None else 0.1
        self.adwin = ADWIN() if expected.kind == "scalar" else None  # type: ignore[no-untyped-call]
        self.detector: CategoricalEDetector | BinnedEDetector
        if expected.kind == "categorical":
            self.detector = CategoricalEDetector(
                expected.counts, tolerance=watching.tolerance, confidence=watching.confidence
            )
        else:
            counts = [expected.counts.get(str(number), 0) for number in range(len(expected.edges) + 1)]
            self.detector = BinnedEDetector(
                expected.edges,
                counts,
                expected.counts.get(INVALID, 0),
                tolerance=watching.tolerance,
                confidence=watching.confidence,
            )

    def set_limit(self, seconds: float, streams: int) -> None:
        """Divide the promise: this signal's share of one of `streams` versions."""
        self.detector.limit = seconds * streams / self.share
        self.detector.warning_limit = self.detector.limit / WARNING_FACTOR

    @property
    def state(self) -> str:
        """A word for the console."""
        if self.detector.drift_detected:
            return "drift"
        if self.detector.rows < self.detector.minimum:
            return "not-enough-data"
        return "warning" if self.detector.warning_detected else "quiet"

    def update(self, values: list[Any], units: Integers, credit: float, time: float) -> bool:
        """Take one batch; say whether ADWIN saw a change in it."""
        if isinstance(self.detector, CategoricalEDetector):
            self.detector.update_batch(self.detector.encode([str(one) for one in values]), units, credit, time)
            return False
        numbers = np.array([math.nan if one is None else float(one) for one in values])
        self.detector.update_batch(numbers, units, credit, time)
        return self._adwin(numbers, units)

    def _adwin(self, numbers: Numbers, units: Integers) -> bool:
        assert self.adwin is not None, "a scalar has one"
        changed = False
        # ADWIN takes values as independent, and rows of one unit are not: it gets one value a unit, the mean.
        finite = np.isfinite(numbers)
        sizes = np.bincount(units[finite])
        present = sizes > 0
        means = np.bincount(units[finite], numbers[finite])[present] / sizes[present]
        # ADWIN's bound is for values in [0, 1]: six standard deviations of the baseline are that range here.
        middle, spread = self.expected.mean or 0.0, self.expected.std or 1.0
        if len(means) > ADWIN_VALUES:
            # The mean of several independent values is one too, and under heavy traffic ADWIN would cost the most.
            firsts = np.arange(0, len(means), -(-len(means) // ADWIN_VALUES))
            means = np.add.reduceat(means, firsts) / np.diff(firsts, append=len(means))
        for scaled in np.clip((means - middle) / (6 * spread) + 0.5, 0, 1).tolist():
            self.adwin.update(scaled)  # type: ignore[no-untyped-call]
            changed |= bool(self.adwin.drift_detected)
        return changed

    def shift(self, version: str, time: float) -> Shift:
        """Say what the detector has found."""
        found = self.detector.explain()
        if isinstance(self.detector, CategoricalEDetector):
            observed: Any = found.observed
            expected: Any = found.expected
            was, now = found.expected[found.category], found.observed[found.category]
            sentence = f"{self.name} {found.category} is {now:.1%} of predictions, expected {was:.1%}"
        else:
            observed, expected = self.detector.observed_mean(), self.expected.mean
            sentence = f"{self.name} is {_number(observed)} on average, expected {_number(expected)}"
        name = "categorical" if self.expected.kind == "categorical" else "binned"
        return Shift(
            version=version,
            signal=self.name,
            tier=self.tier,
            detector=name,
            evidence=self.detector.evidence,
            limit=self.detector.limit,
            time=time,
            onset=found.onset,
            rows=found.rows,
            observed=observed,
            expected=expected,
            sentence=sentence,
        )


def page_shares(signals: Iterable[str]) -> dict[str, float]:
    """Return which signals page, each with its share of a version's part of the promise.

    >>> {name: round(share, 3) for name, share in page_shares(["class", "energy", "confidence", "image.mean"]).items()}
    {'class': 0.625, 'energy': 0.375}
    """
    names = list(signals)
    found = {}
    for name in names:
        output, _, kind = name.rpartition(".")
        prefix = f"{output}." if output else ""
        if kind in PAGE_SHARES and not (kind == "confidence" and f"{prefix}energy" in names):
            found[name] = PAGE_SHARES[kind]
    total = sum(found.values())
    return {name: share / total for name, share in found.items()}


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4g}"

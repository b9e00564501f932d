"""One version's stream of predictions, and a detector for each of its signals.

Tiers. Shifts of `page` signals wake a human: the predicted class, the energy of the logits (or the confidence, where
there are no logits), a regression's value, an embedding's norm. Shifts of `ticket` signals (an input's mean, contrast,
missing share; entropy and margin, which say the same again) do not, because inputs also change harmlessly; they tell
the human where to look. River's ADWIN stands beside each scalar as a second opinion: it needs no baseline, and raises
a suspicion at most.

Batches are cut by record time and by count, never by what is in them: the guarantee rests on that, and a replay of the
log cuts the same ones.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from river.drift import ADWIN

from bundles.baseline import INVALID, Baseline, Expected
from monitors.detectors.binned import BinnedEDetector
from monitors.detectors.categorical import CategoricalEDetector
from monitors.log.record import Record

PAGE_SHARES = {"class": 0.5, "energy": 0.3, "value": 0.5, "confidence": 0.2, "norm": 0.2}
"""How a version's part of the promise is divided over its pagers, renormalised over those that it has."""
WARNING_FACTOR = 100.0
"""A warning takes a hundredth of the evidence of a page: about one a day, for nobody's sleep."""
WINDOW_ROWS = 1_000
SECONDS_A_DAY = 86_400.0


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


@dataclass(slots=True)
class _Row:
    """One record's part of a batch."""

    time: float
    group: int | None
    rows: int
    signals: Mapping[str, list[Any]]


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

    def update(self, values: list[Any], units: np.ndarray[Any, np.dtype[np.int64]], credit: float, time: float) -> bool:
        """Take one batch; say whether ADWIN saw a change in it."""
        if isinstance(self.detector, CategoricalEDetector):
            self.detector.update_batch(self.detector.encode([str(one) for one in values]), units, credit, time)
            return False
        numbers = np.array([math.nan if one is None else float(one) for one in values])
        self.detector.update_batch(numbers, units, credit, time)
        return self._adwin(numbers)

    def _adwin(self, numbers: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
        assert self.adwin is not None, "a scalar has one"
        changed = False
        # ADWIN's bound is for values in [0, 1]: six standard deviations of the baseline are that range here.
        middle, spread = self.expected.mean or 0.0, self.expected.std or 1.0
        for scaled in np.clip((numbers[np.isfinite(numbers)] - middle) / (6 * spread) + 0.5, 0, 1).tolist():
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


@dataclass
class Stream:
    """One version's predictions."""

    model: str
    version: str
    bundle: str
    baseline: Baseline
    watching: Watching
    watches: list[SignalWatch] = field(default_factory=list)
    rows: int = 0
    last_time: float = 0.0
    pending: list[_Row] = field(default_factory=list)
    recent_values: dict[str, deque[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the detectors."""
        self.restart(self.baseline)

    def restart(self, baseline: Baseline) -> None:
        """Begin anew, against a baseline."""
        self.baseline = baseline
        shares = page_shares(baseline.signals)
        self.watches = [
            SignalWatch(name, expected, shares.get(name), self.watching)
            for name, expected in baseline.signals.items()
            if expected.rows and (expected.kind == "categorical" or expected.edges)
        ]

    def set_limits(self, streams: int) -> None:
        """Divide the promise over all streams."""
        for watch in self.watches:
            watch.set_limit(self.watching.days_per_false_page * SECONDS_A_DAY, streams)

    def add(self, record: Record) -> list[Shift]:
        """Take one record; returns the shifts that its batch shows, when it ends one."""
        shifts: list[Shift] = []
        if self.pending and record.time >= self.pending[0].time + self.watching.batch_seconds:
            shifts = self.flush()
        self.pending.append(_Row(record.time, record.group, record.rows, record.signals))
        if sum(one.rows for one in self.pending) >= self.watching.batch_rows:
            shifts += self.flush()
        return shifts

    def overdue(self, now: float) -> bool:
        """Whether a batch waits whose time is over; a second of grace is for records that come late."""
        return bool(self.pending) and now > self.pending[0].time + self.watching.batch_seconds + 1.0

    def flush(self) -> list[Shift]:
        """End the batch and judge it."""
        batch, self.pending = self.pending, []
        began, ended = batch[0].time, max(one.time for one in batch)
        # The clock of the promise: the time since the last batch. The first one counts the second before it.
        credit = max(0.0, ended - self.last_time) if self.last_time else 1.0
        self.last_time = max(self.last_time, ended)
        units = _units(batch)
        self.rows += len(units)
        shifts = []
        for watch in self.watches:
            values = [value for one in batch for value in one.signals.get(watch.name, ())]
            if len(values) != len(units):
                continue  # A record without this signal: the model's answer had no such output.
            suspicious = watch.update(values, units, credit, began)
            self._remember(watch, values)
            if watch.detector.drift_detected or watch.detector.warning_detected:
                tier = watch.tier if watch.detector.drift_detected else "warning"
                shifts.append(_with_tier(watch.shift(self.version, ended), tier))
            elif suspicious:
                shifts.append(_with_tier(watch.shift(self.version, ended), "warning", "adwin"))
        return shifts

    def _remember(self, watch: SignalWatch, values: list[Any]) -> None:
        kept = self.recent_values.setdefault(watch.name, deque(maxlen=WINDOW_ROWS))
        kept.extend(math.nan if one is None else one for one in values)

    def status(self) -> dict[str, Any]:
        """Return what the console shows: the last thousand rows against the baseline."""
        signals = []
        for watch in self.watches:
            recent = list(self.recent_values.get(watch.name, ()))
            if watch.expected.kind == "categorical":
                rows = max(watch.expected.rows, 1)
                expected: Any = {name: count / rows for name, count in watch.expected.counts.items()}
                observed: Any = _shares([str(one) for one in recent], expected)
            else:
                finite = [one for one in recent if math.isfinite(one)]
                observed, expected = (sum(finite) / len(finite) if finite else None), watch.expected.mean
            signals.append(
                {
                    "name": watch.name,
                    "detector": "categorical" if watch.expected.kind == "categorical" else "binned",
                    "tier": watch.tier,
                    "state": watch.state,
                    "evidence": watch.detector.evidence,
                    "limit": watch.detector.limit,
                    "observed": observed,
                    "expected": expected,
                    "rows": len(recent),
                    "baseline_rows": watch.expected.rows,
                }
            )
        return {
            "model": self.model,
            "version": self.version,
            "bundle": self.bundle,
            "rows": self.rows,
            "baseline": self.baseline.source,
            "signals": signals,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the state for the checkpoint; River's ADWIN, a second opinion, begins anew instead."""
        return {
            "bundle": self.bundle,
            "rows": self.rows,
            "last_time": self.last_time,
            "pending": [[one.time, one.group, one.rows, dict(one.signals)] for one in self.pending],
            "detectors": {watch.name: watch.detector.to_json() for watch in self.watches},
            "recent": {name: list(values) for name, values in self.recent_values.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, made against the same baseline. Raises ValueError when it was another."""
        self.rows, self.last_time = state["rows"], state["last_time"]
        self.pending = [_Row(*one) for one in state["pending"]]
        for watch in self.watches:
            if watch.name in state["detectors"]:
                watch.detector.restore(state["detectors"][watch.name])
        self.recent_values = {name: deque(values, maxlen=WINDOW_ROWS) for name, values in state["recent"].items()}


def page_shares(signals: Iterable[str]) -> dict[str, float]:
    """Return which signals page, each with its share of a version's part of the promise.

    >>> page_shares(["class", "energy", "confidence", "image.mean"])
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


def _units(batch: list[_Row]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Number the units of a batch: rows of one record are one unit, and so are records of one group."""
    numbers: dict[Any, int] = {}
    units = []
    for position, one in enumerate(batch):
        key = ("alone", position) if one.group is None else one.group
        units += [numbers.setdefault(key, len(numbers))] * one.rows
    return np.array(units, dtype=np.int64)


def _with_tier(shift: Shift, tier: str, detector: str | None = None) -> Shift:
    values = {name: getattr(shift, name) for name in Shift.__slots__}
    return Shift(**{**values, "tier": tier, "detector": detector or shift.detector})


def _shares(values: list[str], expected: Mapping[str, float]) -> dict[str, float]:
    shares = dict.fromkeys(expected, 0.0)
    for one in values:
        shares[one] = shares.get(one, 0.0) + 1 / len(values)
    return shares


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4g}"

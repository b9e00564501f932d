"""One version's stream of predictions, cut into batches, with a watch on each of its signals.

Batches are cut by record time and by count, never by what is in them: the guarantee rests on that, and a replay of the
log cuts the same ones.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
import orjson

from bundles.baseline import Baseline
from monitors.detectors.categorical import Integers
from monitors.heard import NO_SIGNALS, Heard, Signals, unfolded
from monitors.log.record import Record
from monitors.signals import Shift, SignalWatch, Watching, page_shares

WINDOW_ROWS = 1_000
SECONDS_A_DAY = 86_400.0
SHORTEST_SECONDS = 0.5
"""A batch spans at least this time: where 64 rows come in 4 ms, to judge 64 at a time would cost more than to serve
them, and nobody is woken sooner by it."""
ROWS_MAX = 8_192
"""But never more rows than this: 82,000 rows a second, at 100 B a signal and row some 6 MB."""
LATE_SECONDS = 1.0
"""Grace for records that were admitted in a batch's time and are written later: a prediction rarely takes longer."""


@dataclass(slots=True)
class _Row:
    """One record's part of a batch, as it comes out of a checkpoint."""

    time: float
    group: int | None
    rows: int
    signals: Mapping[str, list[Any]]


@dataclass
class Stream:
    """One version's predictions. `last_time` is the end of the last batch, `heard` the newest record; record times."""

    model: str
    version: str
    bundle: str
    baseline: Baseline
    watching: Watching
    watches: list[SignalWatch] = field(default_factory=list)
    rows: int = 0
    last_time: float = 0.0
    heard: float = 0.0
    pending: list[_Row | Record | Heard] = field(default_factory=list)
    pending_rows: int = 0
    recent_values: dict[str, deque[Any]] = field(default_factory=dict)

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

    def add(self, record: Record | Heard) -> list[Shift] | None:
        """Take one record; returns the shifts that a batch shows when one ended, else None."""
        time = record.time
        self.heard = max(self.heard, time)
        if not record.signals or record.signals == NO_SIGNALS:
            return None  # A model without any output that we know how to read.
        shifts = None
        if self.pending and time >= self.pending[0].time + self.watching.batch_seconds:
            shifts = self.flush()
        self.pending.append(record)
        self.pending_rows += record.rows
        if self.pending_rows >= self.watching.batch_rows and (
            time >= self.pending[0].time + SHORTEST_SECONDS or self.pending_rows >= ROWS_MAX
        ):
            shifts = [*(shifts or ()), *self.flush()]
        return shifts

    def overdue(self, now: float) -> bool:
        """Whether a batch waits whose time is over."""
        return bool(self.pending) and now > self.pending[0].time + self.watching.batch_seconds + LATE_SECONDS

    def flush(self) -> list[Shift]:
        """End the batch and judge it."""
        batch, self.pending, self.pending_rows = self.pending, [], 0
        began, ended = batch[0].time, max(one.time for one in batch)
        # The clock of the promise: the time since the last batch. The first one counts the second before it.
        credit = max(0.0, ended - self.last_time) if self.last_time else 1.0
        self.last_time = max(self.last_time, ended)
        units = _units(batch)
        self.rows += len(units)
        shifts = []
        rows = [one.rows for one in batch]
        signals = Signals([one.signals for one in batch], rows)
        for watch in self.watches:
            values, having = signals.of(watch.name)
            if not values:
                continue
            chosen = units if having is None else units[np.repeat(having, rows)]
            suspicious = watch.update(values, chosen, credit, began)
            self._remember(watch, values)
            if watch.detector.drift_detected or watch.detector.warning_detected:
                tier = watch.tier if watch.detector.drift_detected else "warning"
                shifts.append(replace(watch.shift(self.version, ended), tier=tier))
            elif suspicious:
                shifts.append(replace(watch.shift(self.version, ended), tier="warning", detector="adwin"))
        return shifts

    def _remember(self, watch: SignalWatch, values: list[Any]) -> None:
        kept = self.recent_values.setdefault(watch.name, deque(maxlen=WINDOW_ROWS))
        kept.extend(values)

    def status(self, shifted: Collection[str] = ()) -> dict[str, Any]:
        """Return what the console shows: the last thousand rows against the baseline.

        shifted: signals of this version that are in an incident now. A detector begins anew after each alarm, so it
        can't tell by itself that its signal is still away.
        """
        signals = []
        for watch in self.watches:
            recent = list(self.recent_values.get(watch.name, ()))
            if watch.expected.kind == "categorical":
                rows = max(watch.expected.rows, 1)
                expected: Any = {name: count / rows for name, count in watch.expected.counts.items()}
                observed: Any = _shares([str(one) for one in recent], expected)
            else:
                finite = [one for one in recent if one is not None and math.isfinite(one)]
                observed, expected = (sum(finite) / len(finite) if finite else None), watch.expected.mean
            signals.append(
                {
                    "name": watch.name,
                    "detector": "categorical" if watch.expected.kind == "categorical" else "binned",
                    "tier": watch.tier,
                    "state": "drift" if watch.name in shifted else watch.state,
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
            "baseline": digest_of(self.baseline),
            "rows": self.rows,
            "last_time": self.last_time,
            "heard": self.heard,
            "pending": [[one.time, one.group, one.rows, unfolded(one.signals)] for one in self.pending],
            "detectors": {watch.name: watch.detector.to_json() for watch in self.watches},
            "recent": {name: list(values) for name, values in self.recent_values.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, made against the same baseline. Raises ValueError when it was another."""
        if state["baseline"] != digest_of(self.baseline):
            msg = "the baseline is another one than when the monitor last wrote where it stood"
            raise ValueError(msg)
        self.rows, self.last_time, self.heard = state["rows"], state["last_time"], state["heard"]
        self.pending = [_Row(*one) for one in state["pending"]]
        self.pending_rows = sum(one.rows for one in self.pending)
        for watch in self.watches:
            if watch.name in state["detectors"]:
                watch.detector.restore(state["detectors"][watch.name])
        self.recent_values = {name: deque(values, maxlen=WINDOW_ROWS) for name, values in state["recent"].items()}


def digest_of(baseline: Baseline) -> str:
    """Tell baselines apart: what was learnt against one means nothing against another."""
    return sha256(orjson.dumps(baseline.to_json(), option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _units(batch: list[_Row | Record | Heard]) -> Integers:
    """Number the units of a batch: rows of one record are one unit, and so are records of one group."""
    if all(one.group is None and one.rows == 1 for one in batch):
        return np.arange(len(batch))
    numbers: dict[Any, int] = {}
    units = []
    for position, one in enumerate(batch):
        key = ("alone", position) if one.group is None else one.group
        units += [numbers.setdefault(key, len(numbers))] * one.rows
    return np.array(units, dtype=np.int64)


def _shares(values: list[str], expected: Mapping[str, float]) -> dict[str, float]:
    shares = dict.fromkeys(expected, 0.0)
    for one in values:
        shares[one] = shares.get(one, 0.0) + 1 / len(values)
    return shares

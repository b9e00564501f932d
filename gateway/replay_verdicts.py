"""What a replay found: an answer as it was logged, held against the answer that the same inputs got again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

import numpy as np

from bundles.runner import golden
from bundles.runner.signals import widened
from gateway.audit import rfc3339
from monitors.log.record import Record, Signals

Array = np.ndarray[Any, Any]
Logged = Mapping[str, tuple[str, Array]]
"""Outputs by name: datatype, and the array with rows first."""
Kind = Literal["bitwise", "within tolerance", "differs", "not replayable"]
KINDS: tuple[Kind, ...] = ("bitwise", "within tolerance", "differs", "not replayable")
CHANGED_SHOWN_MAX = 10
"""Rows of one prediction whose changed class is told one by one."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one prediction.

    `difference` is the largest one, of `output`: infinite where there is no number for it. `decisions` counts the rows
    whose class could be compared; `changed` are those that now get another one.
    """

    id: str
    time: float
    kind: Kind
    reason: str | None = None
    output: str | None = None
    difference: float | None = None
    decisions: int = 0
    changed: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return what `snowgate prediction replay` prints; a difference that is no number is null."""
        return {
            "id": self.id,
            "time": rfc3339(self.time),
            "verdict": self.kind,
            "reason": self.reason,
            "output": self.output,
            "difference": _finite(self.difference),
            "decisions": self.decisions,
            "decisions_changed": len(self.changed),
            "changed": self.changed[:CHANGED_SHOWN_MAX],
        }


def not_replayable(record: Record, reason: str) -> Verdict:
    """Say why a prediction can't be asked again."""
    return Verdict(record.id, record.time, "not replayable", reason)


def compare(
    record: Record,
    logged: Logged,
    outputs: Mapping[str, Array],
    signals: Mapping[str, Array],
    config: Mapping[str, Any],
) -> Verdict:
    """Compare one prediction's outputs and classes (rows first) with what was logged.

    `config` is that of the bundle that answered now: its tolerance decides. Outputs that only one side has are passed
    over, as another bundle may have others.
    """
    halves = {spec["name"] for spec in config["outputs"] if spec["datatype"] == "BF16"}
    decisions, changed = _classes(record.signals, signals)
    found = []
    for name in [name for name in logged if name in outputs]:
        datatype, expected = logged[name]
        got = outputs[name]
        if _same(got, expected) and (datatype == "BF16") == (name in halves):
            found.append((0, 0.0, name))
            continue
        pair = (widened(got) if name in halves else got, widened(expected) if datatype == "BF16" else expected)
        agrees, gap = _gap(*pair, config["tolerance"])
        found.append((1 if agrees else 2, gap, name))
    if not found:
        return not_replayable(record, f"its outputs {', '.join(logged)} are none of {', '.join(outputs)}")
    worst, gap, output = max(found)
    reason = None if isfinite(gap) else f"output '{output}' has another shape, or is not a number"
    return Verdict(record.id, record.time, KINDS[worst], reason, output if worst else None, gap, decisions, changed)


def _same(got: Array, expected: Array) -> bool:
    if (got.dtype, got.shape) != (expected.dtype, expected.shape):
        return False
    return bool(got.tolist() == expected.tolist() if got.dtype == object else got.tobytes() == expected.tobytes())


def _gap(got: Array, expected: Array, tolerance: Mapping[str, float]) -> tuple[bool, float]:
    if (got.dtype == object) != (expected.dtype == object):
        return False, float("inf")
    return golden.compare(got, expected, tolerance)


def _classes(logged: Signals, signals: Mapping[str, Array]) -> tuple[int, list[dict[str, Any]]]:
    """Return how many classes could be compared, and those that are others now."""
    decisions, changed = 0, []
    for name, before in logged.items():
        if name in signals and name.rpartition(".")[2] == "class":
            after = signals[name].tolist()
            decisions += len(before)
            changed += [
                {"row": row, "signal": name, "from": old, "to": new}
                for row, (old, new) in enumerate(zip(before, after, strict=False))
                if old != new
            ]
    return decisions, changed


def summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Count the verdicts.

    >>> found = [Verdict("a", 0.0, "bitwise", decisions=2), Verdict("b", 0.0, "differs", difference=0.5)]
    >>> counted = summary(found)
    >>> counted["predictions"], counted["bitwise"], counted["differs"], counted["largest_difference"]
    (2, 1, 1, 0.5)
    """
    counts = {kind.replace(" ", "_"): sum(one.kind == kind for one in verdicts) for kind in KINDS}
    return {
        "predictions": len(verdicts),
        **counts,
        "largest_difference": _finite(max(_differences(verdicts), default=None)),
        "decisions": sum(one.decisions for one in verdicts),
        "decisions_changed": sum(len(one.changed) for one in verdicts),
    }


def _differences(verdicts: Iterable[Verdict]) -> list[float]:
    return [one.difference for one in verdicts if one.difference is not None]


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None

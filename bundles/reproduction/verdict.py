"""From what a reproduction found to its verdict: pure, so that every line of the table can be tested."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bundles.reproduction.agreement import Agreement, expected
from bundles.reproduction.words import (
    DIFFERENCE_MAX,
    DIFFERENT,
    EQUAL,
    EQUIVALENT,
    IDENTICAL,
    OTHER_INPUTS,
    SEED,
)


@dataclass(frozen=True, slots=True)
class Floor:
    """What runs with other seeds came to: their agreements with the first model, the floor, and their metrics."""

    agreements: Sequence[float]
    floor: float
    metrics: Mapping[str, Sequence[float]]
    rows: int

    def to_json(self) -> dict[str, Any]:
        """As `eval/floor.json`."""
        return {
            "agreements": list(self.agreements),
            "floor": self.floor,
            "metrics": {name: list(values) for name, values in self.metrics.items()},
            "rows": self.rows,
        }


@dataclass(frozen=True, slots=True)
class Found:
    """What is known when the second model is there. `agreement` is None when it could not be asked."""

    same_bytes: bool
    agreement: Agreement | None
    before: Mapping[str, float]
    after: Mapping[str, float] = field(default_factory=dict)
    floor: Floor | None = None
    changed: Sequence[str] = ()
    failed: str | None = None


def verdict(found: Found) -> tuple[str, str]:
    """Return the verdict, and in a sentence why it is not a better one.

    >>> verdict(Found(False, Agreement(1.0, 500, 2e-7), {"accuracy": 0.9}))
    ('numerically-equal', 'the bytes differ, on 500 rows no answer does by more than 2e-07')
    """
    if found.same_bytes:
        return IDENTICAL, "every byte of the model is the same"
    if found.agreement is None:
        return DIFFERENT, found.failed or "it could not be asked"
    share, rows, largest = found.agreement.share, found.agreement.rows, found.agreement.largest
    if share == 1.0 and largest <= DIFFERENCE_MAX:
        return EQUAL, f"the bytes differ, on {rows} rows no answer does by more than {largest:.2g}"
    if found.floor is None:
        return DIFFERENT, (
            f"{share:.4f} of {rows} rows agree, the largest difference is {largest:.2g}; whether another seed would "
            "differ as much is not known: measure it with --floor-seeds 3, here or with train"
        )
    margin = f"{share:.4f} of {rows} rows agree, and other seeds would have {found.floor.floor:.4f} at least"
    moved = moved_metrics(found)
    if share < found.floor.floor:
        return DIFFERENT, f"{margin}{'' if moved else '; the metrics alone would not have told'}"
    if moved:
        return DIFFERENT, f"{margin}; but {moved[0]}"
    others = [cause for cause in found.changed if cause in OTHER_INPUTS]
    if others:
        words = " and ".join(others)
        return DIFFERENT, f"{margin}: these rows can't tell it from another seed, but it has other {words}"
    return EQUIVALENT, margin


def moved_metrics(found: Found) -> list[str]:
    """Say which metrics are not where other seeds bring them."""
    said = []
    assert found.floor is not None, "without other seeds nothing is known about metrics"
    for name, before in found.before.items():
        after, values = found.after.get(name), found.floor.metrics.get(name, ())
        if after is None:
            said.append(f"the metric '{name}' is missing")
            continue
        low, high = expected([before, *values], len(found.before)) if values else (before, before)
        # Seeds that all say the same leave no room at all, not even for how numbers are written.
        if not (low <= after <= high or math.isclose(after, before, rel_tol=1e-6, abs_tol=1e-9)):
            said.append(f"{name} is {after:.4g}, and other seeds bring it to {low:.4g} … {high:.4g}")
    return said


def cause(result: str, changed: Sequence[str], circumstances: Sequence[str], *, repeats: bool | None) -> str | None:
    """Name what made the models differ, as far as can be told; None when nothing did.

    `changed` is what was changed on purpose, `circumstances` what is not as it was (hardware, environment), and
    `repeats` whether the run makes the same model when it runs here twice (None: not tried). A run that does not has
    chance in it that no seed holds.

    >>> cause("different", [], ["hardware"], repeats=True), cause("different", [], ["hardware"], repeats=False)
    ('hardware', 'seed')
    """
    if result == IDENTICAL:
        return None
    if changed:
        return ", ".join(changed)
    if repeats is False:
        return SEED
    return ", ".join(circumstances) or None

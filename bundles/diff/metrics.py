"""Metrics: those that were written down when the bundles were packed, over all and by slice.

A metric is named `slice/metric`, or stands in a table of the slice's name; both mean the same. What the holdout's own
labels say about both models, class by class, is measured in `predictions` and shown beside these.
"""

from collections.abc import Mapping
from typing import Any

from bundles.bundle import Bundle
from bundles.diff.values import changes


def metrics(first: Bundle, second: Bundle) -> dict[str, Any]:
    """Compare the recorded metrics; `overall` and `slices` list all of them, those that did not change as well."""
    before, after = (flat(bundle.config["metrics"]) for bundle in (first, second))
    moved = {one["name"]: one["change"] for one in changes(before, after)}
    found = [_entry(name, moved.get(name, "unchanged"), before.get(name), after.get(name)) for name in before | after]
    return {
        "overall": [one for one in found if one["slice"] is None],
        "slices": [one for one in found if one["slice"] is not None],
    }


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the metrics of a table and of those inside of it, named `slice/metric`.

    >>> flat({"accuracy": 0.9, "night": {"accuracy": 0.7}})
    {'accuracy': 0.9, 'night/accuracy': 0.7}
    """
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _entry(name: str, change: str, before: Any, after: Any) -> dict[str, Any]:
    part, _slash, metric = name.rpartition("/")
    known = all(isinstance(value, int | float) for value in (before, after))
    return {
        "slice": part or None,
        "name": metric,
        "change": change,
        "before": before,
        "after": after,
        "difference": after - before if known else None,
    }

"""The baseline: how a model's signals are distributed when all is well.

It is measured on the holdout when a bundle is packed, and travels in the bundle. A categorical signal is kept as
counts. A scalar one is cut into bins at its own quantiles, ten of equal share and, since a shift shows first in the
tails, one more at each end for the outermost hundredth; what is not finite has a bin of its own. Counts, not shares:
a baseline of a thousand rows is itself uncertain, and the detectors take that into account.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
QUANTILES = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
CATEGORIES_MAX = 1_000
"""Categories of one signal; the rarest beyond are counted as `other`. At 80 bytes each, 80 KB a baseline."""
OTHER = "other"
INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Expected:
    """One signal's distribution: counts by category (`categorical`), or by bin (`scalar`, `edges` between the bins)."""

    kind: str
    counts: dict[str, int] = field(default_factory=dict)
    edges: tuple[float, ...] = ()
    mean: float | None = None
    std: float | None = None

    @property
    def rows(self) -> int:
        """How many rows were measured."""
        return sum(self.counts.values())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        if self.kind == "categorical":
            return {"kind": self.kind, "counts": self.counts}
        summary = {"mean": self.mean, "std": self.std}
        return {"kind": self.kind, "edges": list(self.edges), "counts": self.counts, **summary}


@dataclass(frozen=True, slots=True)
class Baseline:
    """The expected distributions of all signals of one version. `source` says what they were measured on."""

    source: str
    rows: int
    signals: dict[str, Expected]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, as in `baseline.json`."""
        signals = {name: expected.to_json() for name, expected in self.signals.items()}
        return {"schema": 1, "source": self.source, "rows": self.rows, "signals": signals}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> "Baseline":
        """Read the JSON form. Raises KeyError or ValueError when it is not one."""
        if document["schema"] != 1:
            msg = f"baseline: schema {document['schema']!r}, expected 1"
            raise ValueError(msg)
        signals = {
            name: Expected(one["kind"], one["counts"], tuple(one.get("edges", ())), one.get("mean"), one.get("std"))
            for name, one in document["signals"].items()
        }
        return Baseline(document["source"], document["rows"], signals)


def measure(signals: Mapping[str, Array], source: str) -> Baseline:
    """Measure the distribution of signals, each of shape [rows].

    >>> import numpy as np
    >>> baseline = measure({"class": np.array([3, 3, 7]), "energy": np.array([0.5, 1.5, 2.5])}, "holdout")
    >>> baseline.signals["class"].counts
    {'3': 2, '7': 1}
    """
    rows = max((len(values) for values in signals.values()), default=0)
    measured = {}
    for name, values in signals.items():
        if values.dtype.kind == "f":
            measured[name] = _scalar(values)
        else:
            measured[name] = _categorical(values)
    return Baseline(source, rows, measured)


def _categorical(values: Array) -> Expected:
    found = Counter(map(str, values.tolist()))
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    counts = dict(sorted(ordered[:CATEGORIES_MAX]))
    rest = sum(count for _name, count in ordered[CATEGORIES_MAX:])
    return Expected("categorical", counts | ({OTHER: rest} if rest else {}))


def _scalar(values: Array) -> Expected:
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return Expected("scalar", {INVALID: len(values)} if len(values) else {})
    # A signal that takes few values (a share of missing that is always 0) has fewer distinct quantiles, and bins. An
    # edge at the smallest value would cut off an empty bin; one just above the largest tells when it is exceeded.
    edges = np.unique(np.quantile(finite, QUANTILES))
    edges = edges[edges > finite.min()]
    if not len(edges):
        edges = np.array([np.nextafter(finite.min(), -np.inf), np.nextafter(finite.max(), np.inf)])
    counts = np.bincount(np.searchsorted(edges, finite, side="right"), minlength=len(edges) + 1)
    named = {str(position): int(count) for position, count in enumerate(counts)}
    invalid = len(values) - len(finite)
    return Expected(
        "scalar",
        named | ({INVALID: invalid} if invalid else {}),
        tuple(float(edge) for edge in edges),
        float(finite.mean()),
        float(finite.std()),
    )

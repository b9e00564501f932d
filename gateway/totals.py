"""What all workers have counted together, the dead ones included.

A worker sends a copy of its metrics once a second. When it dies its last copy is kept in the sum, so that a counter
never goes back because a process did. A gauge is the largest of all: what is sent as one is the time of something.
"""

from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import Exemplar

Key = tuple[str, str, tuple[tuple[str, str], ...]]
Samples = dict[Key, float]


class Totals:
    """Adds up the metrics of workers."""

    def __init__(self) -> None:
        self._alive: dict[str, Samples] = {}
        self._dead: Samples = {}
        self._described: dict[str, tuple[str, str]] = {}
        self._exemplars: dict[Key, Exemplar] = {}

    def update(self, worker: str, families: list[list[Any]]) -> None:
        """Take a worker's newest copy: `[name, type, documentation, [[sample, labels, value, exemplar], …]]` each."""
        samples: Samples = {}
        for name, kind, documentation, found in families:
            self._described[name] = (kind, documentation)
            for sample, labels, value, exemplar in found:
                if sample.endswith("_created"):
                    continue
                key = (name, sample, tuple(sorted(labels.items())))
                samples[key] = value
                if exemplar is not None:
                    newest = self._exemplars.get(key)
                    if newest is None or exemplar[2] > newest.timestamp:
                        self._exemplars[key] = Exemplar(*exemplar)
        self._alive[worker] = samples

    def ended(self, worker: str) -> None:
        """Keep a dead worker's last copy."""
        self._take(self._dead, self._alive.pop(worker, {}))

    def families(self) -> Iterable[Metric]:
        """Return the sums, as Prometheus metric families."""
        total = dict(self._dead)
        for samples in self._alive.values():
            self._take(total, samples)
        families = {name: Metric(name, text, kind) for name, (kind, text) in self._described.items()}
        for key, value in total.items():
            name, sample, labels = key
            families[name].add_sample(sample, dict(labels), value, exemplar=self._exemplars.get(key))
        return families.values()

    def _take(self, total: Samples, samples: Samples) -> None:
        for key, value in samples.items():
            before = total.get(key, 0.0)
            total[key] = max(before, value) if self._described[key[0]][0] == "gauge" else before + value

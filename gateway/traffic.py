"""How much each version answers, lately: the difference of counters, once a second, for two minutes.

The workers count `snowgate_requests_total{model, version, variant, outcome}`; a rate is the difference of two samples
over the time between them. Nothing of this lasts: after a restart of control the two minutes begin again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Metric

from gateway.runner_figures import runner_rows

COUNTER = "snowgate_requests_total"
POINTS = 120
"""One a second: two minutes, what fits a sparkline. A point has two floats a version, 120 versions take 1 MB."""
WINDOW_POINTS = 60
"""Shares and error rates are over the last minute."""

Version = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Point:
    """One second: requests and failed requests by (model, version), and how many seconds it really was."""

    seconds: float
    requests: dict[Version, float]
    failures: dict[Version, float]


@dataclass
class Traffic:
    """The history of one control process."""

    points: deque[Point] = field(default_factory=lambda: deque(maxlen=POINTS))
    runners: dict[Version, list[dict[str, Any]]] = field(default_factory=dict)
    """The runners of each version, as `runner_figures.runner_rows` gives them: those of the newest sample."""
    _last: dict[tuple[Version, bool], float] | None = None
    _time: float = 0.0

    def sample(self, families: Iterable[Metric], now: float) -> None:
        """Take the counters as they are at `now` (seconds of a monotonic clock), and how the runners are."""
        taken = list(families)
        counters = _read(taken)
        self.runners = runner_rows(taken)
        if self._last is not None and now > self._time:
            requests: dict[Version, float] = {}
            failures: dict[Version, float] = {}
            for (version, ok), value in counters.items():
                before = self._last.get((version, ok), 0.0)
                # A counter that went back was begun anew.
                grown = value - before if value >= before else value
                requests[version] = requests.get(version, 0.0) + grown
                if not ok:
                    failures[version] = failures.get(version, 0.0) + grown
            self.points.append(Point(now - self._time, requests, failures))
        self._last, self._time = counters, now

    def of(self, model: str, version: str) -> dict[str, Any]:
        """Return one version's traffic.

        `rate` is in requests a second and `share` a fraction of the model's requests, both over the last minute
        (`requests` of them); `failures` is a fraction of the version's; `history` is in requests a second, oldest
        first. What nothing is known of is null.
        """
        lately = list(self.points)[-WINDOW_POINTS:]
        seconds = sum(point.seconds for point in lately)
        key = (model, version)
        own = sum(point.requests.get(key, 0.0) for point in lately)
        failed = sum(point.failures.get(key, 0.0) for point in lately)
        whole = sum(value for point in lately for (name, _version), value in point.requests.items() if name == model)
        return {
            "requests": round(own),
            "rate": own / seconds if seconds else None,
            "share": own / whole if whole else None,
            "failures": failed / own if own else None,
            "history": [point.requests.get(key, 0.0) / point.seconds for point in self.points],
        }


class Sampler:
    """Takes a sample a second, on the event loop that it is started on, as long as that loop runs."""

    def __init__(self, traffic: Traffic, families: Callable[[], Iterable[Metric]]) -> None:
        self.traffic = traffic
        self._families = families
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self.traffic.sample(self._families(), loop.time())
            await asyncio.sleep(1.0)


def _read(families: Iterable[Metric]) -> dict[tuple[Version, bool], float]:
    counters: dict[tuple[Version, bool], float] = {}
    for family in families:
        for sample in family.samples:
            if sample.name == COUNTER:
                labels = sample.labels
                key = ((labels["model"], labels["version"]), labels["outcome"] == "ok")
                counters[key] = counters.get(key, 0.0) + sample.value
    return counters

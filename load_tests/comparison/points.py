"""One point of a comparison: a server, a load, and what it took; and the medians of several."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from load_tests.comparison import answers, wrk
from load_tests.comparison.models import Model
from load_tests.comparison.processes import machine_seconds
from load_tests.comparison.server import Server

BUSY_CPUS = 0.1  # A tenth of a CPU for something else on the machine moves a number by several percent.
NUMBERS = {
    "requests_per_second": 1,
    "p50_ms": 3,
    "p99_ms": 3,
    "cpu_us_per_request": 1,
    "settling_cpu_us_per_request": 1,
    "other_cpus": 2,
}
"""What is measured at a point, with the decimals that mean something."""


class PointError(Exception):
    """What was measured is no number: answers were wrong, late or missing."""


@dataclass(frozen=True, order=True)
class Point:
    """What is varied."""

    server: str
    model: str
    body: str
    cores: int
    concurrency: int

    def __str__(self) -> str:
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{self.server} {self.model} {self.body} {cores} c{self.concurrency}"


@dataclass(frozen=True)
class Sample:
    """One measurement of a point: its numbers, or why there are none."""

    point: Point
    numbers: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def __str__(self) -> str:
        if self.error:
            return f"{self.point}: ERROR: {self.error}"
        said = (
            "{requests_per_second:,.0f}/s  p50 {p50_ms:.2f} ms  p99 {p99_ms:.2f} ms  {cpu_us_per_request:.0f} µs of CPU"
        )
        busy = "  (machine busy)" if self.numbers["other_cpus"] > BUSY_CPUS else ""
        return f"{self.point}: {said.format(**self.numbers)}{busy}"


def measure(server: Server, point: Point, *, seconds: int, cpus: Sequence[int]) -> Sample:
    """Load a running server for so long, its answers checked before and after."""
    model = server.models[point.model]
    facts = server.peer.facts(server.place)
    load = Load(point.body, point.concurrency, seconds, cpus)
    try:
        return Sample(point, load.run(server, model), facts)
    except (PointError, wrk.LoadError) as error:
        return Sample(point, facts=facts, error=str(error))


@dataclass(frozen=True)
class Load:
    """A closed loop: each connection sends the next call when it has the answer to the last."""

    body: str
    concurrency: int
    seconds: int
    cpus: Sequence[int]  # of the generator
    rows: int = 1  # in each call

    def run(self, server: Server, model: Model) -> dict[str, float]:
        """Send the model's first rows again and again; return what it took, or raise PointError: it is no number."""
        self._check(server, model, "before")
        before = _moments(server)
        report = self.drive(server, model)
        wall, machine, own, spent = (after - earlier for after, earlier in zip(_moments(server), before, strict=True))
        # What a server puts off must not slow down whoever has the next turn, and is told.
        owed = server.peer.settled(server.place, server.answered)
        settling = server.cpu_seconds - before[-1] - spent
        if report.complaint or owed:
            raise PointError(report.complaint or owed)
        self._check(server, model, "after")
        return {
            "requests_per_second": report.requests / report.seconds,
            "p50_ms": report.p50_ms,
            "p99_ms": report.p99_ms,
            "cpu_us_per_request": spent / report.requests * 1e6,
            "settling_cpu_us_per_request": settling / report.requests * 1e6,
            "other_cpus": max(0.0, (machine - spent - own - report.own_cpu_seconds) / wall),
        }

    def drive(self, server: Server, model: Model) -> wrk.Report:
        """Only send."""
        content, headers = server.peer.request(self.body, model.name, model.rows[: self.rows])
        path = server.place.folder / f"{model.name}-{self.body}.body"
        path.write_bytes(content)
        url = server.url(model.name)
        report = wrk.drive(url, path, headers, concurrency=self.concurrency, seconds=self.seconds, cpus=self.cpus)
        server.answered += report.requests
        return report

    def _check(self, server: Server, model: Model, when: str) -> None:
        wrong = answers.complaint(server, model, self.body, self.rows)
        if wrong:
            raise PointError(f"wrong {when} the load: {wrong}")


def rows(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Return one row a point, in the order of their first appearance: medians, or an error if there was one."""
    by_point: defaultdict[Point, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_point[sample.point].append(sample)
    return [_row(point, found) for point, found in by_point.items()]


def _row(point: Point, found: list[Sample]) -> dict[str, Any]:
    error = next((one.error for one in found if one.error), None)
    row: dict[str, Any] = asdict(point)
    for name, digits in NUMBERS.items():
        row[name] = None if error else round(median(one.numbers[name] for one in found), digits)
    row |= {"busy": None if error else row["other_cpus"] > BUSY_CPUS, "rounds": len(found), "error": error}
    return row | merged([one.facts for one in found])


def merged(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return facts of several rounds as one: the medians of what is measured, the first of what is said.

    >>> merged([{"log": "commit", "sync": {"p50": 1.0}}, {"log": "commit", "sync": {"p50": 3.0}}])
    {'log': 'commit', 'sync': {'p50': 2.0}}
    """
    result: dict[str, Any] = {}
    for name, value in facts[0].items() if facts else ():
        both = [one[name] for one in facts if name in one]
        if isinstance(value, dict):
            result[name] = merged(both)
        else:
            result[name] = round(median(both), 3) if isinstance(value, float) else value
    return result


def _moments(server: Server) -> tuple[float, float, float, float]:
    """Return moments of the wall, the machine, this process and the server, to be subtracted."""
    return time.monotonic(), machine_seconds(), time.process_time(), server.cpu_seconds

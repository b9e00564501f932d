"""In which order points are measured: rounds, in which servers come and go, and duels, in which all stay up.

Other work on the machine shifts everything; so no server is measured in one go. In a round each has its turn alone on
its core, in an order that rotates. In a duel all are up, and they take short turns at the same point, which gives the
better ratios; what the idle ones cost is then on everybody's account alike.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from load_tests.comparison import wrk
from load_tests.comparison.models import Model
from load_tests.comparison.points import Load, Point, Sample, measure
from load_tests.comparison.server import Peer, Server, ServerError

WARM_UP_CONCURRENCY = 16


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    models: Sequence[str]
    bodies: Sequence[str]
    cores: Sequence[int]
    concurrency: Sequence[int]
    rounds: int
    seconds: int
    warm_up: int

    def points(self, peer: Peer, cores: int) -> list[Point]:
        """Return the points of one turn of a peer."""
        return [
            Point(peer.name, model, body, cores, concurrency)
            for model in self.models
            for body in self.bodies
            if body in peer.bodies
            for concurrency in self.concurrency
        ]


@dataclass(frozen=True)
class Course:
    """A comparison of installed peers."""

    plan: Plan
    installed: Sequence[tuple[Peer, Path]]
    models: dict[str, Model]
    work: Path

    def rounds(self) -> Iterator[Sample]:
        """Measure in rounds."""
        for number in range(self.plan.rounds):
            say(f"round {number + 1} of {self.plan.rounds}")
            for cores in self.plan.cores:
                turn = number % len(self.installed)
                for peer, python in [*self.installed[turn:], *self.installed[:turn]]:
                    yield from self._turn(peer, python, cores)

    def _turn(self, peer: Peer, python: Path, cores: int) -> Iterator[Sample]:
        points = self.plan.points(peer, cores)
        done: list[Point] = []
        try:
            with self._server(peer, python, cores) as server:
                warm: set[tuple[str, str]] = set()
                for point in points:
                    if (point.model, point.body) not in warm:
                        self._warm_up(server, point)
                        warm.add((point.model, point.body))
                    yield told(measure(server, point, seconds=self.plan.seconds, cpus=generator_cpus(cores)))
                    done.append(point)
        except ServerError as error:
            yield from failed([point for point in points if point not in done], str(error))

    def duel(self) -> Iterator[Sample]:
        """Measure with all servers up, in short turns; a round is a rotation."""
        for cores in self.plan.cores:
            with ExitStack() as stack:
                servers = []
                for peer, python in self.installed:
                    try:
                        servers.append(stack.enter_context(self._server(peer, python, cores)))
                    except ServerError as error:
                        yield from failed(self.plan.points(peer, cores), str(error))
                yield from self._rotations(servers, cores)

    def _rotations(self, servers: list[Server], cores: int) -> Iterator[Sample]:
        plans = {server.peer.name: self.plan.points(server.peer, cores) for server in servers}
        cases = dict.fromkeys((one.model, one.body, one.concurrency) for points in plans.values() for one in points)
        for model, body, concurrency in cases:
            points = {name: Point(name, model, body, cores, concurrency) for name in plans}
            ready = [server for server in servers if points[server.peer.name] in plans[server.peer.name]]
            for server in ready:
                self._warm_up(server, points[server.peer.name])
            for _rotation in range(self.plan.rounds):
                for server in ready:
                    point = points[server.peer.name]
                    yield told(measure(server, point, seconds=self.plan.seconds, cpus=generator_cpus(cores)))

    def _server(self, peer: Peer, python: Path, cores: int) -> Server:
        say(f"starting {peer.name} on {cores} core{'s' if cores > 1 else ''}")
        return Server(peer, python, self.models, work=self.work, cores=cores, cpus=server_cpus(cores))

    def _warm_up(self, server: Server, point: Point) -> None:
        model = server.models[point.model]
        load = Load(point.body, WARM_UP_CONCURRENCY, self.plan.warm_up, generator_cpus(point.cores))
        with suppress(wrk.LoadError):  # The point that follows says what is wrong.
            load.drive(server, model)


def server_cpus(cores: int) -> list[int]:
    """Return the CPUs of all of a server's processes: the first that this process may use, or the first two."""
    return allowed_cpus()[:cores]


def generator_cpus(cores: int) -> list[int]:
    """Return the CPUs of the generator: the second one; with two cores it shares both with the server."""
    return allowed_cpus()[1:2] if cores == 1 else allowed_cpus()[:cores]


def what_is_missing() -> str | None:
    """Say why nothing can be measured on this machine, or None."""
    if len(allowed_cpus()) < 2:
        return "this needs two CPUs: one for the server, one for the load generator"
    if shutil.which("wrk") is None:
        return "wrk is the load generator, and is not installed. On Debian and Ubuntu: apt-get install wrk"
    return None


def allowed_cpus() -> list[int]:
    """Return the CPUs that this process may use."""
    return sorted(os.sched_getaffinity(0))


def ratios(samples: Sequence[Sample], first: str) -> dict[Point, float]:
    """Return each point's throughput relative to the first server's: the median over rotations of the ratio in one."""
    by_point: dict[Point, list[float | None]] = {}
    for sample in samples:
        rate = None if sample.error else sample.numbers["requests_per_second"]
        by_point.setdefault(sample.point, []).append(rate)
    found = {}
    for point, rates in by_point.items():
        reference = by_point.get(Point(**{**vars(point), "server": first}), [])
        both: list[Any] = list(zip(rates, reference, strict=False))
        if both and all(mine and theirs for mine, theirs in both):
            found[point] = round(median(mine / theirs for mine, theirs in both), 3)
    return found


def failed(points: Sequence[Point], error: str) -> list[Sample]:
    """Show an error as progress, and return it for all of these points."""
    say(f"  ERROR: {error}")
    return [Sample(point, error=error) for point in points]


def told(sample: Sample) -> Sample:
    """Show a sample as progress."""
    say(f"  {sample}")
    return sample


def say(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)

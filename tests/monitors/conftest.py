"""A small world to monitor: a real home, a real log, versions with baselines, and predictions that may shift."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles.baseline import measure
from bundles.home import Home
from monitors import baselines
from monitors.log.record import Record, new_id
from monitors.log.writer import SegmentWriter
from monitors.watch import Monitor
from state.sqlite import SqliteState

MIX = np.array([0.4, 0.3, 0.2, 0.1])


class World:
    """Versions of the model `signs`, whose predictions we make up; everything around them is real."""

    def __init__(self, folder: Path, seed: int = 11) -> None:
        self.home = Home(folder / "home").make()
        self.state = SqliteState(self.home.state)
        self.chance = np.random.default_rng(seed)
        self.time = 1_700_000_000.0
        self.made = 0
        self._durable = threading.Condition()
        self._done = 0
        self._writer: SegmentWriter | None = None

    def close(self) -> None:
        """Close log and state."""
        if self._writer is not None:
            self._writer.close()
        self.state.close()

    def digest(self, version: str) -> str:
        """The digest that a version's bundle would have."""
        return "sha256:" + version.rjust(64, "0")

    def signals(self, rows: int, *, shift: float = 0.0, inputs: float = 0.0) -> dict[str, np.ndarray[Any, Any]]:
        """Signals of some rows: `shift` moves mass to class 3 and lowers the energy, `inputs` brightens the images."""
        mix = MIX * (1 - shift) + np.array([0, 0, 0, shift])
        return {
            "class": self.chance.choice(4, size=rows, p=mix),
            "energy": self.chance.normal(10.0 - 3 * shift, 1.0, rows),
            "image.mean": self.chance.normal(0.5 + inputs, 0.1, rows),
        }

    def version(self, version: str) -> None:
        """Give a version a baseline of 1,000 rows."""
        found = measure(self.signals(1_000), "holdout")
        digest = self.digest(version)
        given = {"incident": "none", "actor": "test", "reason": "given", "time": "2023-11-14T00:00:00.000000Z"}
        self.state.commit(baselines.change("signs", version, digest, found, **given))

    def record(self, version: str, signals: dict[str, Any], rows: int, group: int | None, **more: Any) -> Record:
        """One record of now."""
        return Record(
            id=new_id(int(self.time * 1e9)),
            kind=more.pop("kind", "answered"),
            time=self.time,
            model="signs",
            version=version,
            bundle=self.digest(version),
            variant="stable",
            status=200,
            rows=rows,
            group=group,
            signals=signals,
            **more,
        )

    def predict(
        self, version: str, records: int, *, rows: int = 1, rate: float = 100.0, group: int | None = None, **how: float
    ) -> None:
        """Log predictions, `rate` records a second of record time, and wait until they are durable."""
        values = self.signals(records * rows, **how)
        made = []
        for number in range(records):
            part = {name: all_[number * rows : (number + 1) * rows].tolist() for name, all_ in values.items()}
            made.append(self.record(version, part, rows, group))
            self.time += 1 / rate
        self.write(made)

    def write(self, records: list[Record]) -> None:
        """Append records and wait until they are durable."""
        if self._writer is None:
            self._writer = SegmentWriter(self.home.log, "w0", self._note)
        for one in records:
            self._writer.append(one, one.id)
        self.made += len(records)
        with self._durable:
            assert self._durable.wait_for(lambda: self._done >= self.made, 20)

    def _note(self, tokens: list[Any], error: OSError | None) -> None:
        assert error is None
        with self._durable:
            self._done += len(tokens)
            self._durable.notify_all()

    def incidents(self) -> list[dict[str, Any]]:
        """All incidents, oldest first."""
        return sorted((one.body for one in self.state.list("incidents/")), key=lambda body: str(body["opened"]))

    def outbox(self) -> list[str]:
        """The events that wait to be paged, oldest first."""
        pages = [one.body["page"] for one in self.state.list("outbox/")]
        return [one["event"] for one in sorted(pages, key=lambda one: str(one["time"]))]


def follow(monitor: Monitor, world: World, *, flush: bool = False) -> None:
    """Let a monitor read all there is."""
    while monitor.turn(world.time):
        pass
    if flush:
        world.time += 10
        monitor.turn(world.time)


def facts(world: World) -> list[tuple[Any, ...]]:
    """What must be the same however often the monitor dies: paged incidents, and how they went."""
    return [
        (
            one["versions"],
            one["onset"],
            [entry["state"] for entry in one["history"] if entry["state"] != "suspected"],
            sorted(signal["name"] for signal in one["signals"] if signal["tier"] == "page"),
        )
        for one in world.incidents()
        if any(entry["state"] == "open" for entry in one["history"])
    ]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world with version 1."""
    made = World(tmp_path)
    made.version("1")
    yield made
    made.close()

"""Which engine runs a bundle here: tried once for a bundle and a machine, then the same for every runner of it.

`choose` is pure. `Engines` looks into live state (`engines/<digest>/<fingerprint of the hardware>`) and lets a program
in the bundle's own environment try the engines where nothing is there yet.
"""

import asyncio
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import orjson

from bundles import process
from bundles.bundle import Bundle
from bundles.digest import canonical_json, sha256_bytes
from bundles.runner.engines import EAGER
from gateway.audit import now
from state import Change, State

log = logging.getLogger("snowgate.control")

AUTO = "auto"
TRIAL_SECONDS = 40.0
"""For all engines of one bundle. They take five on a machine that does nothing else; it often does, at the start."""
LOAD_SECONDS = 120.0
"""Beside it, for loading the network once; who takes longer is run eagerly."""
CLOSE_RATIO = 1.05
"""Engines nearer than this are equally fast: measured twice, either could come first."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, and one sentence why."""

    engine: str
    reason: str


def choose(outcomes: Sequence[Mapping[str, Any]]) -> Choice | None:
    """Choose among the engines that answered as the bundle did, in the order in which they were tried; None: none did.

    What counts is the geometric mean of the time a row, over the batch sizes: load decides which sizes occur, and twice
    as fast at one of them weighs as much as at another. Among equals the first one, which changes the network least.

    >>> def tried(engine, *times):
    ...     return {"engine": engine, "microseconds_per_row": dict(zip("abc", times))}
    >>> choose([tried("eager", 400, 300), tried("frozen", 100, 400), {"engine": "openvino", "error": "no"}])
    Choice(engine='frozen', reason='200 µs a row (geometric mean over batch sizes); eager 346')
    >>> choose([tried("eager", 100), tried("frozen", 98)]).engine
    'eager'
    """
    rated = {
        one["engine"]: prod(times) ** (1 / len(times))
        for one in outcomes
        if "error" not in one and (times := list(one["microseconds_per_row"].values()))
    }
    if not rated:
        return None
    best = min(rated.values())
    engine = next(name for name, rate in rated.items() if rate <= best * CLOSE_RATIO)
    others = ", ".join(f"{name} {rate:.3g}" for name, rate in rated.items() if name != engine)
    reason = f"{rated[engine]:.3g} µs a row (geometric mean over batch sizes); {others or 'no other one can run it'}"
    return Choice(engine, reason)


def fingerprint(hardware: Mapping[str, Any]) -> str:
    """Return a short name for a machine with its software, as far as the speed of an engine depends on them."""
    return sha256_bytes(canonical_json(hardware)).removeprefix("sha256:")[:16]


class Engines:
    """The engines of one gateway's bundles."""

    def __init__(self, state: State) -> None:
        self._state = state
        # Two trials at once would measure each other.
        self._one_at_a_time = asyncio.Lock()

    async def engine_for(
        self, bundle: Bundle, directory: Path, wanted: str, python: str = sys.executable, *, confined: bool = True
    ) -> str:
        """Return the engine for the runners of an unpacked bundle: the wanted one, for `auto` the one found.

        A trial that comes to nothing (the network was not loaded in time, no engine agreed) leaves the bundle to
        `eager`, whose own check then says what is wrong, and is made again at the next start.
        """
        if wanted != AUTO:
            return wanted
        if bundle.config["loader"] != "torch":
            return EAGER
        try:
            async with self._one_at_a_time:
                (hardware,) = await _lines(lambda _scratch: process.hardware_command(python))
                key = f"engines/{bundle.digest}/{fingerprint(hardware)}"
                known = self._state.get(key)
                if known is not None:
                    return str(known.body["engine"])
                outcomes = await _lines(
                    lambda scratch: process.trial_command(directory, scratch, TRIAL_SECONDS, python, confined=confined)
                )
        except (OSError, ValueError, TimeoutError) as error:
            # ValueError: it died before it said a line of JSON.
            log.warning("engines of %s: the trial failed, it runs eagerly: %r", bundle.digest[:19], error)
            return EAGER
        found = choose(outcomes)
        if found is None:
            log.warning("engines of %s: none could be measured, it runs eagerly: %s", bundle.digest[:19], outcomes)
            return EAGER
        log.info("engine of %s %s: %s, %s", bundle.model, bundle.digest[:19], found.engine, found.reason)
        body = {
            "digest": bundle.digest,
            "model": bundle.model,
            "engine": found.engine,
            "reason": found.reason,
            "time": now(),
            "hardware": hardware,
            "outcomes": outcomes,
        }
        self._state.commit(Change(key, body))
        return found.engine


async def _lines(command: Callable[[Path], Sequence[str]]) -> list[dict[str, Any]]:
    """Run a program for as long as a trial may take, in a folder of its own, and return its lines.

    Raises TimeoutError, ValueError.
    """
    with tempfile.TemporaryDirectory(prefix="snowgate-") as folder:
        scratch = Path(folder)
        running = await asyncio.create_subprocess_exec(
            *command(scratch),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            cwd=scratch,
            env=process.environment(scratch),
        )
        try:
            async with asyncio.timeout(LOAD_SECONDS + TRIAL_SECONDS):
                said, _nothing = await running.communicate()
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
    return [orjson.loads(line) for line in said.splitlines()]

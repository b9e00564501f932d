"""The runners that control keeps: one process a bundle, checked before it starts and before it gets traffic.

absent ─▶ starting ─▶ ready        a death: starting again, with a growing pause
└─────▶ failed       it can't be verified, loaded, or does not reproduce its golden examples
"""

import asyncio
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundles import process
from bundles.bundle import Bundle
from bundles.errors import BundleError, RunnerFailed
from bundles.home import Home
from bundles.loading import prepare
from gateway.children import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, child_environment, why
from gateway.engines import Engines
from gateway.reconcile import RunnerState
from gateway.settings import RunnerSettings
from state import State

log = logging.getLogger("snowgate.control")

DEATHS_IN_A_ROW_MAX = 10
STEADY_SECONDS = 10.0
"""A runner that lived this long counts as sound: its deaths are counted anew."""


@dataclass
class Runner:
    """One bundle's runner."""

    digest: str
    state: RunnerState = "starting"
    reason: str = ""
    bundle: Bundle | None = None
    socket: str = ""
    platform: str = ""
    engine: str = ""
    deaths: int = 0
    task: asyncio.Task[None] | None = None
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)


class Runners:
    """Starts, checks, watches and ends runners. `changed` is called after every change of a state."""

    def __init__(self, home: Home, state: State, settings: RunnerSettings, changed: Callable[[], None]) -> None:
        self._home = home
        self._engines = Engines(state, settings.engine)
        self._changed = changed
        self._runners: dict[str, Runner] = {}
        # A socket's path is limited to 108 bytes, and a home may lie deep: sockets have a short folder of their own.
        self._sockets = Path(tempfile.mkdtemp(prefix="snowgate-"))
        self._starts = 0
        shutil.rmtree(home.run, ignore_errors=True)

    def states(self) -> dict[str, tuple[RunnerState, str]]:
        """Return the state of every runner, with the reason of those that failed."""
        return {digest: (one.state, one.reason) for digest, one in self._runners.items()}

    def ready(self) -> list[Runner]:
        """Return the runners that can be reached."""
        return [one for one in self._runners.values() if one.state == "ready"]

    def forget_failure(self, digest: str) -> None:
        """Let a bundle that failed be tried again: somebody has deployed it anew."""
        if digest in self._runners and self._runners[digest].state == "failed":
            del self._runners[digest]

    def keep(self, digests: frozenset[str]) -> list[Runner]:
        """Start the runners that are missing; return those that nobody needs, for `stop` when nobody uses them."""
        for digest in digests - self._runners.keys():
            runner = self._runners[digest] = Runner(digest)
            runner.task = asyncio.create_task(self._run(runner), name=f"runner {digest[:19]}")
        return [self._runners.pop(digest) for digest in list(self._runners) if digest not in digests]

    async def _run(self, runner: Runner) -> None:
        """Verify, then keep the process up until it is ended or given up."""
        directory = self._home.run / runner.digest.removeprefix("sha256:")[:16]
        store, keys = self._home.store(), self._home.keys()
        try:
            runner.bundle = await asyncio.to_thread(prepare, store, runner.digest, keys, directory)
            # Before the first start: all of them then run the bundle alike.
            runner.engine = await self._engines.engine_for(runner.bundle, directory)
        except (BundleError, OSError) as error:
            self._set(runner, "failed", str(error))
            return
        pause, clock = FIRST_PAUSE_SECONDS, asyncio.get_running_loop().time
        while runner.deaths < DEATHS_IN_A_ROW_MAX:
            began = clock()
            try:
                await self._live(runner, directory)
            except (BundleError, OSError, ValueError) as error:
                # ValueError: what it said was no JSON.
                self._set(runner, "failed", str(error))
                return
            if clock() - began > STEADY_SECONDS:
                runner.deaths, pause = 0, FIRST_PAUSE_SECONDS
            runner.deaths += 1
            self._set(runner, "starting", "")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        self._set(runner, "failed", f"its runner died {DEATHS_IN_A_ROW_MAX} times in a row")

    async def _live(self, runner: Runner, directory: Path) -> None:
        """Start the process, check it, and wait for its end. Raises BundleError when it can't serve."""
        self._starts += 1
        path = str(self._sockets / f"{self._starts}.sock")
        runner.process = await asyncio.create_subprocess_exec(
            *process.command(directory, path, engine=runner.engine),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=child_environment(),
        )
        try:
            assert runner.process.stdout is not None, "it was opened as a pipe"
            line = await runner.process.stdout.readline()
            if line:
                await self._admit(runner, json.loads(line), path)
            status = await runner.process.wait()
            log.warning("runner of %s (pid %d) ended: %s", _name(runner), runner.process.pid, why(status))
        finally:
            if runner.process.returncode is None:
                runner.process.kill()
                await runner.process.wait()
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 - no disk is waited for

    async def _admit(self, runner: Runner, answer: dict[str, Any], path: str) -> None:
        """Let a runner have traffic if it reproduces the golden examples of its bundle."""
        if not answer["ready"]:
            raise RunnerFailed(answer["error"])
        assert runner.bundle is not None, "prepared before it was started"
        report = await asyncio.to_thread(_check_golden, runner.bundle, path)
        if not report.agrees:
            raise RunnerFailed(str(report))
        runner.socket, runner.platform, runner.engine = path, answer["platform"], answer["engine"]
        log.info("runner of %s is ready: %s; %s", _name(runner), answer["engine"], report)
        self._set(runner, "ready", "")

    def _set(self, runner: Runner, state: RunnerState, reason: str) -> None:
        if state == "failed":
            log.error("runner of %s: %s", _name(runner), reason)
        runner.state, runner.reason = state, reason
        self._changed()

    async def stop(self, runner: Runner) -> None:
        """End a runner that nobody uses any more."""
        if runner.task is not None:
            runner.task.cancel()
            await asyncio.gather(runner.task, return_exceptions=True)

    async def close(self) -> None:
        """End all runners."""
        await asyncio.gather(*(self.stop(runner) for runner in self._runners.values()))
        shutil.rmtree(self._sockets, ignore_errors=True)
        shutil.rmtree(self._home.run, ignore_errors=True)


def _check_golden(bundle: Bundle, path: str) -> process.GoldenReport:
    connection = process.RunnerConnection(path)
    try:
        return process.reproduces_golden(bundle, connection)
    finally:
        connection.close()


def _name(runner: Runner) -> str:
    return f"{runner.bundle.model if runner.bundle else 'bundle'} {runner.digest[:19]}"

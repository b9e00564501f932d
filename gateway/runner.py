"""One runner that control keeps: a process with one version in it, started, checked, watched and started again.

    starting ─▶ ready        a death: starting again, with a growing pause
    └─────▶ failed           it can't be loaded, or does not reproduce its golden examples
    └─────▶ parked           it died so many times in a row that somebody must look

It is killed, which is a death like any other, when a batch takes longer than `hang_seconds` (a worker says so) and when
it takes more memory than `memory_bytes`.
"""

import asyncio
import json
import logging
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bundles import process
from bundles.bundle import Bundle
from bundles.errors import RunnerFailed, RunnerGone
from bundles.runner.confine import ON
from gateway.children import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, STEADY_SECONDS, why
from gateway.memory import memory_bytes
from gateway.settings import RunnerSettings

log = logging.getLogger("snowgate.control")

SAID_BYTES = 4_096
"""What is kept of the end of its standard error: a traceback, for whoever has to find out why it died."""
MEMORY_SECONDS = 1.0
"""How often its memory is looked at: two small files, some 100 µs."""
END_SECONDS = 10.0
"""How long the kernel may take to end what was killed; a device can hold a process for a while."""

State = Literal["starting", "ready", "failed", "parked"]


@dataclass(frozen=True, slots=True)
class Launch:
    """What every runner of one version is started with."""

    bundle: Bundle
    directory: Path
    engine: str
    settings: RunnerSettings
    python: str


class Runner:
    """One replica of one version. `changed` is called after every change of its state."""

    def __init__(
        self, launch: Launch, number: int, new_folder: Callable[[], Path], changed: Callable[[], None]
    ) -> None:
        self.launch = launch
        self.number = number
        self.device = device_of(number, launch.settings.devices)
        self.socket = ""
        self.state: State = "starting"
        self.reason = ""
        self.platform = ""
        self.engine = ""
        self.confined: dict[str, str] = {}
        self.deaths = 0
        """In a row."""
        self.restarts = 0
        self.memory_bytes = 0
        self._new_folder = new_folder
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._ready_since: float | None = None
        self._killed_for: str | None = None
        self._said = b""
        self._task = asyncio.create_task(self._keep(), name=str(self))

    def __str__(self) -> str:
        """Name it for the log."""
        bundle = self.launch.bundle
        return f"runner {self.number} of {bundle.model} {bundle.digest[:19]}"

    @property
    def said(self) -> str:
        """The end of what it last wrote to its standard error."""
        return self._said.decode(errors="replace").strip()

    async def _keep(self) -> None:
        """Keep the process up until it is ended or given up."""
        settings = self.launch.settings
        clock = asyncio.get_running_loop().time
        pause = FIRST_PAUSE_SECONDS
        while True:
            self._ready_since = self._killed_for = None
            try:
                ended = await self._live()
            except (RunnerFailed, ValueError) as error:  # ValueError: what it said was no JSON.
                self._set("failed", str(error))
                return
            if self._ready_since is not None and clock() - self._ready_since > self._steady_seconds():
                self.deaths, pause = 0, FIRST_PAUSE_SECONDS
            self.deaths += 1
            last = self.said.rpartition("\n")[2]
            ended += f"; the last that it said: {last}" if last else ""
            if self.deaths >= settings.deaths_max:
                self._set("parked", f"its runner died {self.deaths} times in a row, the last time: {ended}")
                return
            log.warning("%s ended: %s; starts again in %.1f s", self, ended, pause)
            self.restarts += 1
            self._set("starting", "")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _steady_seconds(self) -> float:
        """How long it must have lived to count as sound; one that hung did nothing in its last `hang_seconds`."""
        return STEADY_SECONDS + (self.launch.settings.hang_seconds if self._killed_for else 0)

    async def _live(self) -> str:
        """Start the process, check it, wait for its end, and say how it ended. Raises RunnerFailed: it can't serve."""
        # A new one at each start: until it is checked no worker must find it under the name that it had.
        scratch = self._new_folder()
        self.socket = str(scratch / process.SOCKET)
        try:
            scratch.mkdir(mode=0o700)
            self._process = await asyncio.create_subprocess_exec(
                *process.command(
                    self.launch.directory,
                    scratch,
                    self.launch.python,
                    self.launch.engine,
                    self.device,
                    confined=self.launch.settings.confine,
                ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=scratch,
                env=process.environment(scratch, self.device),
                start_new_session=True,
            )
            self._limit_data(self._process.pid)
        except OSError as error:
            return f"it could not be started: {error}"
        listening, weighing = asyncio.create_task(self._listen()), asyncio.create_task(self._weigh())
        try:
            async with asyncio.timeout(self.launch.settings.load_seconds):
                await self._admit(self._process)
            status = await self._process.wait()
            return self._killed_for or why(status)
        except TimeoutError:
            return f"it was not ready within {self.launch.settings.load_seconds:g} s, and killed"
        except RunnerGone as error:
            # It died of its golden examples, or was killed meanwhile: a death, perhaps by chance.
            status = await self._end()
            return self._killed_for or f"{error}: {why(status)}"
        finally:
            await self._end()
            weighing.cancel()
            self.memory_bytes = 0
            await asyncio.wait({listening}, timeout=END_SECONDS)  # What it said last is still in the pipe.
            listening.cancel()
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    def _limit_data(self, pid: int) -> None:
        """Let no single step take it so far beyond its memory that the machine is in trouble before it is weighed."""
        limit = self.launch.settings.memory_bytes
        if limit is not None:
            most = 2 * limit + 2**30  # What is reserved and never touched counts here, so there must be room.
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))

    async def _admit(self, running: asyncio.subprocess.Process) -> None:
        """Wait until it is loaded, and let it have traffic if it reproduces the golden examples of its bundle.

        Raises:
            RunnerFailed: it can't be loaded, or answers otherwise than it did.
            RunnerGone: it died of them.
        """
        assert running.stdout is not None, "it was opened as a pipe"
        line = await running.stdout.readline()
        if not line:
            return  # It ended without a word; how, its status says.
        answer: dict[str, Any] = json.loads(line)
        if not answer["ready"]:
            raise RunnerFailed(answer["error"])
        report = await asyncio.to_thread(_check_golden, self.launch.bundle, self.socket)
        if not report.agrees:
            raise RunnerFailed(str(report))
        self.platform, self.engine, self.confined = answer["platform"], answer["engine"], answer["confined"]
        self._ready_since = asyncio.get_running_loop().time()
        open_ends = "; ".join(f"{kind} {said}" for kind, said in self.confined.items() if said != ON) or "confined"
        log.info("%s (pid %d) is ready: %s; %s; %s", self, running.pid, self.engine, open_ends, report)
        self._set("ready", "")

    async def _listen(self) -> None:
        """Hand on what it writes to its standard error, and keep the end of it."""
        assert self._process is not None, "started before it is listened to"
        assert self._process.stderr is not None, "it was opened as a pipe"
        self._said = b""
        while data := await self._process.stderr.read(SAID_BYTES):
            self._said = (self._said + data)[-SAID_BYTES:]
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()

    async def _weigh(self) -> None:
        """Look at its memory, with that of all it has started, and kill it when that is more than it may have."""
        limit = self.launch.settings.memory_bytes
        while self._process is not None and self._process.returncode is None:
            # On a thread: where forks share pages, counting those once may take a while.
            taken = self.memory_bytes = await asyncio.to_thread(memory_bytes, self._process.pid, limit)
            if limit is not None and taken > limit:
                self.kill(f"it took {taken / 2**20:,.0f} MiB of memory, {limit / 2**20:,.0f} MiB at most are allowed")
                return
            await asyncio.sleep(MEMORY_SECONDS)

    def kill(self, reason: str) -> None:
        """Kill the process, with all that it started; it is started anew."""
        if self._process is not None and self._process.returncode is None:
            log.warning("%s (pid %d) is killed: %s", self, self._process.pid, reason)
            self._killed_for = reason
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _end(self) -> int:
        assert self._process is not None, "only called after it was started"
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return await self._process.wait()

    def _set(self, state: State, reason: str) -> None:
        if state in ("failed", "parked"):
            log.error("%s %s: %s", self, state, reason)
        self.state, self.reason = state, reason
        self._changed()

    async def stop(self) -> None:
        """End it for good."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _check_golden(bundle: Bundle, path: str) -> process.GoldenReport:
    connection = process.RunnerConnection(path)
    try:
        return process.reproduces_golden(bundle, connection)
    finally:
        connection.close()


def device_of(number: int, devices: Sequence[str]) -> str:
    """Return the device of a replica, by its number from 1: they are spread, one a device and then round again.

    >>> [device_of(number, ["cuda:0", "cuda:1"]) for number in (1, 2, 3)]
    ['cuda:0', 'cuda:1', 'cuda:0']
    """
    return devices[(number - 1) % len(devices)]

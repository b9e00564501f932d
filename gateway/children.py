"""The processes that control supervises: started, watched, started again with a growing pause, ended in order."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence

log = logging.getLogger("snowgate.control")

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 10.0
"""A child that lived this long counts as sound: its next death starts with the shortest pause again."""


Command = Callable[[], tuple[Sequence[str], Sequence[int]]]
"""Makes a process's argument list and the descriptors that it inherits, at each start."""


class Child:
    """One supervised process."""

    def __init__(
        self,
        name: str,
        command: Command,
        *,
        on_end: Callable[[int], None] | None = None,
    ) -> None:
        self.name = name
        self.deaths = 0
        self.process: asyncio.subprocess.Process | None = None
        self._command = command
        self._on_end = on_end
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the process and keep it running until `stop`."""
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        pause = FIRST_PAUSE_SECONDS
        while not self._ending:
            began = clock()
            ended = await self._live()
            if self._ending:
                return
            self.deaths += 1
            if clock() - began > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log.warning("%s %s; starts again in %.1f s", self.name, ended, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _live(self) -> str:
        """Start the process, wait for its end, and say how it ended."""
        try:
            arguments, descriptors = self._command()
            self.process = await asyncio.create_subprocess_exec(
                *arguments,
                pass_fds=tuple(descriptors),
                stdin=asyncio.subprocess.DEVNULL,
                env=child_environment(),
            )
        except OSError as error:
            return (
                f"could not be started: {error}"  # No memory, no process or no descriptor left: perhaps for a moment.
            )
        status = await self.process.wait()
        if self._on_end is not None:
            self._on_end(status)
        return f"(pid {self.process.pid}) ended: {why(status)}"

    async def stop(self, grace_seconds: float) -> None:
        """Ask the process to end, wait, and insist when the grace time is over."""
        self._ending = True
        if self._task is None:
            return
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        else:
            self._task.cancel()
        _done, waiting = await asyncio.wait({self._task}, timeout=grace_seconds)
        if waiting and self.process is not None:
            log.warning("%s (pid %d) did not end within %.0f s, killed", self.name, self.process.pid, grace_seconds)
            self.process.kill()
            await asyncio.wait({self._task})


def always(words: Sequence[str]) -> Command:
    """Return the command that is the same at each start, and inherits nothing."""
    return lambda: (words, ())


def why(status: int) -> str:
    """Say how a process ended.

    >>> why(-9), why(1)
    ('killed by SIGKILL', 'exit status 1')
    """
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def child_environment() -> dict[str, str]:
    """The environment of a child: ours without anything of Snowgate's own, which may hold secrets."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SNOWGATE_")}

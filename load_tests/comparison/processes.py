"""Processes that a comparison starts: pinned, in a tree of their own, counted whole, and ended whole."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from load_tests.comparison import keeper

TICKS = os.sysconf("SC_CLK_TCK")
GRACE_SECONDS = 15.0  # Snowgate drains for up to 20 s, but nothing is in flight when a comparison ends.


def process_seconds(pid: int) -> float:
    """Return the CPU time of a process and of its children that ended; 0 when it is gone (its parent has it then)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS  # utime, stime, cutime, cstime: fields 14 to 17 of proc(5)


def tree_seconds(root: int) -> float:
    """Return the CPU time of a whole tree, what has ended included."""
    return sum(map(process_seconds, [root, *keeper.descendants(root)]))


def machine_seconds() -> float:
    """Return the CPU time that all of the machine was busy, time that a hypervisor took included."""
    first = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first)
    return (user + nice + system + irq + softirq + steal) / TICKS


def tree_memory(root: int) -> int:
    """Return the memory of a tree in bytes, what processes share counted once (proportional set size)."""
    total = 0
    for pid in [root, *keeper.descendants(root)]:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def pinned(command: Sequence[str], cpus: Sequence[int]) -> list[str]:
    """Return the command that runs on these CPUs only, with all that it starts."""
    return ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command]


class Kept:
    """A command under a keeper. Its output goes to a file; `stop` leaves no process of it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cpus: Sequence[int],
        log: Path,
        variables: Mapping[str, str],
        folder: Path | None = None,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self.log = log
        self._grace = grace
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                pinned([sys.executable, "-I", keeper.__file__, str(grace), *command], cpus),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=dict(variables),
                cwd=folder,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, once it has ended."""
        return self._process.poll()

    def tail(self, characters: int = 2000) -> str:
        """Return the end of what it said."""
        return self.log.read_text(errors="replace")[-characters:]

    def stop(self) -> None:
        """End the whole tree; returns when it is gone."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(self._grace + 10.0)
        except subprocess.TimeoutExpired:
            for pid in [*keeper.descendants(self.pid), self.pid]:
                os.kill(pid, signal.SIGKILL)
            self._process.wait()

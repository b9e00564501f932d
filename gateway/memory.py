"""What a runner's memory is: its own and that of all processes that it has started, as killing them would give it back.

Anonymous, shared (as in /dev/shm) and swapped-out pages. Pages of files (a framework's libraries, weights that are
mapped) are left out: replicas share them, and the kernel takes them back when it needs room.

Read from `status`, which costs a small file a process. A page that a process shares with its forks counts there in each
of them; only when that makes too much is it counted once, from `smaps_rollup`, which walks all page tables:
milliseconds a gigabyte, with the process's memory locked.
"""

from collections.abc import Iterable
from pathlib import Path

PROCESSES_MAX = 1_024
"""Looked at of one runner; a model that starts more has other troubles."""


def memory_bytes(pid: int, limit: int | None = None) -> int:
    """Return the memory of a process and of all that it has started; 0 when it is gone.

    Above `limit`, and only there, pages that several of them share count once.
    """
    processes = started_by(pid)
    most = sum(_summed(one, "status", ("RssAnon", "RssShmem", "VmSwap")) for one in processes)
    if limit is None or most <= limit or len(processes) == 1:
        return most
    once = [_summed(one, "smaps_rollup", ("Pss_Anon", "Pss_Shmem", "SwapPss")) for one in processes]
    return sum(once) if all(once) else most  # A kernel that does not say so leaves the other count.


def started_by(pid: int) -> list[int]:
    """Return a process and all those that it and they have started, as far as their parents still live."""
    found = [pid]
    for one in found:
        try:
            children = [int(child) for task in Path(f"/proc/{one}/task").iterdir() for child in _words(task)]
        except OSError:
            continue  # It ended meanwhile.
        found += children[: PROCESSES_MAX - len(found)]
    return found


def _words(task: Path) -> list[str]:
    return (task / "children").read_text().split()


def _summed(pid: int, file: str, names: Iterable[str]) -> int:
    """Add up some fields of a process's file, which are in kB; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.partition(":")[::2] for line in lines)
    return sum(int(fields[name].split()[0]) * 1024 for name in names if name in fields)

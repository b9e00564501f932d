"""Stand above one server: every process that it starts stays below this one, and ends with it.

    python keeper.py GRACE_SECONDS COMMAND ARGUMENT…

A server may leave processes behind, or start some that leave it (double forks). The keeper is their reaper in the
kernel's sense (`PR_SET_CHILD_SUBREAPER`): whoever loses its parent becomes the keeper's child, so that its CPU time is
counted and its end is certain. SIGTERM ends the command, which has a grace for it; then everything that is left. If
whoever started the keeper dies, the same happens. It sleeps but for that.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.02
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def descendants(root: int) -> list[int]:
    """Return every living process below `root`, parents first."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                parent = int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(process.name))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def reap() -> list[int]:
    """Collect children that have ended, without waiting; return their ids."""
    ended: list[int] = []
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended.append(pid)


def kill_all() -> None:
    """Kill whatever is left, until nothing is."""
    while left := descendants(os.getpid()):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(POLL_SECONDS)


def main() -> int:
    """Run the command, and return its exit status."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    grace = float(sys.argv[1])
    child = subprocess.Popen(sys.argv[2:])

    def end(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while child.pid not in reap() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        kill_all()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            kill_all()
            return os.waitstatus_to_exitcode(status) & 255


if __name__ == "__main__":
    sys.exit(main())

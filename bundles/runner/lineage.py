"""A child's life is tied to its parent's: nothing serves, or tries, that nobody supervises."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Tie this process's life to the process that started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may have died before the line above.
    if os.getppid() != parent:
        sys.exit(f"runner: the parent process {parent} is gone")

"""Children die with their parent, whatever the parent dies of.

The kernel is asked to send SIGKILL when the parent ends (`prctl(PR_SET_PDEATHSIG)`, Linux). Between the fork and that
call the parent may already be gone, so its pid is checked after.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Tie this process's life to the process `parent`, which must be the one that started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(f"snowgate: the parent process {parent} is gone, this child ends too")

import os
import subprocess
import sys
from pathlib import Path

from load_tests.comparison import keeper
from load_tests.comparison.processes import Kept, machine_seconds, tree_memory, tree_seconds
from tests.conftest import wait_until

CPU = sorted(os.sched_getaffinity(0))[:1]
BURN = """
import os, subprocess, sys, time
while time.process_time() < 0.3:
    pass
open(sys.argv[1], "a").write("burnt\\n")
"""
ORPHAN = """
import os, subprocess, sys
# A child that starts a grandchild in a session of its own, and ends: nobody but a subreaper finds that one again.
child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], " \\
        "start_new_session=True)"
subprocess.run([sys.executable, "-c", child], check=True)
open(sys.argv[1], "a").write("left\\n")
__import__("time").sleep(600)
"""
STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "a").write("deaf\\n")
time.sleep(600)
"""


def start(folder: Path, program: str, grace: float = 15.0) -> tuple[Kept, Path]:
    """Run a program under a keeper; return it and the file that it writes a word to."""
    said = folder / "said"
    command = [sys.executable, "-c", program, str(said)]
    return Kept(command, cpus=CPU, log=folder / "log", variables=dict(os.environ), grace=grace), said


def test_cpu_time_of_children_that_ended_is_counted(tmp_path: Path) -> None:
    """A tree's CPU time holds what a child of it spent before it ended and was gone from /proc."""
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}, sys.argv[1]]); input()"
    kept, said = start(tmp_path, program.replace("input()", "__import__('time').sleep(600)"))
    try:
        wait_until(said.exists, what="the child's end")
        wait_until(lambda: len(keeper.descendants(kept.pid)) == 1, what="only the parent is left")
        spent = tree_seconds(kept.pid)
        assert spent >= 0.28, tree_seconds(kept.pid)
        assert spent <= machine_seconds()
        assert tree_memory(kept.pid) > 4 * 1024 * 1024
    finally:
        kept.stop()


def test_processes_that_leave_are_ended_too(tmp_path: Path) -> None:
    """A grandchild with a session of its own, whose parent ended, is still found, and gone after `stop`."""
    kept, said = start(tmp_path, ORPHAN)
    try:
        wait_until(lambda: said.exists() and len(keeper.descendants(kept.pid)) == 2, what="the orphan")
        pids = keeper.descendants(kept.pid)
    finally:
        kept.stop()
    assert kept.status == 0
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_a_command_that_ends_says_so(tmp_path: Path) -> None:
    """The keeper ends with the command's exit status, and keeps what it said."""
    kept, _said = start(tmp_path, "print('so long'); raise SystemExit(7)")
    wait_until(lambda: kept.status is not None, what="the end")
    assert (kept.status, kept.tail()) == (7, "so long\n")
    kept.stop()


def test_who_does_not_listen_is_killed(tmp_path: Path) -> None:
    """A command that ignores SIGTERM is gone when the grace is over."""
    kept, said = start(tmp_path, STUBBORN, grace=0.2)
    wait_until(said.exists, what="the handler")
    pids = keeper.descendants(kept.pid)
    kept.stop()
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_nothing_outlives_whoever_started_it(tmp_path: Path) -> None:
    """When a comparison is killed with SIGKILL, its servers end by themselves."""
    program = f"""
import os, sys, time
from pathlib import Path
from load_tests.comparison.processes import Kept
command = [sys.executable, "-c", "import time; time.sleep(600)"]
kept = Kept(command, cpus={CPU}, log=Path({str(tmp_path)!r}) / "log", variables=dict(os.environ))
print(kept.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        keeper_pid = int(starter.stdout.readline())
        (pid,) = wait_until(lambda: keeper.descendants(keeper_pid), what="the command")
        starter.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the command's end")

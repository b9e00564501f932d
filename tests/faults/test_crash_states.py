"""Every disk that a crash may leave: what was synced, and of what was not any part, down to single sectors.

A writer is traced once; then the crash happens at random moments between any two of its calls to the kernel, and each
time the disk is another one of those that may be there. It needs no rights, and is crueller than file systems are.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from monitors.log.errors import LogCorrupt
from monitors.log.recovery import recover_all
from tests.conftest import wait_until
from tests.faults.crash_states import CALLS, Call, Disk, calls
from tests.faults.evidence import Figures, rounds
from tests.faults.test_log_faults import PROGRAM, ROOT

Trace = tuple[list[tuple[Call, bool, bool]], Path]
LINES = 600
"""Ids that the traced writer tells before it is killed: some sixty frames, in a dozen segments."""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The steps of a writer: its calls that have to do with its folder or tell ids; and that folder."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("not run: no strace; on Debian and Ubuntu: apt-get install strace")
    folder = tmp_path_factory.mktemp("traced")
    # -D: the writer is our child, and strace its own.
    command = [program, "-D", "-f", "-y", "-xx", "-s", "1000000", "-o", str(folder / "trace"), "-e", f"trace={CALLS}"]
    command += [sys.executable, str(PROGRAM), str(folder / "log"), "w0", "30000", "0"]
    writer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write(b"stream\n")
    writer.stdin.flush()
    if not all(writer.stdout.readline() for _ in range(LINES)):
        pytest.skip("not run: strace may not trace here")
    writer.kill()
    writer.communicate(timeout=30)
    trace = folder / "trace"
    wait_until(lambda: b"+++ killed by SIGKILL +++" in trace.read_bytes()[-500:], what="the end of the trace")
    written = folder / "log" / "w0"
    here = str(written).encode()
    steps = [step for step in calls(trace) if step[0].name == "write" or any(here in one for one in step[0].words)]
    return steps, written


def crash(trace: Trace, home: Path, chance: random.Random, *, syncs: bool = True) -> list[str]:
    """Let a crash happen at a random moment; write what is left to a folder, and return the ids told before it."""
    steps, folder = trace
    disk = Disk(folder, syncs=syncs)
    ends: dict[int, Callable[[], None]] = {}
    for call, begins, ends_well in steps[: chance.randint(len(steps) // 20, len(steps))]:
        if begins:
            ends[id(call)] = disk.begin(call)
        if ends_well:
            ends.pop(id(call))()
    (home / "w0").mkdir(parents=True)
    disk.write(home / "w0", chance)
    return disk.told.decode().rpartition("\n")[0].split()


def test_whatever_is_left_holds_what_was_told(trace: Trace, tmp_path: Path, figures: Figures) -> None:
    """Recovery finds every id that was told before the crash, calls nothing damaged, and the chain holds."""
    chance = random.Random(14)
    for number in range(rounds(40)):
        told = crash(trace, tmp_path / str(number), chance)
        assert recover_all(tmp_path / str(number)) == []
        figures.check_ids(tmp_path / str(number), told)
        shutil.rmtree(tmp_path / str(number))
        figures.rounds += 1
    assert len(figures.ids) > LINES / 2


def test_without_syncs_something_is_lost(trace: Trace, tmp_path: Path) -> None:
    """The same crash of a writer whose syncs count for nothing is found out: the test can fail."""
    chance = random.Random(15)
    told = crash(trace, tmp_path, chance, syncs=False)
    assert told
    recover_all(tmp_path)
    with pytest.raises((AssertionError, LogCorrupt)):
        Figures().check_ids(tmp_path, told)

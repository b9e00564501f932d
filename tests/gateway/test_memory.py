"""What a process and all that it has started take of the memory, with real processes that take some."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.memory import memory_bytes, started_by

MIB = 2**20
TAKING = """
import os, subprocess, sys, threading
own = bytearray(b"x" * (64 << 20))
again = "import sys; own = bytearray(b'x' * (64 << 20)); print('up', flush=True); sys.stdin.read()"
def other():
    child = subprocess.Popen([sys.executable, "-c", again], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    print("up", flush=True)
    child.wait()
def fork():
    if os.fork() == 0:
        print("up", flush=True)
        sys.stdin.read()
        os._exit(0)
    os.wait()
"""


@contextmanager
def taking(started: str) -> Iterator[int]:
    """A process that takes 64 MiB, and starts another one; its id. It ends when its standard input does."""
    running = subprocess.Popen(
        [sys.executable, "-c", f"{TAKING}\n{started}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    try:
        assert running.stdout.readline() == "up\n"
        yield running.pid
    finally:
        for pid in reversed(started_by(running.pid)):
            os.kill(pid, 9)
        running.communicate(timeout=20)


@pytest.mark.parametrize(
    "started", ["other()", "thread = threading.Thread(target=other); thread.start(); thread.join()"]
)
def test_what_was_started_counts(started: str) -> None:
    """The memory of a child is added, whichever thread has started it, under a limit and without one."""
    with taking(started) as pid:
        assert len(started_by(pid)) == 2
        assert 128 * MIB < memory_bytes(pid) < 200 * MIB
        assert 128 * MIB < memory_bytes(pid, 100 * MIB) < 200 * MIB


def test_what_forks_share_counts_once_where_it_matters() -> None:
    """A fork's pages are its parent's until one writes: below the limit they count twice, above it they do not."""
    with taking("fork()") as pid:
        assert 128 * MIB < memory_bytes(pid) < 200 * MIB
        assert 128 * MIB < memory_bytes(pid, 2**30) < 200 * MIB
        assert 64 * MIB < memory_bytes(pid, 100 * MIB) < 100 * MIB


def test_what_is_gone_takes_nothing() -> None:
    """A process that has ended is no error."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(20)
    assert memory_bytes(ended.pid) == 0

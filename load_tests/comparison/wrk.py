"""The load generator: wrk, one thread, a closed loop over keep-alive connections, one body repeated.

The request is made once, so that what the generator costs does not depend on the body. Its latencies are corrected for
what a stalled connection did not send, as wrk does by itself.
"""

import json
import resource
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from load_tests.comparison.processes import pinned

TIMEOUT_SECONDS = 20  # Ray Serve needs up to a second and a half for the slowest of 64 answers.
SCRIPT = Path(__file__).with_name("report.lua")


class LoadError(Exception):
    """wrk failed, or said nothing that can be read; the text holds what it said."""


@dataclass(frozen=True)
class Report:
    """What wrk saw, and the CPU time that it took itself."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    bad_status: int
    broken: int
    timeouts: int
    own_cpu_seconds: float = 0.0

    @property
    def complaint(self) -> str | None:
        """Why this is no measurement, or None."""
        named = {"answers were not 2xx": self.bad_status, "sockets broke": self.broken, "timed out": self.timeouts}
        said = [f"{count} {what}" for what, count in named.items() if count]
        if not self.requests:
            said.append("nothing was answered")
        return f"{'; '.join(said)} (of {self.requests})" if said else None


def parse(output: str) -> Report:
    r"""Read the line of JSON that the script writes after wrk's own report.

    >>> parse('Running…\n{"requests": 10, "seconds": 2.0, "p50_ms": 1.5, "p99_ms": 3.0,'
    ...       ' "bad_status": 0, "broken": 0, "timeouts": 1}\n').complaint
    '1 timed out (of 10)'
    """
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise LoadError(f"wrk wrote no result, but: {output[-500:] or 'nothing'}")
    return Report(**json.loads(lines[-1]))


def drive(
    url: str, body: Path, headers: Mapping[str, str], *, concurrency: int, seconds: int, cpus: Sequence[int]
) -> Report:
    """Send the body for so long (wrk knows whole seconds) over so many connections, and report."""
    named = [part for header in headers.items() for part in header]
    options = ["--threads", "1", "--connections", str(concurrency), "--duration", f"{seconds}s"]
    options += ["--timeout", f"{TIMEOUT_SECONDS}s", "--script", str(SCRIPT), url, "--", str(body), *named]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = pinned(["wrk", *options], cpus)
    limit = seconds + TIMEOUT_SECONDS + 30
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        raise LoadError(f"wrk was to end after {seconds} s, and had not after {limit} s") from None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise LoadError(f"wrk ended with {done.returncode}: {done.stderr[-500:]}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Report(**{**vars(parse(done.stdout)), "own_cpu_seconds": spent})

"""Where a comparison ran: the machine, its kernel, its disk."""

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

SYNC_BYTES = 4096
SYNCS = 200  # 0.1 ms to 5 ms each: one second at most


def describe(folder: Path) -> dict[str, Any]:
    """Describe the machine, and the file system of a folder."""
    cpu = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 1024**2, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": file_system(folder),
    }


def checkout() -> str:
    """Return the commit of this checkout, with `-dirty` when files were changed; or that there is none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "no git checkout"
    return f"commit {found}"


def file_system(folder: Path) -> str:
    """Return the type of the file system on which a folder lies."""
    mounts = [line.split() for line in _lines("/proc/mounts")]
    holding = [one for one in mounts if folder.resolve().is_relative_to(one[1])]
    return max(holding, key=lambda one: len(one[1]))[2] if holding else "unknown"


def durable_sync_ms(folder: Path) -> dict[str, float]:
    """Measure what one durable write of 4 KB costs in a folder: quantiles of fdatasync, in milliseconds.

    The file has its size before, as segments of the prediction log do: only data goes to the disk.
    """
    path = folder / "sync"
    times = []
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(file, bytes(SYNC_BYTES * SYNCS), 0)
        os.fsync(file)
        for number in range(SYNCS):
            began = time.perf_counter()
            os.pwrite(file, b"x" * SYNC_BYTES, number * SYNC_BYTES)
            os.fdatasync(file)
            times.append((time.perf_counter() - began) * 1e3)
    finally:
        os.close(file)
        path.unlink()
    return {"p50": round(float(np.quantile(times, 0.5)), 3), "p99": round(float(np.quantile(times, 0.99)), 3)}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    shutil.which("wrk") is None or len(os.sched_getaffinity(0)) < 2, reason="needs wrk (apt-get install wrk) and 2 CPUs"
)


def run(script: str, *words: str, cache: Path) -> tuple[list[dict[str, Any]], str]:
    """Run a script as a user does, outside of the checkout; return its rows and its progress."""
    command = [sys.executable, str(ROOT / "load_tests" / script), *words, "--cache", str(cache), "-o", "json"]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=110, cwd=cache.parent, env=variables
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def processes_naming(folder: Path) -> list[str]:
    """Return the command lines of running processes that name a folder, as a gateway's and its children's do."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                found.append((process / "cmdline").read_bytes().decode(errors="replace"))
    return [one for one in found if str(folder) in one]


def test_snowgate_is_measured_with_its_log_and_monitor_on(tmp_path: Path) -> None:
    """One short point of a real gateway: right answers, all columns, the monitor read every answer, all gone."""
    words = "--peers snowgate --models mlp --bodies json --cores 1 --concurrency 4 --rounds 1 --seconds 1"
    rows, progress = run("compare.py", *words.split(), cache=tmp_path / "cache")
    (row,) = rows
    assert (row["server"], row["model"], row["body"]) == ("snowgate", "mlp", "json")
    assert (row["cores"], row["concurrency"], row["log"], row["monitor"]) == (1, 4, "commit", True)
    assert (row["error"], row["rounds"]) == (None, 1)
    for name in ("requests_per_second", "p50_ms", "p99_ms", "cpu_us_per_request"):
        assert row[name] > 0, name
    assert row["p99_ms"] >= row["p50_ms"]
    assert row["durable_sync_ms"]["p99"] >= row["durable_sync_ms"]["p50"] > 0
    assert "snowgate mlp json 1 core c4" in progress
    assert list((tmp_path / "cache").iterdir()) == [], "the run's folder is gone"
    assert processes_naming(tmp_path) == [], "no process is left"


def test_arrivals_are_measured_in_an_open_loop(tmp_path: Path) -> None:
    """Growth finds a capacity, then lets calls arrive at shares of it; every row has its quantiles."""
    words = "--experiments arrivals --seconds 1"
    rows, _progress = run("growth.py", *words.split(), cache=tmp_path / "cache")
    assert [(row["experiment"], row["value"], row["error"]) for row in rows] == [
        ("arrivals", 100, None),
        ("arrivals", 50, None),
        ("arrivals", 80, None),
        ("arrivals", 95, None),
    ]
    for row in rows[1:]:
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"]
        assert row["late_p99_ms"] >= 0
    assert list((tmp_path / "cache").iterdir()) == []

"""`load_tests/log.py` measures the log that the gateway writes, and prints what scripts read."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "load_tests" / "log.py"


def test_both_stores_are_measured_at_every_point(tmp_path: Path) -> None:
    """A very short run: a row for each store, size and number of writers, with numbers; the folder is gone after."""
    command = [sys.executable, str(SCRIPT), "--quick", "--rounds", "1", "--seconds", "0.02", "-o", "json"]
    done = subprocess.run(
        [*command, "--cache", str(tmp_path)], capture_output=True, text=True, check=False, timeout=110, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    points = {(row["store"], row["payload_bytes"], row["writers"]) for row in rows}
    wanted = {
        (store, size, writers)
        for store in ("segments", "sqlite", "none")
        for size in (1_024, 12_288)
        for writers in (1, 16, 64, 256)
    }
    assert points == wanted
    assert all(row["records_per_second"] > 0 and row["cpu_us_per_record"] > 0 for row in rows)
    assert list(tmp_path.iterdir()) == []


def test_a_log_at_rest_is_measured(tmp_path: Path) -> None:
    """A small one: every id that is looked up is found, and each walk meets every record, or there is no number."""
    command = [sys.executable, str(SCRIPT), "--experiments", "rest", "--records", "2000", "-o", "json"]
    done = subprocess.run(
        [*command, "--cache", str(tmp_path)], capture_output=True, text=True, check=False, timeout=110, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = {row["operation"]: row for row in json.loads(done.stdout)}
    assert rows["find"]["p99_ms"] >= rows["find"]["p50_ms"] > 0
    assert rows["verify"]["cpu_us_per_record"] > 0

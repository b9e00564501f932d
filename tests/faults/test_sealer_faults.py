"""The sealer is killed at any moment: each record is in one place for who asks, and once in Parquet at the end."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.dataset

from bundles.home import Home
from monitors.log.listing import rows
from monitors.log.manifest import Manifest
from monitors.log.question import Question
from monitors.log.reader import LogReader
from tests.faults.evidence import Figures, rounds
from tests.monitors.log.archive import seal_all, sealer, write
from tests.monitors.log.logbook import record

PROGRAM = Path(__file__).with_name("log_sealer.py")
ROOT = Path(__file__).parents[2]


def killed(home: Home, seconds: float) -> None:
    """Start a sealer and kill it so long after it has begun."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(home.path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begins\n"
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


def test_kill_9_of_the_sealer_at_any_moment(tmp_path: Path, figures: Figures) -> None:
    """After each kill each record is listed once; in the end others find each once in the folder of Parquet."""
    chance, home = random.Random(8), Home(tmp_path / "home").make()
    ids: list[str] = []
    for name in ("w0", "w1"):
        made = [[record(data=chance.randbytes(1_000)) for _ in range(4)] for _ in range(100)]
        for place, batch in enumerate(made):
            for one in batch:
                one.model = ("signs", "speed")[place % 2]
        ids += write(home.log, made, name)
    sealed = 0
    for _ in range(rounds(3)):
        killed(home, chance.uniform(0, 0.3))
        figures.rounds += 1
        found = rows(home.log, Question(limit=10_000), 1 << 28)
        assert sorted(one["prediction_id"] for one in found) == sorted(ids)
        for name in chance.sample(ids, 10):
            assert LogReader(home.log).find(name) is not None
        with Manifest(home.log) as manifest:
            sealed = len(manifest.segments())
    seal_all(sealer(home))
    figures.check_ids(home.log, ids)
    with Manifest(home.log) as manifest:
        assert len(manifest.segments()) >= sealed
        assert manifest.totals()["rows"] == len(ids)
    asked = "SELECT prediction_id FROM read_parquet($1, union_by_name = true)"
    found_by_duckdb = duckdb.execute(asked, [f"{home.log}/parquet/**/*.parquet"]).fetchall()
    assert sorted(one for (one,) in found_by_duckdb) == sorted(ids)
    table = pyarrow.dataset.dataset(home.log / "parquet", partitioning="hive").to_table(
        columns=["prediction_id", "model"]
    )
    assert sorted(table.column("prediction_id").to_pylist()) == sorted(ids)
    left = [path for path in home.log.rglob("*") if path.suffix in {".new", ".seg"}]
    assert left == []

"""What does it cost to have a prediction on the disk before its answer leaves?

    python load_tests/log.py [--quick] [--experiments write,rest] [--records N] [-o json]

`write`: so many writers at once, each of which waits until its record is durable and then has the next one, as the
calls of a worker do; through the gateway's own ledger, and through SQLite (WAL, synchronous=FULL) in the same place. In
interleaved rounds; medians. `rest`: a log of N records over a hundred days, then looking up ids in it, reading all of
it, checking it, sealing it, and asking DuckDB; ten million take 10 GB and the better part of an hour. What the columns
mean is in docs/performance.md. The result goes to standard output, progress to standard error.
"""

import argparse
import asyncio
import gc
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

# In place of this script's folder, where `log.py` lies beside modules that it must not hide.
sys.path[0] = str(Path(__file__).parents[1])

import apsw
import uvloop

from gateway.steps import Step, start
from load_tests import at_rest
from load_tests.comparison.machine import checkout, describe, durable_sync_ms
from load_tests.comparison.table import add_output, publish
from load_tests.ledgers import STORES, Store, made

CACHE = Path("~/.cache/snowgate-log")
WRITERS = (1, 16, 64, 256)
PAYLOADS = (1_024, 12_288)
RECORDS = 1_000_000
Row = dict[str, Any]


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


async def write(store: Store, payload_bytes: int, writers: int, seconds: float) -> tuple[float, float]:
    """Let writers wait for their records; return records a second, and microseconds of this process's CPU a record."""
    pool = [os.urandom(payload_bytes) for _ in range(64)]
    ending, ended = False, asyncio.Event()
    count, running = 0, writers

    async def one_writer(number: int) -> None:
        nonlocal count, running
        while not ending:
            await store.append(made(pool[number % 64]), lone=writers == 1)
            count += 1
            number += 1
            if writers == 1 and number % 16 == 0:
                # A lone record is durable at once; without a turn of the loop the end would not be heard.
                await turn()
        running -= 1
        if not running:
            ended.set()

    def turn() -> Step:
        step = Step()
        asyncio.get_running_loop().call_soon(step.complete)
        return step

    began, spent = time.perf_counter(), time.process_time()
    for number in range(writers):
        start(one_writer(number))
    await asyncio.sleep(seconds)
    ending = True
    await ended.wait()
    return count / (time.perf_counter() - began), (time.process_time() - spent) / count * 1e6


def measure_writes(work: Path, *, rounds: int, seconds: float) -> list[Row]:
    """Measure every store at every point, one after the other, and that so many times; return medians."""
    points = [(payload, writers, name) for payload in PAYLOADS for writers in WRITERS for name in STORES]
    found: dict[tuple[int, int, str], list[tuple[float, float]]] = {point: [] for point in points}

    async def measure(name: str, payload: int, writers: int) -> tuple[float, float]:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            store = STORES[name](Path(folder))
            try:
                return await write(store, payload, writers, seconds)
            finally:
                store.close()

    gc.collect()
    gc.freeze()  # As the worker does.
    gc.set_threshold(50_000)
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for payload, writers, name in points:
            found[payload, writers, name].append(uvloop.run(measure(name, payload, writers)))
    rows = []
    for (payload, writers, name), values in found.items():
        rate, cost = (median(one) for one in zip(*values, strict=True))
        row = {"store": name, "payload_bytes": payload, "writers": writers, "rounds": rounds}
        rows.append(row | {"records_per_second": round(rate, 1), "cpu_us_per_record": round(cost, 2)})
    return rows


def document(rows: Sequence[Row], heading: Sequence[str]) -> str:
    """Return a Markdown document: the heading's lines as a list, then the tables."""
    parts = ["# The prediction log", "\n".join(f"- {line}" for line in heading)]
    for payload in PAYLOADS:
        chosen = [row for row in rows if "writers" in row and row["payload_bytes"] == payload]
        if chosen:
            parts += [f"## Records with {payload // 1024} KB of input", writes_table(chosen)]
    rest = [row for row in rows if "operation" in row]
    if rest:
        parts += [
            f"## {rest[0]['records']:,} records with {rest[0]['payload_bytes']} bytes of input, at rest",
            rest_table(rest),
        ]
    return "\n\n".join(parts) + "\n"


def writes_table(rows: Sequence[Row]) -> str:
    """Return the stores side by side, a line for each number of writers."""
    found = {(row["store"], row["writers"]): row for row in rows}
    names = [f"{store}, {unit}" for unit in ("records/s", "CPU µs a record") for store in STORES]
    lines = [f"| writers | {' | '.join(names)} |", f"|{'---:|' * (len(names) + 1)}"]
    for writers in WRITERS:
        cells = [f"{found[store, writers]['records_per_second']:,.0f}" for store in STORES]
        cells += [f"{found[store, writers]['cpu_us_per_record']:,.1f}" for store in STORES]
        lines.append(f"| {writers} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rest_table(rows: Sequence[Row]) -> str:
    """Return a line for each operation."""
    lines = ["| | all of it, seconds | CPU µs a record | one of them, ms (p50, p99) |", "|---|---:|---:|---:|"]
    for row in rows:
        if "p50_ms" in row:
            cells = ["", "", f"{row['p50_ms']}, {row['p99_ms']}"]
        elif "seconds" in row:
            cost = row.get("cpu_us_per_record")
            cells = [f"{row['seconds']:,.1f}", "" if cost is None else f"{cost:,.1f}", ""]
        else:
            continue
        lines.append(f"| {row['operation']} | {' | '.join(cells)} |")
    [size] = [row for row in rows if row["operation"] == "size"]
    written = "{segments:,} segments take {segment_bytes:,} bytes, {files:,} files of Parquet {file_bytes:,}".format(
        **size
    )
    return "\n".join([*lines, "", f"Sealed, {written}. Memory: at most {size['memory_mib_max']:,} MiB."])


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--experiments", metavar="A,B", help="of write, rest  [default: both; with --quick: write]")
    add("--quick", action="store_true", help="points of 0.4 s, two rounds")
    add("--rounds", type=int, help="how often each point is measured  [default: 5]")
    add("--seconds", type=float, help="length of a point  [default: 2]")
    add("--records", type=int, default=RECORDS, metavar="N", help=f"size of the log at rest  [default: {RECORDS:_}]")
    add("--cache", type=Path, default=CACHE, help=f"where the run has its folder  [default: {CACHE}]")
    add_output(parser)
    found = parser.parse_args()
    found.experiments = (found.experiments or ("write" if found.quick else "write,rest")).split(",")
    if not {"write", "rest"} >= set(found.experiments):
        parser.error(f"--experiments: {', '.join(found.experiments)}; expected some of write, rest")
    found.rounds = found.rounds or (2 if found.quick else 5)
    found.seconds = found.seconds or (0.4 if found.quick else 2.0)
    return found


def main() -> int:
    """Measure and print."""
    chosen = arguments()
    cache = chosen.cache.expanduser().absolute()
    cache.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    # In the cache's folder and not in /tmp, which may be memory: what is durable must cost what it costs.
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache) as folder:
        work = Path(folder)
        if "write" in chosen.experiments:
            rows += measure_writes(work, rounds=chosen.rounds, seconds=chosen.seconds)
        if "rest" in chosen.experiments:
            rows += [{"store": "segments"} | row for row in at_rest.measure(work / "log", chosen.records, say)]
        machine = "{cpu}, {cpus} CPUs, {memory_gib} GiB, Linux {kernel}, {file_system}".format(**describe(work))
        python, sync = describe(work)["python"], durable_sync_ms(work)
    length = f"{chosen.rounds} rounds, points of {chosen.seconds} s"
    heading = [
        f"{machine}, {time.strftime('%Y-%m-%d')}, {checkout()}",
        f"Python {python}, SQLite {apsw.sqlite_lib_version()} by apsw {apsw.apsw_version()}",
        f"`{shlex.join(['python', 'load_tests/log.py', *sys.argv[1:]])}`",
        f"{length}; fdatasync of 4 KB: p50 {sync['p50']} ms, p99 {sync['p99']} ms",
    ]
    publish({"json": json.dumps(rows, indent=2) + "\n", "markdown": document(rows, heading)}, chosen)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

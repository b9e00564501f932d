"""A large log, made fast: how long a look-up, a walk, a question and sealing take in it.

    python load_tests/large_log.py --records 10000000 --directory /var/tmp/large -o json

`fill` writes a log as the gateway would, but without waiting for the disk; it can be used from elsewhere.
"""

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

from monitors.log import record as records
from monitors.log.frame import MARKER_BYTES, decode_start, encode_frame
from monitors.log.listing import rows
from monitors.log.manifest import Manifest
from monitors.log.projection import parquet_writer, project
from monitors.log.question import Question
from monitors.log.reader import LogReader
from monitors.log.record import Payload, Record, Tensor, new_id
from monitors.log.sealing import seal_segment
from monitors.log.segment import (
    HEADER_BYTES,
    NO_DIGEST,
    Mark,
    SegmentHeader,
    create_segment,
    numbers,
    write_mark,
    writers,
)

DAYS = 100
FRAME_RECORDS = 32
SEGMENT_BYTES = 64 * 1024 * 1024


def fill(directory: Path, count: int, *, features: int = 20, days: float = DAYS, chance: random.Random) -> list[str]:
    """Write records of one writer over some days up to now, in closed segments; return a sample of a thousand ids."""
    (directory / "w0").mkdir(parents=True)
    now = time.time_ns()
    first, step = now - int(days * 86_400e9), int(days * 86_400e9) // count
    every = max(1, count // 1_000)
    sample: list[str] = []
    mark, descriptor, number, marker = Mark(HEADER_BYTES, 0, NO_DIGEST), -1, 0, b""
    for begin in range(0, count, FRAME_RECORDS):
        if descriptor < 0 or mark.end >= SEGMENT_BYTES:
            _close(descriptor, mark)
            number, marker = number + 1, os.urandom(MARKER_BYTES)
            header = SegmentHeader("w0", number, 1, now, mark.next_seq, mark.digest, marker)
            descriptor, mark = create_segment(directory, header)
        frame = []
        for place in range(begin, min(begin + FRAME_RECORDS, count)):
            made = _record(first + place * step, features, chance)
            if place % every == 0:
                sample.append(made.id)
            frame.append((*records.encode(made), (first + place * step) // 1_000_000))
        raw, digest = encode_frame(frame, mark.next_seq, mark.digest, marker)
        os.pwrite(descriptor, raw, mark.end)
        start = decode_start(raw, mark.end, marker)
        assert start is not None, "just encoded"
        mark = mark.behind(start, digest)
    _close(descriptor, mark)
    return sample


def _close(descriptor: int, mark: Mark) -> None:
    if descriptor >= 0:
        write_mark(descriptor, Mark(mark.end, mark.next_seq, mark.digest, mark.first_ms, mark.last_ms, closed=True))
        os.close(descriptor)


def _record(now_ns: int, features: int, chance: random.Random) -> Record:
    return Record(
        id=new_id(now_ns),
        kind="answered",
        time=now_ns / 1e9,
        model="signs",
        version="7",
        bundle="sha256:" + "ab" * 32,
        variant="stable",
        reason="split",
        probability=0.9,
        route_revision=12,
        status=200,
        group=chance.getrandbits(48),
        signals={"class": [chance.randrange(43)], "confidence": [chance.random()], "energy": [chance.gauss(10, 1)]},
        timings={"total": 3 + chance.random(), "decode": chance.random(), "queue": chance.random(), "compute": 2.0},
        batch_size=8,
        engine="onnxruntime",
        payload=Payload(
            unit=f"camera-{chance.randrange(1000)}",
            inputs=[Tensor("features", "FP32", [1, features], chance.randbytes(4 * features))],
            outputs=[Tensor("scores", "FP32", [1, 10], chance.randbytes(40))],
        ),
    )


def seal(directory: Path, *, projected: bool) -> dict[str, float]:
    """Seal all of it, and return what that took."""
    parquet = parquet_writer() if projected else None
    began, cpu = time.perf_counter(), time.process_time()
    count = 0
    with Manifest(directory, writable=True) as manifest:
        for writer in writers(directory):
            for number in numbers(directory, writer):
                seal_segment(directory, writer, number)
                entered = project(directory, manifest, writer, number, parquet=parquet)
                count += entered.end_seq - entered.first_seq
    return {"seconds": time.perf_counter() - began, "cpu_us_per_record": (time.process_time() - cpu) / count * 1e6}


def look_up(directory: Path, ids: list[str]) -> dict[str, float]:
    """Find some ids, each by a reader of its own, as `snowgate prediction show` does; milliseconds."""
    times = []
    for one in ids:
        began = time.perf_counter()
        found = LogReader(directory).find(one)
        times.append((time.perf_counter() - began) * 1e3)
        assert found is not None, one
        assert found.id == one, one
    times.sort()
    return {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100], "max": times[-1]}


def walk(directory: Path) -> dict[str, float]:
    """Read all of it, headers only, as a follower does."""
    began, cpu = time.perf_counter(), time.process_time()
    count = sum(1 for _ in LogReader(directory).records())
    return {
        "records": count,
        "seconds": time.perf_counter() - began,
        "cpu_us_per_record": (time.process_time() - cpu) / count * 1e6,
    }


def question(directory: Path) -> dict[str, float]:
    """Ask for the rarest of one day, and of all days; seconds."""
    found = {}
    for name, since in (("day", time.time() - 86_400), ("all", 0.0)):
        began = time.perf_counter()
        rows(directory, Question("signs", since, None, "signal_confidence > 0.99999", 100), 1 << 26)
        found[name] = time.perf_counter() - began
    return found


@click.command()
@click.option("--records", "count", type=int, default=100_000, show_default=True)
@click.option("--directory", type=click.Path(path_type=Path), required=True, help="Where; must not exist.")
@click.option("--parquet/--no-parquet", "projected", default=True, help="Whether Parquet is made too.")
@click.option("--walk/--no-walk", "walked", default=True, help="Whether all of it is read too.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def main(count: int, directory: Path, projected: bool, walked: bool, output: str) -> None:  # noqa: FBT001
    """Make a large log and measure in it."""
    chance = random.Random(4)
    ids = fill(directory, count, chance=chance)
    asked = chance.sample(ids, min(200, len(ids)))
    told: dict[str, Any] = {"records": count, "segments": len(numbers(directory, "w0"))}
    told["look_up_ms_unsealed"] = look_up(directory, asked)
    told["seal"] = seal(directory, projected=projected)
    told["look_up_ms"] = look_up(directory, asked)
    with Manifest(directory) as manifest:
        told["bytes"] = {name: one for name, one in manifest.totals().items() if name.endswith("bytes")}
    if walked:
        told["walk"] = walk(directory)
    if projected:
        told["question_s"] = question(directory)
    if output == "json":
        print(json.dumps(told, indent=2))
    else:
        for name, one in told.items():
            print(f"{name:22} {one}")


if __name__ == "__main__":
    main()

"""A large log for `log.py`, made fast, and what can be done with it: look-ups, walks, checks, sealing, questions."""

import os
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

from load_tests.ledgers import made
from monitors.log import record as records
from monitors.log.frame import MARKER_BYTES, decode_start, encode_frame
from monitors.log.listing import rows
from monitors.log.manifest import Manifest
from monitors.log.projection import parquet_writer, project
from monitors.log.question import Question
from monitors.log.reader import LogReader
from monitors.log.sealing import seal_segment
from monitors.log.segment import (
    HEADER_BYTES,
    NO_DIGEST,
    Mark,
    SegmentHeader,
    create_segment,
    numbers,
    write_mark,
)

WRITER = "w0"
DAYS = 100
FRAME_RECORDS = 32
SEGMENT_BYTES = 64 * 1024 * 1024
PAYLOAD_BYTES = 120  # thirty numbers, as the comparison's MLP takes
LOOKED_UP = 500
RARE = "signal_confidence > 0.9999"
"""What is asked for: one record of ten thousand."""
Numbers = dict[str, Any]


def fill(directory: Path, count: int, say: Callable[[str], None]) -> list[str]:
    """Write records over some days up to now, in closed segments, as a gateway would but without waiting for the disk.

    Returns a sample of the ids, from all over it.
    """
    (directory / WRITER).mkdir(parents=True)
    chance = random.Random(4)
    now = time.time_ns()
    step = DAYS * 86_400_000_000_000 // count
    sample: list[str] = []
    mark, descriptor, number, marker = Mark(HEADER_BYTES, 0, NO_DIGEST), -1, 0, b""
    for begin in range(0, count, FRAME_RECORDS):
        if descriptor < 0 or mark.end >= SEGMENT_BYTES:
            _close(descriptor, mark)
            number, marker = number + 1, os.urandom(MARKER_BYTES)
            header = SegmentHeader(WRITER, number, 1, now, mark.next_seq, mark.digest, marker)
            descriptor, mark = create_segment(directory, header)
            if number % 16 == 1:
                say(f"{begin:,} records written")
        frame = []
        for place in range(begin, min(begin + FRAME_RECORDS, count)):
            moment = now - (count - place) * step
            record = made(chance.randbytes(PAYLOAD_BYTES), moment)
            if place % max(1, count // LOOKED_UP) == 0:
                sample.append(record.id)
            frame.append((*records.encode(record), moment // 1_000_000))
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


def measure(directory: Path, count: int, say: Callable[[str], None]) -> Iterator[Numbers]:
    """Write a log of so many records and yield a row for each thing that is done with it, in this order."""
    sample = fill(directory, count, say)
    random.Random(5).shuffle(sample)
    whole: dict[str, Callable[[], int]] = {
        "follow": lambda: _follow(directory),
        "read with payload": lambda: sum(1 for _ in LogReader(directory).records(with_payload=True)),
        "verify": lambda: LogReader(directory).verify().records,
        "seal": lambda: _seal(directory, say),
        "follow, sealed": lambda: _follow(directory),
        "verify, sealed": lambda: LogReader(directory).verify().records,
    }
    for name, run in whole.items():
        if name in {"seal", "follow, sealed"}:
            state = "" if name == "seal" else ", sealed"
            yield {"operation": f"find{state}", "payload_bytes": PAYLOAD_BYTES, "records": count} | _find(
                directory, sample
            )
        say(name)
        began, spent = time.perf_counter(), time.process_time()
        seen = run()
        seconds, cpu = time.perf_counter() - began, time.process_time() - spent
        assert seen == count, f"{name}: {seen} of {count} records"
        took = {"seconds": round(seconds, 3), "cpu_us_per_record": round(cpu / count * 1e6, 2)}
        yield {"operation": name, "payload_bytes": PAYLOAD_BYTES, "records": count} | took
    for name, since in (("question, of a day", time.time() - 86_400), ("question, of all days", 0.0)):
        say(name)
        began, spent = time.perf_counter(), time.process_time()
        found = len(rows(directory, Question("mlp", since, None, RARE, 100), 1 << 26))
        seconds, cpu = time.perf_counter() - began, time.process_time() - spent
        took = {"seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3), "rows": found}
        yield {"operation": name, "payload_bytes": PAYLOAD_BYTES, "records": count} | took
    with Manifest(directory) as manifest:
        totals = manifest.totals()
    sizes = {name: totals[name] for name in ("segments", "segment_bytes", "files", "file_bytes")}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    yield {"operation": "size", "payload_bytes": PAYLOAD_BYTES, "records": count, "memory_mib_max": memory} | sizes


def _find(directory: Path, ids: Sequence[str]) -> Numbers:
    """Find some, each by a reader of its own, as `snowgate prediction show` does."""
    times, costs = [], []
    for one in ids:
        began, spent = time.perf_counter(), time.thread_time()
        found = LogReader(directory).find(one)
        times.append((time.perf_counter() - began) * 1e3)
        costs.append((time.thread_time() - spent) * 1e3)
        assert found is not None, one
        assert found.id == one, one
    names = [("p50_ms", times, 49), ("p99_ms", times, 98), ("cpu_p50_ms", costs, 49), ("cpu_p99_ms", costs, 98)]
    cuts = {name: round(quantiles(values, n=100)[place], 3) for name, values, place in names}
    return cuts | {"looked_up": len(times)}


def _seal(directory: Path, say: Callable[[str], None]) -> int:
    """Compress and project all of it, as the sealer does; return how many records that were."""
    parquet, count = parquet_writer(), 0
    with Manifest(directory, writable=True) as manifest:
        for number in numbers(directory, WRITER):
            seal_segment(directory, WRITER, number)
            entered = project(directory, manifest, WRITER, number, parquet=parquet)
            count += entered.end_seq - entered.first_seq
            if number % 16 == 0:
                say(f"{count:,} records sealed")
    return count


def _follow(directory: Path) -> int:
    """Follow it from its beginning to its end, without payloads; return how many records there were."""
    reader, seen, cursor = LogReader(directory), 0, {}
    while True:
        found, cursor = reader.read(cursor)
        if not found:
            reader.close()
            return seen
        seen += len(found)

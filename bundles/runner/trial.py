"""A trial of the engines: how fast each runs this bundle here, and whether it answers as the bundle did when packed.

    python -I -u …/bundles/runner --directory UNPACKED --parent PID --trial SECONDS

The network is loaded once; each engine then tries in a process of its own, forked, so that one that crashes or hangs
ends nobody else's trial. The golden examples, repeated, are the rows. One line of JSON an engine goes to standard
output. What counts is CPU time where a processor computes (others may be at work beside it), the least of several
rounds, because nothing makes a computation faster than it is.
"""

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from . import golden
from .engines import EAGER, TABLE, Network, build, threads
from .lineage import die_with
from .loaded import Loaded
from .loaders import load_network
from .model import Model

ROUNDS = 5
ROUND_SECONDS = 0.02
"""Five rounds at three sizes take 0.3 s an engine; one call may take longer than a round."""
LINE_BYTES_MAX = 64 * 1024
PACKAGES = ("numpy", "torch", "onnx", "onnxruntime", "openvino")


def hardware() -> dict[str, Any]:
    """Say what an engine's speed depends on, beside the bundle: the processor, the threads, the versions."""
    described: dict[str, str] = {}
    try:
        # A processor's entry ends with an empty line; all of a machine are taken to be alike.
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        described = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    except OSError:
        pass
    return {
        "machine": os.uname().machine,
        "processor": described.get("model name", "unknown"),
        "flags": " ".join(sorted(described.get("flags", described.get("Features", "")).split())),
        "threads": threads(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": installed(),
    }


def installed() -> dict[str, str]:
    """Return the versions of those packages that are here of all that an engine may need."""
    return {name: found for name in PACKAGES if (found := _version(name)) is not None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def sizes(max_batch_size: int) -> list[int]:
    """Return the batch sizes that count: a lone row, the most, and the size between them in ratio.

    >>> sizes(64), sizes(1)
    ([1, 8, 64], [1])
    """
    return sorted({1, round(max_batch_size**0.5), max_batch_size})


def run(directory: Path, config: Mapping[str, Any], seconds: float) -> Iterator[dict[str, Any]]:
    """Try all engines of an unpacked bundle, for so long in all; yield what came of each.

    Raises whatever loading the network raises.
    """
    if config["loader"] != "torch":
        return
    network, examples = load_network(directory, config), golden.read(directory)
    deadline = time.monotonic() + seconds
    for name in TABLE:
        # Half of what is left for each: one that hangs costs the ones behind it half of their time, not all of it.
        yield _in_its_own_process(name, network, config, examples, (deadline - time.monotonic()) / 2)


def _in_its_own_process(
    name: str, network: Network, config: Mapping[str, Any], examples: golden.Sides, seconds: float
) -> dict[str, Any]:
    began, parent = time.monotonic(), os.getpid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        die_with(parent)
        _answer_and_end(name, network, config, examples, writing)
    os.close(writing)
    said = b""
    # A file's end comes when the child has: what it said is whole then, or it died in the middle.
    while (left := seconds - (time.monotonic() - began)) > 0 and select.select([reading], [], [], left)[0]:
        part = os.read(reading, LINE_BYTES_MAX)
        said += part
        if not part:
            break
    else:
        os.kill(child, signal.SIGKILL)
        said = json.dumps({"error": f"it took longer than {max(seconds, 0):.1f} s"}).encode()
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    outcome = json.loads(said) if said else {"error": f"its process ended with status {status}"}
    return {"engine": name, "seconds": round(time.monotonic() - began, 3), **outcome}


def _answer_and_end(
    name: str, network: Network, config: Mapping[str, Any], examples: golden.Sides, writing: int
) -> None:
    """The child's whole life; nothing of the parent's may run on in it."""
    status = 1
    try:
        try:
            outcome = measure(name, network, config, examples)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a library or the bundle's code raises
            if name == EAGER:
                traceback.print_exc(file=sys.stderr)
            outcome = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        os.write(writing, json.dumps(outcome).encode())
        status = 0
    finally:
        os._exit(status)


def measure(name: str, network: Network, config: Mapping[str, Any], examples: golden.Sides) -> dict[str, Any]:
    """Run one engine at all sizes. Raises EngineError, or whatever the engine or the bundle's code raises."""
    predict = build(name, network)
    model = Model(Loaded(predict, "", name), config)
    most = model.max_batch_size if model.around.batched else 1
    worst = 0.0
    # Sizes that nobody would optimise for are among those that must be right.
    for rows in sorted({*sizes(most), *(size for size in (2, 3, 7) if size <= most), max(most - 1, 1)}):
        given, expected = (golden.repeated(side, rows) for side in examples)
        answered = model.answer(given, rows).outputs
        agrees, gap, output = golden.worst_of(config, answered, expected)
        worst = max(worst, gap)
        if not agrees:
            return {"error": f"output '{output}' of {rows} rows differs by {gap:.3g} from what was recorded"}
    times = {}
    for rows in sizes(most):
        seen = model.answer(golden.repeated(examples[0], rows), rows).model_inputs
        given = {key: np.array(array if model.around.batched else array[0, ...]) for key, array in seen.items()}
        times[str(rows)] = round(_seconds_a_call(lambda given=given: predict(given)) / rows * 1e6, 3)
    return {"largest_difference": worst, "microseconds_per_row": times}


def _seconds_a_call(call: Any) -> float:
    """Return the CPU time of one call, the least of some rounds; the calls before it have warmed it up."""
    began = time.process_time()
    call()
    once = max(time.process_time() - began, 1e-6)
    calls = max(1, int(ROUND_SECONDS / once))
    least = once
    for _round in range(ROUNDS):
        began = time.process_time()
        for _call in range(calls):
            call()
        least = min(least, (time.process_time() - began) / calls)
    return least

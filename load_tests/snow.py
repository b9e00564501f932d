"""How soon does snow wake a human?

Takes a real bundle (the demo's, by default made anew), lets snow of a given severity fall on its live images, and feeds
what its runner answers to the monitor's own code (`monitors.streams`) with the default settings, at 100 predictions a
second of record time, each from a unit of its own. Reports after how many predictions a page-tier signal passes its
limit, and how many pages there were on clear days.

    python load_tests/snow.py --home DIR [-o json]     # DIR: a home that `snowgate demo --home DIR` made
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bundles.bundle import Bundle, open_bundle
from bundles.home import Home
from bundles.loading import prepare
from bundles.process import RunnerProcess
from gateway.demo.traffic import snow
from monitors.log.record import Record, new_id
from monitors.signals import Watching
from monitors.streams import Stream

RATE = 100.0
SEVERITIES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
CLEAR_ROWS, SNOW_ROWS_MAX, RAMP_ROWS = 500, 4_000, 4_000


def signals(runner: RunnerProcess, images: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Let the runner answer, in its own batches."""
    parts = [runner.predict({"image": images[first : first + 64]})[1] for first in range(0, len(images), 64)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def page_after(bundle: Bundle, found: dict[str, np.ndarray[Any, Any]], rows: int) -> tuple[int | None, str]:
    """Feed rows to a fresh stream; return how many it took until a page, and which signal it was."""
    stream = Stream("digits", "1", bundle.digest, bundle.baseline(), Watching())
    stream.set_limits(1)
    began = 1_800_000_000.0
    for row in range(rows):
        moment = began + row / RATE
        record = Record(
            id=new_id(int(moment * 1e9)),
            kind="answered",
            time=moment,
            model="digits",
            version="1",
            bundle=bundle.digest,
            status=200,
            signals={name: [values[row].item()] for name, values in found.items()},
        )
        for shift in stream.add(record) or ():
            if shift.tier == "page":
                return row + 1, shift.signal
    return None, ""


def measure(home: Home, repeats: int) -> list[dict[str, Any]]:
    """Measure all severities, the ramp, and clear days."""
    digest = home.refs().resolve("digits@1")[0]
    with np.load(home.path / "project" / "data" / "live.npz") as archive:
        images = archive["image"]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = prepare(open_bundle(home.store(), digest).store, digest, home.policy(), Path(folder))
        with RunnerProcess(Path(folder)) as runner:
            cases = [("step", severity) for severity in SEVERITIES] + [("ramp", 1.0), ("clear", 0.0)]
            for kind, severity in cases:
                delays, names = [], []
                for repeat in range(repeats):
                    print(f"  {kind} {severity}: {repeat + 1} of {repeats}", end="\r", file=sys.stderr, flush=True)
                    found, rows = _stream_of(runner, images, kind, severity, repeat)
                    after, name = page_after(bundle, found, rows)
                    before = 0 if kind == "ramp" else CLEAR_ROWS
                    delays.append(None if after is None else after - before)
                    names.append(name)
                results.append(_row(kind, severity, delays, names))
    return results


def _stream_of(
    runner: RunnerProcess, images: np.ndarray[Any, Any], kind: str, severity: float, repeat: int
) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
    chance = np.random.default_rng([repeat, int(severity * 1000)])
    if kind == "ramp":
        severities = np.linspace(0, severity, RAMP_ROWS)
    else:
        severities = np.concatenate([np.zeros(CLEAR_ROWS), np.full(SNOW_ROWS_MAX, severity)])
    chosen = images[chance.integers(len(images), size=len(severities))]
    fallen = [snow(chosen[row : row + 1], level, chance) for row, level in enumerate(severities.tolist())]
    return signals(runner, np.concatenate(fallen)), len(severities)


def _row(kind: str, severity: float, delays: list[int | None], names: list[str]) -> dict[str, Any]:
    seen = [one for one in delays if one is not None]
    named = [one for one in names if one]
    return {
        "kind": kind,
        "severity": severity,
        "runs": len(delays),
        "paged": len(seen),
        "median_predictions": median(seen) if seen else None,
        "most_predictions": max(seen) if seen else None,
        "first_signal": max(set(named), key=named.count) if seen else None,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    arguments = parser.parse_args()
    began = time.monotonic()
    rows = measure(Home(arguments.home), arguments.repeats)
    if arguments.output == "json":
        print(json.dumps(rows, indent=2))
        return
    print("| snow | severity | runs | paged | median predictions to the page | most | first signal |")
    print("|---|---|---|---|---|---|---|")
    for one in rows:
        print("|", " | ".join("-" if value is None else str(value) for value in one.values()), "|")
    print(
        f"\nPython {platform.python_version()}, {platform.machine()}, {time.monotonic() - began:.0f} s", file=sys.stderr
    )


if __name__ == "__main__":
    main()

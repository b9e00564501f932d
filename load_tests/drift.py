"""How often do the detectors cry wolf, and how soon do they see a shift?

Simulated predictions go through the detectors that page, set as in a new home that serves one version with class and
energy: a baseline of 1,000 rows drawn anew for every run, batches of 64 predictions, 100 predictions a second of record
time. River's ADWIN with its defaults stands beside them, one for every class or one for the scalar, clipped and scaled
as in the monitor.

    python load_tests/drift.py [--quick] [-o json]

The default promise, one false page in 90 days, is 10^9 predictions away: no simulation sees it fail. The rows called
`short promise` therefore ask the same detectors for a false page every 100,000 predictions, and count; `exact` are
those with a baseline of a million rows and no tolerance, where the promise has no slack.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from river.drift import ADWIN

from bundles.baseline import measure
from monitors.signals import SignalWatch, Watching, page_shares
from monitors.streams import SECONDS_A_DAY

RATE = 100.0
BATCH = 64
BASELINE_ROWS = 1_000
CLEAR_ROWS, SHIFTED_ROWS_MAX = 2_048, 20_480
SHORT_PROMISE = 100_000
EXACT_ROWS = 1_000_000
MIX = np.array([0.30, 0.15, 0.12, 0.10, 0.08, 0.08, 0.06, 0.05, 0.04, 0.02])

Values = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, int], Values]
Run = Callable[[np.random.Generator, Iterator[Values]], Iterator[bool]]
"""Takes a stream of batches, says after each whether there was an alarm; makes its own baseline."""


@dataclass(frozen=True)
class Data:
    """A stream: what is normal, and how it may shift."""

    name: str
    signal: str
    normal: Draw
    shifts: dict[str, Draw]


def classes(mix: Values) -> Draw:
    """Draw classes with these shares."""

    def draw(chance: np.random.Generator, rows: int) -> Values:
        drawn: Values = chance.choice(len(mix), size=rows, p=mix)
        return drawn

    return draw


def moved(number: int, share: float) -> Values:
    """The usual shares with one class changed, all others in proportion."""
    mix: Values = MIX * (1 - share) / (1 - MIX[number])
    mix[number] = share
    return mix


def normal(mean: float = 0.0, spread: float = 1.0, far: float = 0.0) -> Draw:
    """Draw from a normal distribution; a share `far` of the rows lies four standard deviations away."""

    def draw(chance: np.random.Generator, rows: int) -> Values:
        drawn: Values = chance.normal(mean, spread, rows) - 4.0 * (chance.random(rows) < far)
        return drawn

    return draw


STREAMS = (
    Data(
        "10 classes",
        "class",
        classes(MIX),
        {
            "class 30 % -> 15 %": classes(moved(0, 0.15)),
            "class 30 % -> 24 %": classes(moved(0, 0.24)),
            "class 10 % -> 50 %": classes(moved(3, 0.50)),
            "class 2 % -> 6 %": classes(moved(9, 0.06)),
            "class 2 % -> 0 %": classes(moved(9, 0.0)),
        },
    ),
    Data(
        "scalar",
        "energy",
        normal(),
        {
            "mean + 0.25 sd": normal(0.25),
            "mean + 0.5 sd": normal(0.5),
            "mean + 1 sd": normal(1.0),
            "spread x 1.5": normal(spread=1.5),
            "5 % of the rows - 4 sd": normal(far=0.05),
        },
    ),
)


def ours(data: Data, days: float, baseline_rows: int = BASELINE_ROWS, tolerance: float = 0.1) -> Run:
    """The detector that pages, with its share of one version's promise."""
    share = page_shares(["class", "energy"])[data.signal]

    def run(chance: np.random.Generator, batches: Iterator[Values]) -> Iterator[bool]:
        expected = measure({data.signal: data.normal(chance, baseline_rows)}, "holdout").signals[data.signal]
        watch = SignalWatch(data.signal, expected, share, Watching(tolerance=tolerance))
        watch.set_limit(days * SECONDS_A_DAY, 1)
        detector: Any = watch.detector
        units = np.arange(BATCH)
        for number, values in enumerate(batches):
            given = detector.encode([str(one) for one in values.tolist()]) if data.signal == "class" else values
            detector.update_batch(given, units, BATCH / RATE, number * BATCH / RATE)
            yield detector.drift_detected

    return run


def adwin(data: Data) -> Run:
    """River's ADWIN: one for each class, or one for the scalar."""

    def run(_chance: np.random.Generator, batches: Iterator[Values]) -> Iterator[bool]:
        bank = [ADWIN() for _ in range(len(MIX) if data.signal == "class" else 1)]  # type: ignore[no-untyped-call]
        for values in batches:
            alarm = False
            for number, one in enumerate(bank):
                inputs = (values == number) * 1.0 if data.signal == "class" else np.clip(values / 6 + 0.5, 0, 1)
                for value in inputs.tolist():
                    one.update(value)  # type: ignore[no-untyped-call]
                    alarm |= bool(one.drift_detected)
            yield alarm

    return run


def false_alarms(data: Data, run: Run, rows: int, parts: int) -> tuple[int, float]:
    """Count alarms in `rows` stationary predictions, with `parts` baselines; and the seconds that it took."""
    alarms, seconds = 0, 0.0
    for part in range(parts):
        chance = np.random.default_rng([part, 1])
        batches = [data.normal(chance, BATCH) for _ in range(rows // parts // BATCH)]
        answers = run(chance, iter(batches))
        alarms += next(answers)  # With the making of the baseline, which is not timed.
        began = time.perf_counter()
        alarms += sum(answers)
        seconds += time.perf_counter() - began
    return alarms, seconds


def delays(data: Data, run: Run, shifted: Draw, runs: int) -> list[int | None]:
    """Predictions from the shift to the alarm, for each run; None when it was missed."""
    found: list[int | None] = []
    for number in range(runs):
        chance = np.random.default_rng([number, 2])

        def batches(chance: np.random.Generator = chance) -> Iterator[Values]:
            for first in range(0, CLEAR_ROWS + SHIFTED_ROWS_MAX, BATCH):
                yield (data.normal if first < CLEAR_ROWS else shifted)(chance, BATCH)

        alarms = (place * BATCH for place, alarm in enumerate(run(chance, batches()), start=1) if alarm)
        after = next((place for place in alarms if place > CLEAR_ROWS), None)
        found.append(None if after is None else after - CLEAR_ROWS)
    return found


def measure_all(*, quick: bool) -> list[dict[str, Any]]:
    """Measure every detector on every stream and shift."""
    stationary, runs, parts = (1_000_000, 20, 10) if quick else (20_000_000, 100, 50)
    rows = []
    for data in STREAMS:
        share = page_shares(["class", "energy"])[data.signal]
        short_days = SHORT_PROMISE / RATE * share / SECONDS_A_DAY
        name = "categorical" if data.signal == "class" else "binned"
        candidates: list[tuple[str, Run, float | None, int]] = [
            (name, ours(data, 90.0), 90.0 * SECONDS_A_DAY * RATE / share, stationary),
            (f"{name}, short promise", ours(data, short_days), SHORT_PROMISE, stationary),
            (f"{name}, short promise, exact", ours(data, short_days, EXACT_ROWS, 0.0), SHORT_PROMISE, stationary),
            ("adwin", adwin(data), None, stationary // 5),
        ]
        for detector, run, promised, amount in candidates:
            print(f"  {data.name}: {detector}", file=sys.stderr, flush=True)
            alarms, seconds = false_alarms(data, run, amount, parts)
            for shift, shifted in data.shifts.items():
                found = delays(data, run, shifted, runs)
                seen = [one for one in found if one is not None]
                rows.append(
                    {
                        "detector": detector,
                        "data": data.name,
                        "shift": shift,
                        "promised_predictions_per_false_page": None if promised is None else round(promised),
                        "stationary_predictions": amount,
                        "false_pages": alarms,
                        "median_delay": round(median(seen)) if seen else None,
                        "missed": f"{len(found) - len(seen)}/{len(found)}",
                        "us_per_prediction": round(seconds / amount * 1e6, 2),
                    }
                )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a million stationary predictions instead of 20")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    arguments = parser.parse_args()
    began = time.monotonic()
    rows = measure_all(quick=arguments.quick)
    if arguments.output == "json":
        print(json.dumps(rows, indent=2))
    else:
        print("|", " | ".join(name.replace("_", " ") for name in rows[0]), "|")
        print("|" + "---|" * len(rows[0]))
        for one in rows:
            print(
                "|",
                " | ".join(
                    "-" if value is None else f"{value:,}" if isinstance(value, (int, float)) else value
                    for value in one.values()
                ),
                "|",
            )
    print(
        f"\nPython {platform.python_version()}, {platform.machine()}, {time.monotonic() - began:.0f} s", file=sys.stderr
    )


if __name__ == "__main__":
    main()

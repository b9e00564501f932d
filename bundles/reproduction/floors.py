"""The floor, measured: the same run with other seeds, each model compared with the first one on the same rows."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from bundles.bundle import FLOOR, Bundle
from bundles.data import recorded_path
from bundles.digest import sha256_file
from bundles.errors import ReproductionError
from bundles.recording import FOLDER
from bundles.reproduction import rerun
from bundles.reproduction.agreement import PAIRS_MIN, compare, floor
from bundles.reproduction.models import Array, Model, held, of_output
from bundles.reproduction.training import Training
from bundles.reproduction.verdict import Floor

STEP = 1_009
"""From one seed to the next: far from those that people try by hand."""
SEEDS_MAX = 50


def measure(
    run: Mapping[str, Any],
    first: Model,
    answers: Mapping[str, Array],
    ask: Callable[[Model], dict[str, Array]],
    training: Training,
    count: int,
    scratch: Path,
    say: Callable[[str], None],
) -> Floor:
    """Train `count` times with other seeds, and compare each model with the first, which gave `answers`.

    Raises:
        ReproductionError: the run has no seed that could be another one.
        CommandFailed: a run with another seed failed.
    """
    check_count(count)
    agreements, metrics = [], {name: list[float]() for name in first.metrics}
    for number, seeds in enumerate(other_seeds(run, count)):
        say(f"training with another seed, {number + 1} of {count}: {_words(seeds)}")
        model = training.again(seeds, scratch / f"seed-{number}")[0]
        found = compare(first.config["outputs"], answers, ask(model))
        rows = found.rows
        agreements.append(found.share)
        for name, values in metrics.items():
            if name not in model.metrics:
                raise ReproductionError(f"with {_words(seeds)} the run has no metric '{name}'")
            values.append(model.metrics[name])
        say(f"{found.share:.4f} of {rows} rows agree")
    return Floor(agreements, floor(agreements, rows), metrics, rows)


def measure_here(
    run: Mapping[str, Any], output: Path, python: Path, types: Sequence[str], count: int, say: Callable[[str], None]
) -> Floor:
    """Measure the floor right after a run was recorded, on its machine, in its environment, and with its files.

    `output` is the folder that the run wrote, `python` the interpreter of the environment in which it is packed.

    Raises:
        ReproductionError: a data file is no longer what the run read, or as for `measure`.
    """
    data = {one["name"]: path for one in run["data"] if (path := recorded_path(one)) is not None}
    for one in run["data"]:
        if one["name"] not in data or sha256_file(data[one["name"]]) != one["sha256"]:
            raise ReproductionError(f"{one['name']}: is not as it was when the run had ended; record it again")
    with tempfile.TemporaryDirectory(prefix="snowgate-floor-") as folder:
        scratch = Path(folder).resolve()
        first = of_output(output, scratch / "first", "first", types)
        rows = held(first.folder)[1]
        code = scratch / "code"
        rerun.unpack(output / FOLDER / "source.tar", code)
        training = Training(run, code, data, "other", types, None, rerun.seconds_for(run))

        def ask(model: Model) -> dict[str, Array]:
            return model.answers(rows, python)

        return measure(run, first, ask(first), ask, training, count, scratch, say)


def check_count(count: int) -> None:
    """Refuse a number of seeds that gives no floor. Raises ReproductionError."""
    if not PAIRS_MIN <= count <= SEEDS_MAX:
        raise ReproductionError(f"--floor-seeds {count}: expected {PAIRS_MIN} to {SEEDS_MAX}; one pair has no spread")


def other_seeds(run: Mapping[str, Any], count: int) -> list[dict[str, str]]:
    """Return other values for all of a run's seeds, `count` times. Raises ReproductionError."""
    seeds = {name: value for name, value in run["seeds"].items() if f"--{name}" in _options(run["command"])}
    if not seeds:
        raise ReproductionError(
            "the recorded command has no option whose name holds 'seed', so there is no other seed to try; "
            "let the command take its seed as an option: snowgate train -- python train.py --seed 1"
        )
    return [{name: _other(value, STEP * (number + 1)) for name, value in seeds.items()} for number in range(count)]


def of_bundle(bundle: Bundle) -> Floor | None:
    """Return the floor that was measured when the bundle was trained, if it was. Raises CorruptBundle."""
    if FLOOR not in bundle.manifest.files():
        return None
    found = orjson.loads(bundle.file(FLOOR))
    return Floor(found["agreements"], float(found["floor"]), found["metrics"], int(found["rows"]))


def _options(command: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in command}


def _other(value: str, step: int) -> str:
    number = int(value) if value.isdigit() else 0
    return str((number + step) % 2**31)


def _words(seeds: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in seeds.items())

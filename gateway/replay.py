"""Replay: logged inputs once more through a bundle, to see whether it would still answer as it did.

Through the bundle that answered, and the engine that it was answered by, this is how a stranger checks a decision nine
months later; through another bundle, how a candidate is tried on last week's traffic. The runners are our own: a
gateway that serves the same home does not notice.

A prediction is asked again in a batch of as many rows as the one in which it was answered: how a product of matrices is
summed up depends on their size, and hardly ever on what else is in them. So what is bitwise the same can be seen to be.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from bundles.bundle import Bundle
from bundles.errors import BundleError, RunnerFailed, RunnerGone
from bundles.home import Home
from bundles.loading import prepare
from bundles.process import RunnerProcess, reproduces_golden
from bundles.runner import frames, golden
from bundles.runner.engines import EAGER
from gateway.errors import BadCall
from gateway.replay_verdicts import Verdict, compare, not_replayable
from gateway.schema import Schema
from gateway.settings import Settings
from monitors.log.record import Record, Tensor
from state import State

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Say = Callable[[str], None]

RUNNERS_MAX = 4
"""Runners at once, each with a model in memory: a week of traffic rarely had more versions with their engines."""
DEATHS_MAX = 3
"""A runner that died so often on logged inputs is not started again."""
PART_PREDICTIONS = 1_024
PART_BYTES = 64 * 1024 * 1024
"""What is gathered for one runner before it is asked: as much as the largest call may bring."""


@dataclass(frozen=True)
class Loaded:
    """A bundle in a runner of our own."""

    bundle: Bundle
    schema: Schema
    runner: RunnerProcess
    engine: str
    golden: str
    """Whether it still answers its golden examples as when it was packed: what the verdicts rest on."""
    files: ExitStack


class Replayer:
    """Asks logged predictions again. To be entered: it ends its runners when it is left.

    `other` is the digest of the bundle that shall answer; None: the one that did. `say` hears what is being done.
    """

    def __init__(self, home: Home, state: State, settings: Settings, say: Say, other: str | None = None) -> None:
        self._home = home
        self._state = state
        self._settings = settings
        self._say = say
        self._other = other
        self._loaded: dict[tuple[str, str], Loaded] = {}
        self._refused: dict[tuple[str, str], str] = {}
        self._deaths: dict[tuple[str, str], int] = {}
        self.runners: list[dict[str, Any]] = []
        """Of each runner that was started: `model`, `bundle`, `engine`, and how it answered its golden examples."""

    def __enter__(self) -> Self:
        """Begin; runners are started when they are needed."""
        return self

    def __exit__(self, *_error: object) -> None:
        """End the runners."""
        for key in list(self._loaded):
            self._end(key)

    def replay(self, records: Iterable[Record]) -> Iterator[Verdict]:
        """Yield what becomes of each record (with its payload), in no particular order."""
        parts: dict[tuple[str, str], list[Record]] = {}
        sizes: dict[tuple[str, str], int] = {}
        for record in records:
            reason = missing(record)
            if reason is not None:
                yield not_replayable(record, reason)
                continue
            key = self._key(record)
            parts.setdefault(key, []).append(record)
            sizes[key] = sizes.get(key, 0) + _size(record)
            if len(parts[key]) >= PART_PREDICTIONS or sizes[key] >= PART_BYTES:
                yield from self._part(key, parts.pop(key))
                del sizes[key]
        for key, part in parts.items():
            yield from self._part(key, part)

    def _key(self, record: Record) -> tuple[str, str]:
        if self._other is None:
            assert record.bundle is not None, "a record without a bundle is not replayed"
            return record.bundle, record.engine or EAGER
        chosen = [one.body for one in self._state.list(f"engines/{self._other}/")]
        return self._other, max(chosen, key=lambda one: str(one["time"]))["engine"] if chosen else EAGER

    def _part(self, key: tuple[str, str], records: Sequence[Record]) -> Iterator[Verdict]:
        loaded = self._runner_of(key)
        if loaded is None:
            yield from (not_replayable(record, self._refused[key]) for record in records)
            return
        for batch, rows in batches(records, loaded, as_answered=self._other is None):
            if isinstance(batch, Verdict):
                yield batch
            elif (runner := self._runner_of(key)) is None:
                yield from (not_replayable(record, self._refused[key]) for record in batch)
            else:
                try:
                    yield from _asked(batch, rows, runner)
                except RunnerGone as error:
                    # Some other batch may do better with another one; which of these killed it nobody knows.
                    self._end(key)
                    self._deaths[key] = self._deaths.get(key, 0) + 1
                    if self._deaths[key] >= DEATHS_MAX:
                        self._refused[key] = str(error)
                    yield from (not_replayable(record, str(error)) for record in batch)

    def _runner_of(self, key: tuple[str, str]) -> Loaded | None:
        """Return the runner of a bundle and an engine, started when it is not there; None when it can't be."""
        if key in self._refused:
            return None
        try:
            return self._loaded.get(key) or self._load(key)
        except (BundleError, OSError) as error:
            self._refused[key] = str(error)
            return None

    def _load(self, key: tuple[str, str]) -> Loaded:
        """Start a runner. Raises BundleError, OSError."""
        digest, engine = key
        while len(self._loaded) >= RUNNERS_MAX:
            self._end(next(iter(self._loaded)))
        with ExitStack() as files:
            folder = Path(files.enter_context(tempfile.TemporaryDirectory(prefix="snowgate-"))) / "bundle"
            bundle = prepare(self._home.store(), digest, self._home.policy(), folder)
            settings = self._settings.runner_of(bundle.model)
            self._say(f"loading {bundle.model} {digest[:19]} with engine {engine}")
            python = sys.executable
            if bundle.serving_lock is not None and settings.environments == "own":
                python = str(self._home.environments().python_for(bundle.serving_lock, self._say))
            runner = RunnerProcess(folder, python, engine, settings.devices[0], confined=settings.confine)
            files.enter_context(runner)
            report = reproduces_golden(bundle, runner)
            schema = Schema(bundle.inputs, bundle.outputs)
            loaded = Loaded(bundle, schema, runner, runner.ready["engine"], str(report), files.pop_all())
        self._loaded[key] = loaded
        self.runners.append({"model": bundle.model, "bundle": digest, "engine": loaded.engine, "golden": str(report)})
        return loaded

    def _end(self, key: tuple[str, str]) -> None:
        self._loaded.pop(key).files.close()


def missing(record: Record) -> str | None:
    """Say what a record lacks that a replay needs, or None."""
    if record.kind == "refused" or record.bundle is None:
        return f"it was refused with status {record.status}: no bundle answered"
    payload = record.payload
    if payload is None:
        return f"its payload is not in the log: {record.payload_state}"
    for one in payload.inputs:
        if one.withheld is not None:
            return f"its input '{one.name}' is not whole in the log: {one.withheld}"
    if not payload.inputs:
        return f"its inputs are not in the log: {record.payload_state}"
    if all(one.withheld is not None for one in payload.outputs):
        return f"its outputs are not in the log: {record.payload_state}"
    return None


def batches(
    records: Sequence[Record], loaded: Loaded, *, as_answered: bool
) -> Iterator[tuple[list[Record] | Verdict, int]]:
    """Put records together that one call of the model can answer, with the rows that it shall have.

    `as_answered`: as many as when they were answered. What the bundle does not take is a verdict.
    """
    batched = loaded.bundle.batched
    most = int(loaded.bundle.config["max_batch_size"]) if batched else PART_PREDICTIONS
    padded = as_answered and batched
    open_batches: dict[tuple[Any, int], tuple[list[Record], int]] = {}
    for record in records:
        assert record.payload is not None, "looked at before"
        try:
            rows = loaded.schema.check(record.payload.inputs, [])
        except BadCall as error:
            yield not_replayable(record, f"the bundle does not take it: {error}"), 0
            continue
        size = max(rows, record.batch_size) if padded else most
        key = (loaded.schema.key(record.payload.inputs), size)
        batch, filled = open_batches.pop(key, ([], 0))
        if batch and filled + rows > size:
            yield batch, size if padded else filled
            batch, filled = [], 0
        open_batches[key] = ([*batch, record], filled + rows)
    for (_key, size), (batch, filled) in open_batches.items():
        yield batch, size if padded else filled


def _asked(batch: list[Record], rows: int, loaded: Loaded) -> list[Verdict]:
    """Ask one call's records again, in a batch of so many rows: theirs, and then theirs again. Raises RunnerGone."""
    inputs = [_arrays(record.payload.inputs, loaded) for record in batch if record.payload is not None]
    joined = {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
    try:
        outputs, signals = loaded.runner.predict(golden.repeated(joined, rows))
    except RunnerGone:
        raise
    except RunnerFailed as error:
        if len(batch) > 1:
            return [verdict for record in batch for verdict in _asked([record], record.rows, loaded)]
        return [Verdict(batch[0].id, batch[0].time, "differs", str(error))]
    verdicts, first = [], 0
    for record, own in zip(batch, inputs, strict=True):
        assert record.payload is not None, "looked at before"
        part = slice(first, first + len(next(iter(own.values()))))
        first = part.stop
        whole = [one for one in record.payload.outputs if one.withheld is None]
        logged = {one.name: (one.datatype, array) for one, array in _named(whole, loaded)}
        verdicts.append(compare(record, logged, _cut(outputs, part), _cut(signals, part), loaded.bundle.config))
    return verdicts


def _arrays(tensors: Sequence[Tensor], loaded: Loaded) -> Arrays:
    return {tensor.name: array for tensor, array in _named(tensors, loaded)}


def _named(tensors: Sequence[Tensor], loaded: Loaded) -> Iterator[tuple[Tensor, Array]]:
    """Return tensors as arrays, rows first: one without a batch axis is one row."""
    for tensor in tensors:
        spec = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        array = frames.to_array(spec, tensor.data)
        yield tensor, array if loaded.bundle.batched else array[np.newaxis]


def _cut(arrays: Mapping[str, Array], part: slice) -> Arrays:
    return {name: array[part] for name, array in arrays.items()}


def _size(record: Record) -> int:
    return 0 if record.payload is None else sum(len(one.data) for one in record.payload.inputs)

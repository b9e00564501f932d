"""A loaded bundle as it is called: some rows in, the same rows out, in as many calls as the bundle's code wants."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .around import Around
from .loaded import Loaded

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Answered:
    """What was answered, and what the model itself saw and said: the same arrays where nothing stands between."""

    outputs: Arrays
    model_inputs: Arrays
    model_outputs: Arrays


class Model:
    """A loaded bundle."""

    def __init__(self, loaded: Loaded, config: Mapping[str, Any]) -> None:
        self.around = Around(config)
        self.max_batch_size: int = config["max_batch_size"]
        self._loaded = loaded

    def answer(self, inputs: Arrays, rows: int) -> Answered:
        """Answer some rows (rows first, whatever the bundle's code takes). Raises whatever its code raises."""
        if self.around.batched and rows <= self.max_batch_size:
            return self._call(inputs, rows)
        parts = list(self._calls(inputs, rows))
        joined = [
            {name: np.concatenate([side[name] for side in sides]) for name in sides[0]}
            for sides in zip(*((part.outputs, part.model_inputs, part.model_outputs) for part in parts), strict=True)
        ]
        return Answered(*joined)

    def _calls(self, inputs: Arrays, rows: int) -> Iterator[Answered]:
        if not self.around.batched:
            for row in range(rows):
                one = self._call({name: array[row, ...] for name, array in inputs.items()}, None)
                sides = (one.outputs, one.model_inputs, one.model_outputs)
                yield Answered(*({name: array[np.newaxis] for name, array in side.items()} for side in sides))
            return
        for first in range(0, rows, self.max_batch_size):
            last = min(first + self.max_batch_size, rows)
            yield self._call({name: array[first:last] for name, array in inputs.items()}, last - first)

    def _call(self, inputs: Arrays, rows: int | None) -> Answered:
        around = self.around
        seen = around.before(inputs) if around.preprocesses else inputs
        # A model may write into what it is given, and what it saw is recorded.
        given = {name: array.copy() for name, array in seen.items()} if around.preprocesses else dict(seen)
        said = around.checked("output ", self._loaded.predict(given), around.model_outputs, rows)
        if not around.postprocesses:
            return Answered(said, seen, said)
        return Answered(around.after({name: array.copy() for name, array in said.items()}), seen, said)

"""From waiting frames to their answers: one call of the model for all of them, and each gets its own rows.

A call that fails is made again frame by frame, so that one worker's bad input does not fail another's. Whatever a
model does, short of killing the process, ends in an answer.
"""

import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .connections import Frame, failure
from .frames import Buffer, from_array
from .loaders import Loaded, declared
from .signals import of_inputs, of_outputs, widened

Array = np.ndarray[Any, Any]
Answer = tuple[dict[str, Any], list[Buffer]]
TRACEBACKS_MAX = 20
"""Tracebacks written for the model's author; a client that sends bad inputs for hours must not fill a disk."""


class Batches:
    """Answers frames with one loaded model."""

    def __init__(self, loaded: Loaded, config: Mapping[str, Any]) -> None:
        inputs, outputs = config["inputs"], config["outputs"]
        self.max_batch_size: int = config["max_batch_size"]
        self._loaded = loaded
        self._outputs = outputs
        self._meanings = [(spec["name"], spec.get("semantic")) for spec in outputs]
        self._batched = bool(inputs) and all(spec["shape"][:1] == [-1] for spec in inputs)
        self._halves = {spec["name"] for spec in (*inputs, *outputs) if spec["datatype"] == "BF16"}
        self._tracebacks_left = TRACEBACKS_MAX

    def answers(self, frames: Sequence[Frame]) -> list[Answer]:
        """Return the answer of each frame, in their order. The frames have the same key."""
        try:
            return self._joined(frames)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a model's code may raise anything; the runner lives on
            if len(frames) > 1:
                return [answer for frame in frames for answer in self.answers([frame])]
            if self._tracebacks_left:
                self._tracebacks_left -= 1
                traceback.print_exc(file=sys.stderr)
            return [(failure(frames[0].id, error), [])]

    def _joined(self, frames: Sequence[Frame]) -> list[Answer]:
        inputs, rows = frames[0].inputs, sum(frame.rows for frame in frames)
        if len(frames) > 1:
            inputs = {name: np.concatenate([frame.inputs[name] for frame in frames]) for name in inputs}
        began = time.perf_counter_ns()
        # The inputs are measured first: a model may write into what it is given.
        measured = of_inputs(self._numbers(inputs))
        outputs = self._predict(inputs, rows)
        measured |= of_outputs(self._numbers(outputs), self._meanings)
        spent = time.perf_counter_ns() - began
        follow = {name: _plain(values) for name, values in measured.items()}
        answers: list[Answer] = []
        first = 0
        for frame in frames:
            part = slice(first, first + frame.rows)
            first += frame.rows
            out = [from_array(spec["name"], outputs[spec["name"]][part], spec["datatype"]) for spec in self._outputs]
            signals = [from_array(name, values[part]) for name, values in follow.items()]
            header = {
                "id": frame.id,
                "outputs": [spec for spec, _data in out],
                "signals": [spec for spec, _data in signals],
                "compute_ns": spent,
                "batch_rows": rows,
            }
            buffers: list[Buffer] = [data for _spec, data in (*out, *signals)]
            answers.append((header, buffers))
        return answers

    def _predict(self, inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """Call the model, and put the parts together where it takes several calls."""
        # An array that looks into a frame's bytes can't be written to; a model may expect that it can.
        own = {name: array if array.flags.writeable else array.copy() for name, array in inputs.items()}
        parts = list(self._calls(own, rows))
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _calls(self, inputs: Mapping[str, Array], rows: int) -> Iterator[dict[str, Array]]:
        """Call the model with as many rows as it takes at a time; each answer has its rows first."""
        if not self._batched:
            for row in range(rows):
                answer = self._loaded.predict({name: array[row, ...] for name, array in inputs.items()})
                yield self._checked({name: one[np.newaxis] for name, one in answer.items()}, 1)
            return
        for first in range(0, rows, self.max_batch_size):
            last = min(first + self.max_batch_size, rows)
            answer = self._loaded.predict({name: array[first:last] for name, array in inputs.items()})
            yield self._checked(answer, last - first)

    def _checked(self, answer: Mapping[str, Array], rows: int) -> dict[str, Array]:
        found = {}
        for spec in self._outputs:
            # Without a batch axis the whole declared shape is one row's.
            row = spec["shape"][1:] if self._batched and spec["shape"][:1] == [-1] else spec["shape"]
            found[spec["name"]] = declared(spec["name"], answer[spec["name"]], spec["datatype"], [rows, *row])
        return found

    def _numbers(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        if not self._halves:
            return arrays
        return {name: widened(array) if name in self._halves else array for name, array in arrays.items()}


def _plain(values: Array) -> Array:
    """Signals travel as FP32, INT64 or BYTES."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    return values if values.dtype.kind in "OSU" else values.astype(np.int64)

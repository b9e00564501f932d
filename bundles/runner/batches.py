"""From waiting frames to their answers: one call of the model for all of them, and each gets its own rows.

A call that fails is made again frame by frame, so that one worker's bad input does not fail another's. Whatever a
model does, short of killing the process, ends in an answer.
"""

import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .connections import Answer, Frame, failure
from .declared import Refused
from .frames import describe, from_array
from .loaded import Loaded
from .model import Model
from .rows import packed
from .signals import of_inputs, of_outputs, widened

Array = np.ndarray[Any, Any]
TRACEBACKS_MAX = 20
"""Tracebacks written for the model's author; a client that sends bad inputs for hours must not fill a disk."""


class Batches:
    """Answers frames with one loaded model."""

    def __init__(self, loaded: Loaded, config: Mapping[str, Any]) -> None:
        self.max_batch_size: int = config["max_batch_size"]
        self._model = Model(loaded, config)
        around = self._model.around
        self._around = around
        self._measured = (*around.model_outputs, *(around.outputs if around.postprocesses else ()))
        self._meanings = [(spec["name"], spec.get("semantic")) for spec in self._measured]
        self._tracebacks_left = TRACEBACKS_MAX

    def answers(self, frames: Sequence[Frame]) -> list[Answer]:
        """Return the answer of each frame, in their order. The frames have the same key."""
        try:
            return self._joined(frames)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a model's code may raise anything; the runner lives on
            if len(frames) > 1:
                return [answer for frame in frames for answer in self.answers([frame])]
            if self._tracebacks_left and not isinstance(error, Refused):
                self._tracebacks_left -= 1
                traceback.print_exc(file=sys.stderr)
            return [failure(error)]

    def _joined(self, frames: Sequence[Frame]) -> list[Answer]:
        inputs, rows = frames[0].inputs, sum(frame.rows for frame in frames)
        if len(frames) > 1:
            inputs = {name: np.concatenate([frame.inputs[name] for frame in frames]) for name in inputs}
        around = self._around
        began = time.perf_counter_ns()
        # The inputs are measured first: a model may write into what it is given.
        measured = of_inputs(_numbers(inputs, around.inputs))
        answered = self._model.answer(inputs, rows)
        tensors = [("outputs", answered.outputs, around.outputs)]
        if around.preprocesses:
            measured |= of_inputs(_numbers(answered.model_inputs, around.model_inputs))
            tensors.append(("model_inputs", answered.model_inputs, around.model_inputs))
        if around.postprocesses:
            tensors.append(("model_outputs", answered.model_outputs, around.model_outputs))
        said = answered.model_outputs | answered.outputs
        measured |= of_outputs(_numbers(said, self._measured), self._meanings)
        fields, block = packed(measured, rows)
        spent = time.perf_counter_ns() - began
        answers: list[Answer] = []
        first = 0
        for frame in frames:
            part = slice(first, first + frame.rows)
            first += frame.rows
            described, buffers = [], []
            for kind, arrays, specs in tensors:
                found = [from_array(spec["name"], arrays[spec["name"]][part], spec["datatype"]) for spec in specs]
                described.append((kind, tuple(spec for spec, _data in found)))
                buffers += [data for _spec, data in found]
            spec, data = from_array(fields, block[part])
            described.append(("signals", (spec,)))
            buffers.append(data)
            answers.append(Answer(describe(frame.rows, tuple(described)), buffers, spent, rows))
        return answers


def _numbers(arrays: Mapping[str, Array], specs: Sequence[Mapping[str, Any]]) -> Mapping[str, Array]:
    """Return the arrays as numbers: BF16 is kept as its bits."""
    halves = {spec["name"] for spec in specs if spec["datatype"] == "BF16"}
    return {name: widened(array) if name in halves else array for name, array in arrays.items()} if halves else arrays

"""What a version declares of its inputs and outputs, and a call held against it before it reaches the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bundles.schema import TensorSpec, is_batched
from gateway.errors import BadCall
from monitors.log.record import Tensor

NAME_LENGTH_SHOWN = 64
"""Names from a client are cut to this many characters in messages, records and labels."""
Key = tuple[tuple[Any, ...], ...]
NOT_DECLARED: tuple[str, int, list[int] | None] = ("", -1, None)


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """One entry of a call's `outputs`; `binary` is None when the call as a whole decides."""

    name: str
    binary: bool | None


@dataclass(frozen=True)
class Schema:
    """The declared tensors of one version."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @cached_property
    def batched(self) -> bool:
        """Whether a call may have several rows: all inputs have a batch axis."""
        return is_batched(self.inputs)

    @cached_property
    def by_name(self) -> dict[str, TensorSpec]:
        """The inputs by their names."""
        return {spec.name: spec for spec in self.inputs}

    @cached_property
    def json_inputs(self) -> frozenset[str]:
        """The names of the inputs whose elements are JSON."""
        return frozenset(spec.name for spec in self.inputs if spec.content_type == "application/json")

    @cached_property
    def output_names(self) -> frozenset[str]:
        """The names of the outputs."""
        return frozenset(spec.name for spec in self.outputs)

    @cached_property
    def _trailing(self) -> dict[str, tuple[str, int, list[int] | None]]:
        """Of each input its datatype, its rank, and its sizes behind the first, None where one of them is free."""
        found = {}
        for spec in self.inputs:
            trailing = list(spec.shape[1:])
            fixed = self.batched and -1 not in trailing
            found[spec.name] = (spec.datatype, len(spec.shape), trailing if fixed else None)
        return found

    @cached_property
    def _fixed_key(self) -> Key | None:
        """What `key` is for every call that gives the inputs in their order; None where a size is free."""
        if any(trailing is None for _datatype, _rank, trailing in self._trailing.values()):
            return None
        return tuple((spec.name, spec.datatype, *spec.shape[1:]) for spec in self.inputs)

    def key(self, inputs: Sequence[Tensor]) -> Key:
        """Return what two calls must have in common to go into one batch: names, datatypes, sizes of a row."""
        fixed = self._fixed_key
        if fixed is not None and (len(inputs) == 1 or all(map(_is_named, inputs, fixed))):
            return fixed
        first = 1 if self.batched else 0
        return tuple([(one.name, one.datatype, *one.shape[first:]) for one in inputs])

    def check(self, inputs: Sequence[Tensor], wanted: Sequence[WantedOutput]) -> int:
        """Check a call's inputs, and the outputs that it asks for; return its rows (1 without a batch axis).

        Raises:
            BadCall: naming the tensor, what came, and what was expected.
        """
        for tensor in inputs:
            datatype, rank, trailing = self._trailing.get(tensor.name, NOT_DECLARED)
            shape = tensor.shape
            if tensor.datatype != datatype or len(shape) != rank or shape[1:] != trailing:
                self._fit(tensor)
        if len(inputs) < len(self.inputs):
            came = {tensor.name for tensor in inputs}
            spec = next(spec for spec in self.inputs if spec.name not in came)
            msg = f"input '{spec.name}': missing, expected {spec.datatype} of shape {list(spec.shape)}"
            raise BadCall(msg)
        for one in wanted:
            if one.name not in self.output_names:
                names = ", ".join(repr(spec.name) for spec in self.outputs)
                msg = f"output '{shown(one.name)}': unknown, expected one of {names}"
                raise BadCall(msg)
        return self._rows(inputs) if self.batched else 1

    def _fit(self, tensor: Tensor) -> None:
        """Hold a tensor against its declaration, free sizes and all. Raises BadCall."""
        spec = self.by_name.get(tensor.name)
        if spec is None:
            msg = f"input '{shown(tensor.name)}': unknown, expected {', '.join(map(repr, self.by_name))}"
            raise BadCall(msg)
        if tensor.datatype != spec.datatype:
            msg = f"input '{spec.name}': datatype {tensor.datatype}, expected {spec.datatype}"
            raise BadCall(msg)
        if len(tensor.shape) != len(spec.shape) or any(
            want not in (-1, size) for want, size in zip(spec.shape, tensor.shape, strict=True)
        ):
            msg = f"input '{spec.name}': shape {tensor.shape}, expected {list(spec.shape)} (-1 is any size)"
            raise BadCall(msg)

    def _rows(self, inputs: Sequence[Tensor]) -> int:
        rows = inputs[0].shape[0]
        for tensor in inputs:
            if tensor.shape[0] != rows:
                counts = ", ".join(f"'{one.name}' has {one.shape[0]}" for one in inputs)
                msg = f"inputs: {counts} rows, expected the same number in all"
                raise BadCall(msg)
        if rows == 0:
            msg = f"input '{inputs[0].name}': 0 rows, expected at least 1"
            raise BadCall(msg)
        return rows


def _is_named(tensor: Tensor, described: tuple[Any, ...]) -> bool:
    return bool(tensor.name == described[0])


def shown(value: object) -> str:
    """Cut what a client sent to a length that is fit for a message."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= NAME_LENGTH_SHOWN else text[:NAME_LENGTH_SHOWN] + "…"


def kind(value: Any) -> str:
    """Name the kind of a JSON value, for a message.

    >>> kind(None), kind([1]), kind([]), kind(True)
    ('nothing', 'an array', 'an empty array', 'a boolean')
    """
    names = {type(None): "nothing", bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    return names.get(type(value), "an object")

"""The bundle's own functions around its model: `preprocess` before it, `postprocess` behind it.

Each takes arrays by name and returns arrays by name, rows first where the model takes several. With `preprocess` the
bundle says in `model_inputs` what it makes, with `postprocess` in `model_outputs` what it gets; both are checked.

A `preprocess` that raises ValueError says that what it was given is wrong: a broken picture, an object that lacks a
field. That is the client's mistake; whatever else is raised is the bundle's.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .declared import LoadError, Refused, Spec, by_name, declared

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
CODE = ("entrypoint", "preprocess", "postprocess")
"""What a configuration names of the bundle's own modules."""


class Around:
    """What surrounds one bundle's model. Raises LoadError, Refused, or what the bundle's code raises."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.inputs: Sequence[Spec] = config["inputs"]
        self.outputs: Sequence[Spec] = config["outputs"]
        self.batched = bool(self.inputs) and all(spec["shape"][:1] == [-1] for spec in self.inputs)
        self._preprocess = found(config["preprocess"]) if "preprocess" in config else None
        self._postprocess = found(config["postprocess"]) if "postprocess" in config else None
        self.model_inputs: Sequence[Spec] = config["model_inputs"] if self._preprocess else self.inputs
        self.model_outputs: Sequence[Spec] = config["model_outputs"] if self._postprocess else self.outputs

    @property
    def preprocesses(self) -> bool:
        """Whether the model sees something else than was asked."""
        return self._preprocess is not None

    @property
    def postprocesses(self) -> bool:
        """Whether the model's answer is not what is answered."""
        return self._postprocess is not None

    def before(self, inputs: Arrays) -> dict[str, Array]:
        """Return what the model sees."""
        if self._preprocess is None:
            return dict(inputs)
        try:
            made = self._preprocess(dict(inputs))
        except ValueError as error:
            raise Refused(str(error) or type(error).__name__) from error
        return self._made("preprocess", made, inputs, self.model_inputs)

    def after(self, outputs: Arrays) -> dict[str, Array]:
        """Return what is answered."""
        if self._postprocess is None:
            return dict(outputs)
        return self._made("postprocess", self._postprocess(dict(outputs)), outputs, self.outputs)

    def _made(self, name: str, made: Any, given: Arrays, specs: Sequence[Spec]) -> dict[str, Array]:
        rows = len(next(iter(given.values()))) if self.batched else None
        named = by_name(made, specs)
        return self.checked(f"{name}: ", {key: np.asarray(array) for key, array in named.items()}, specs, rows)

    def checked(self, who: str, made: Arrays, specs: Sequence[Spec], rows: int | None) -> dict[str, Array]:
        """Return the arrays in their declared datatypes; `rows` are how many a batch must have, None without one."""
        arrays = {}
        for spec in specs:
            shape = spec["shape"]
            if rows is not None:
                # An output without a batch axis declares what one row of it is.
                shape = [rows, *(shape[1:] if shape[:1] == [-1] else shape)]
            arrays[spec["name"]] = declared(f"{who}'{spec['name']}'", made[spec["name"]], spec["datatype"], shape)
        return arrays


def brings_code(config: Mapping[str, Any]) -> bool:
    """Say whether anything is imported from the bundle's own folder; only then is the folder on the path."""
    return any(config.get(key) is not None for key in CODE)


def found(entrypoint: str) -> Any:
    """Return what `module:name` names in the bundle's folder. Raises LoadError, or what its code raises."""
    module_name, _, attribute = entrypoint.partition(":")
    module = importlib.import_module(module_name)
    value = getattr(module, attribute or "", None)
    if value is None:
        raise LoadError(f"entrypoint {entrypoint!r}: {module.__file__} has no {attribute!r}")
    return value

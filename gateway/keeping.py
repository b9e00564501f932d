"""What of a model's calls the log keeps: of how many the payload, without what, and whether with the unit's name.

The rule is applied on the request path, after the signals were computed and before the record goes to the writer: what
is taken out here was never written anywhere. A model without a rule of its own has none, and pays one look.

A redacted tensor keeps its name, datatype and shape. The words of an error may repeat what came (and a model may raise
with anything in its message), so a model that redacts keeps only the error's type.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from gateway.errors import InferenceError
from gateway.protocol import elements
from gateway.settings import LogSettings, SettingsError
from monitors.log.record import Payload, Record, Tensor

REDACTED = "[redacted]"
SIDES = ("inputs", "outputs", "model_inputs", "model_outputs")

Matches = Callable[[Any], Iterable[Any]]
"""A compiled path: it finds the places in a JSON document that the path means."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """The rule of one model."""

    payload_rate: float
    tensors: frozenset[str]
    parameters: frozenset[str]
    paths: tuple[tuple[str, Matches], ...]
    units_hashed: bool

    @staticmethod
    def of(settings: LogSettings) -> "Keeping | None":
        """Return the rule that settings make, or None when everything is kept as it came.

        Raises:
            SettingsError: a path that is none, or no library for paths.
        """
        paths = tuple((path, _compiled(path)) for path in settings.redact_json)
        keeping = Keeping(
            settings.payload_rate,
            frozenset(settings.redact_tensors),
            frozenset(settings.redact_parameters),
            paths,
            settings.units == "hashed",
        )
        return None if keeping == EVERYTHING else keeping

    def apply(self, record: Record, json_tensors: Collection[str]) -> None:
        """Take out of a record what is not kept; `json_tensors` are the inputs whose elements are JSON."""
        payload = record.payload
        assert payload is not None, "it is applied before the record is written"
        if self.units_hashed:
            payload.unit = None
        record.payload_rate = self.payload_rate
        if not is_kept(record.id, self.payload_rate):
            record.payload_state = "sampled out"
            payload.parameters = {}
            for side in SIDES:
                setattr(payload, side, [_withheld(one, "sampled out") for one in getattr(payload, side)])
        if self.tensors or self.parameters or self.paths:
            record.redactions = list(self._redact(payload, json_tensors))

    def _redact(self, payload: Payload, json_tensors: Collection[str]) -> Iterable[str]:
        """Redact a payload, and say what was redacted."""
        if payload.error is not None:
            payload.error = None
            yield "error"
        found = [name for name in payload.parameters if name in self.parameters]
        if found:
            payload.parameters = payload.parameters | dict.fromkeys(found, REDACTED)
            yield from (f"parameters.{name}" for name in found)
        for side in SIDES:
            tensors: list[Tensor] = getattr(payload, side)
            for place, tensor in enumerate(tensors):
                if tensor.name in self.tensors:
                    redacted, said = _withheld(tensor, "redacted"), [tensor.name]
                elif self.paths and tensor.name in json_tensors and tensor.withheld is None:
                    redacted, said = self._redacted_json(tensor)
                else:
                    continue
                # The list and the tensors in it are others' too.
                tensors = [*tensors[:place], redacted, *tensors[place + 1 :]]
                yield from (f"{side}.{one}" for one in said)
            setattr(payload, side, tensors)

    def _redacted_json(self, tensor: Tensor) -> tuple[Tensor, list[str]]:
        """Redact the elements of a BYTES tensor; one that is no JSON might hold anything."""
        parts, said = [], dict[str, None]()
        for element in elements(tensor.data):
            try:
                document = orjson.loads(element)
            except orjson.JSONDecodeError:
                return _withheld(tensor, "redacted"), [tensor.name]
            for path, matches in self.paths:
                for match in list(matches(document)):
                    said[f"{tensor.name} {path}"] = None
                    if match.parent is None:
                        document = REDACTED
                    else:
                        match.parent.obj[match.parts[-1]] = REDACTED
            text = orjson.dumps(document)
            parts.append(len(text).to_bytes(4, "little") + text)
        if not said:
            return tensor, []
        return Tensor(tensor.name, tensor.datatype, tensor.shape, b"".join(parts), None, "redacted in part"), list(said)


EVERYTHING = Keeping(1.0, frozenset(), frozenset(), (), units_hashed=False)


def is_kept(prediction_id: str, rate: float) -> bool:
    """Say whether the payload of a prediction is in the sample: by a hash of its id, so that anybody can say it again.

    A prediction that is in a sample is in every larger one.

    >>> ids = [f"0192f3a4-7c11-7d2e-9f60-{number:012x}" for number in range(10_000)]
    >>> sum(is_kept(one, 0.25) for one in ids)
    2471
    >>> all(is_kept(one, 1.0) for one in ids), any(is_kept(one, 0.0) for one in ids)
    (True, False)
    """
    return int.from_bytes(blake2b(prediction_id.encode(), digest_size=8).digest(), "big") < rate * 2**64


def words(record: Record, failure: InferenceError) -> str:
    """Say what went wrong: where the record does not hold the words, neither lines nor spans do."""
    return failure.error_type if "error" in record.redactions else failure.message


def _withheld(tensor: Tensor, why: str) -> Tensor:
    return Tensor(tensor.name, tensor.datatype, tensor.shape, b"", None, why)


def _compiled(path: str) -> Matches:
    try:
        from jsonpath import JSONPathError, compile  # noqa: A004, PLC0415 - an optional extra
    except ImportError as error:
        raise SettingsError(f"redact_json = {path!r}: needs an extra, pip install 'snowgate[jsonpath]'") from error
    try:
        return compile(path).finditer
    except JSONPathError as error:
        sentence = str(error).partition("\n")[0]
        raise SettingsError(f"redact_json = {path!r}: {sentence}, expected a path such as $.person.name") from error

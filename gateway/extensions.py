"""The protocol's extensions beside inference: model repository, statistics, model configuration.

What they answer is the same on every wire; the routes are in `extension_routes`. What a worker knows it says itself,
for the rest it asks control.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bundles.schema import TensorSpec
from gateway.errors import BadCall
from gateway.predict import Predictor
from gateway.questions import Questions
from gateway.schema import kind, shown
from gateway.statistics import version_json
from gateway.table import Served

DATA_TYPES = {"BOOL": "TYPE_BOOL", "BYTES": "TYPE_STRING"}
"""Where Triton's name for a datatype in a configuration is not `TYPE_` before the protocol's."""


class Extensions:
    """Answers of one worker. `flush` sends control what this worker has counted until now."""

    def __init__(self, predictor: Predictor, questions: Questions, flush: Callable[[], None], *, changes: bool) -> None:
        self._predictor = predictor
        self._questions = questions
        self._flush = flush
        self._changes = changes

    @property
    def names(self) -> list[str]:
        """The names of the extensions that work here, as the protocol's server metadata lists them."""
        repository = ["model_repository"] if self._changes else []
        return ["binary_tensor_data", "model_configuration", *repository, "statistics"]

    async def index(self, *, ready: bool) -> list[dict[str, str]]:
        """Return name, version, state and reason of the models in the store; with `ready` only of those that answer."""
        rows = {(one["name"], one["version"]): one for one in await self._questions.ask("index")}
        for served in self._loaded():
            key = (served.model, served.version)
            if served.queue.connected:
                rows[key] = {"name": served.model, "version": served.version, "state": "READY", "reason": ""}
        found = [rows[key] for key in sorted(rows)]
        return [one for one in found if one["state"] == "READY"] if ready else found

    async def load(self, model: str, parameters: Any) -> None:
        """Serve a model and wait until it answers.

        Raises:
            BadCall: parameters that would change what the bundle says.
            Declined: as `Repository.load` says.
        """
        for name in _object(parameters):
            if name == "config" or name.startswith("file:"):
                raise BadCall(
                    f"failed to load '{shown(model)}', parameters.{shown(name)}: a bundle is served as it was packed "
                    "and signed, expected no overrides; pack another version (`snowgate bundle pack`)"
                )
            raise BadCall(f"failed to load '{shown(model)}', parameters.{shown(name)}: unknown, expected none")
        await self._questions.ask("load", model=model)

    async def unload(self, model: str, parameters: Any) -> None:
        """Serve a model no more; calls in flight are answered. Raises BadCall, Declined: as `Repository.unload`."""
        for name, value in _object(parameters).items():
            # Nothing depends on a model here, so whether dependents go too changes nothing.
            if name != "unload_dependents" or type(value) is not bool:
                raise BadCall(
                    f"failed to unload '{shown(model)}', parameters.{shown(name)}: {kind(value)}, "
                    "expected at most unload_dependents, a boolean"
                )
        await self._questions.ask("unload", model=model)

    async def statistics(self, model: str | None, version: str | None) -> dict[str, Any]:
        """Return `model_stats` of the loaded versions: of all, of a model, or of one version. Raises NotFound."""
        if model is None:
            wanted = self._loaded()
        elif version is None:
            wanted = list(self._predictor.table.model(model).versions.values())
        else:
            wanted = [self._predictor.table.model(model).named(version)]
        self._flush()  # On the same channel and before the question: of this worker nothing is missing.
        counted = {(one["name"], one["version"]): one for one in await self._questions.ask("statistics")}
        keys = sorted((one.model, one.version) for one in wanted)
        return {"model_stats": [counted.get(key) or version_json(*key) for key in keys]}

    def configuration(self, model: str, version: str | None) -> dict[str, Any]:
        """Return one version's configuration in Triton's form. Raises NotFound, Unavailable."""
        served = self._predictor.table.model(model).named(version)
        batched, size = served.schema.batched, served.queue.max_batch_size
        document = {
            "name": served.model,
            "platform": served.platform,
            "backend": served.engine,
            "version_policy": {"specific": {"versions": [int(served.version)] if served.version.isdigit() else []}},
            "max_batch_size": size if batched else 0,
            "input": [
                {**_tensor(spec, batched=batched), "format": "FORMAT_NONE", "optional": False}
                for spec in served.schema.inputs
            ],
            "output": [_tensor(spec, batched=batched) for spec in served.schema.outputs],
            "parameters": {
                f"{spec.name}.content_type": {"string_value": spec.content_type}
                for spec in served.schema.inputs
                if spec.content_type is not None
            },
        }
        if batched:
            # What waits leaves in one frame when the runner is free; nothing is delayed for the sake of a batch.
            document["dynamic_batching"] = {"preferred_batch_size": [size], "max_queue_delay_microseconds": 0}
        return document

    def _loaded(self) -> Sequence[Served]:
        models = self._predictor.table.models.values()
        return [served for model in models for served in model.versions.values()]


def _object(parameters: Any) -> Mapping[str, Any]:
    if parameters is not None and not isinstance(parameters, dict):
        raise BadCall(f"parameters: {kind(parameters)}, expected an object")
    return parameters or {}


def _tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    """One tensor; the extension leaves the batch axis out of `dims` where `max_batch_size` is above 0."""
    return {
        "name": spec.name,
        "data_type": DATA_TYPES.get(spec.datatype, f"TYPE_{spec.datatype}"),
        "dims": list(spec.shape[1:] if batched else spec.shape),
    }

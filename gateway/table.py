"""What a worker serves right now: one frozen table, swapped whole.

Control pushes a snapshot of all routes and runners; a worker builds the new table beside the old one and swaps one
reference, so a call sees either all of a change or nothing of it. Queues live as long as their version is served: a
table hands on those of the versions that stayed, and the worker lets go of the others once they are idle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from gateway.batching import RunnerQueue
from gateway.call import Source
from gateway.errors import NotFound, Unavailable
from gateway.keeping import Keeping
from gateway.routing import Choice, Route, Variant, choose
from gateway.schema import Schema, shown
from monitors.log.record import Record


@dataclass(frozen=True, slots=True)
class Served:
    """One loaded version: what it is and how its runners are reached."""

    model: str
    version: str
    digest: str
    platform: str
    engine: str
    schema: Schema
    queue: RunnerQueue
    serves_unlogged: bool
    """Whether calls are answered while the log can't be written."""


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A version in its part of a route: what is the same for all calls that it answers there."""

    served: Served
    choice: Choice
    source: Source
    blank: Record
    """What their records have in common; the rest is for each call to fill in."""


@dataclass(frozen=True, slots=True)
class Model:
    """One name that clients see: its route, the versions that are loaded, and what of its calls is not kept."""

    name: str
    route: Route
    versions: Mapping[str, Served]
    keeping: Keeping | None = None
    _placed: dict[str | Choice | None, Placed] = field(default_factory=dict, repr=False)

    def place(self, version: str | None, unit: str | None, chance: float) -> Placed:
        """Choose the version that answers: the one that the client names, or one by the route.

        Raises:
            NotFound: the named version is not loaded, or nothing is routed.
            Unavailable: the chosen version's runner is starting again.
        """
        key = choose(self.route, unit, chance) if version is None else version
        found = self._placed.get(key)
        if found is None:
            found = self._placed[key] = self._place(version, key)
        return found

    def _place(self, version: str | None, key: str | Choice | None) -> Placed:
        served, choice = self._chosen(version, None if isinstance(key, str) else key)
        source = Source(served.model, served.version, served.digest, choice.variant.variant)
        blank = Record(
            id="",
            kind="answered",
            time=0.0,
            model=served.model,
            version=served.version,
            bundle=served.digest,
            variant=source.variant,
            reason=choice.reason,
            probability=choice.probability,
            route_revision=self.route.revision,
            rollout=self.route.rollout,
            status=200,
            engine=served.engine,
        )
        return Placed(served, choice, source, blank)

    def _chosen(self, version: str | None, choice: Choice | None) -> tuple[Served, Choice]:
        if version is not None:
            served = self.versions.get(version)
            if served is None:
                loaded = ", ".join(sorted(self.versions)) or "none"
                what = f"'{self.name}' version '{shown(version)}'"
                raise NotFound(f"Request for unknown model: {what} is not found; loaded: {loaded}")
            routed = [one for one in self.route.variants if one.digest == served.digest]
            variant = routed[0] if routed else Variant("static", served.version, served.digest, 0)
            return served, Choice(variant, "static", 1.0)
        if choice is None:
            msg = f"Request for unknown model: '{self.name}' has no available versions"
            raise NotFound(msg)
        served = self.versions.get(choice.variant.version)
        if served is None:
            msg = f"model '{self.name}' version '{choice.variant.version}' is starting, try again in a second"
            raise Unavailable(msg)
        return served, choice

    def named(self, version: str | None) -> Served:
        """Return the version that a question about the model is about: the named one, else the stable one.

        Raises:
            NotFound: it is not loaded.
            Unavailable: the stable version's runner is starting.
        """
        if version is None:
            stable = next((one.version for one in self.route.variants if one.variant == "stable"), None)
            if stable is not None and stable not in self.versions:
                msg = f"model '{self.name}' version '{stable}' is starting, try again in a second"
                raise Unavailable(msg)
            version = stable
        served = None if version is None else self.versions.get(version)
        if served is None:
            msg = f"Request for unknown model: '{self.name}' version '{shown(version)}' is not found"
            raise NotFound(msg)
        return served


@dataclass(frozen=True, slots=True)
class Table:
    """All models of one gateway; `revision` is control's count of snapshots."""

    revision: int = 0
    models: Mapping[str, Model] = field(default_factory=dict)

    def model(self, name: str) -> Model:
        """Return the model of that name. Raises NotFound."""
        found = self.models.get(name)
        if found is None:
            served = ", ".join(sorted(self.models)) or "none"
            msg = f"Request for unknown model: '{shown(name)}' is not found; served: {served}"
            raise NotFound(msg)
        return found

    @property
    def ready(self) -> bool:
        """Whether every model's stable version can answer; a canary that can't does not make a server unready."""
        return bool(self.models) and all(can_answer(model) for model in self.models.values())


def can_answer(model: Model) -> bool:
    """Whether a model's stable version has its runner."""
    stable = next((one for one in model.route.variants if one.variant == "stable"), None)
    served = None if stable is None else model.versions.get(stable.version)
    return served is not None and served.queue.connected

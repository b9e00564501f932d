"""Which version answers, and why: pure, sticky and exact.

A unit's bucket is a hash of the rollout's id and the unit, modulo 10,000; the canary takes the buckets below its
weight. So the split is exact in the hash space, needs no cookie and no state, is the same in every worker, and is
nested: raising a weight never moves a unit back to the stable version. Another rollout has another id and so
another shuffle. A call without a unit is placed by chance, and its record says so by having no unit.

The reasons are OpenTelemetry's `feature_flag.result.reason` values: `static` (the client named the version),
`default` (one version takes everything), `split`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

BUCKETS = 10_000
"""Shares are whole ten-thousandths: 1 % is 100 buckets."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One version's part in a route."""

    variant: str
    version: str
    digest: str
    weight: int


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The variant that answers, with the reason and the probability with which it was chosen.

    A route has one for each of its variants, so what is made of a choice can be kept for all calls that get it.
    """

    variant: Variant
    reason: str
    probability: float


@dataclass(frozen=True)
class Route:
    """How one model's traffic is split: the last variant takes what the others leave."""

    model: str
    rollout: str
    revision: int
    variants: tuple[Variant, ...]

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """What can come out for a call that names no version, in the order of the variants."""
        if len(self.variants) == 1:
            return (Choice(self.variants[0], "default", 1.0),)
        return tuple(Choice(variant, "split", variant.weight / BUCKETS) for variant in self.variants)

    @staticmethod
    def parse(document: Mapping[str, Any], revision: int) -> "Route":
        """Read a `routes/<model>` document. Raises ValueError when the weights do not sum to 10,000."""
        variants = tuple(
            Variant(one["variant"], one["version"], one["digest"], one["weight"]) for one in document["variants"]
        )
        total = sum(one.weight for one in variants)
        if variants and total != BUCKETS:
            msg = f"route of {document['model']!r}: weights sum to {total}, expected {BUCKETS}"
            raise ValueError(msg)
        # The stable one last: canaries take the lowest buckets, which makes a growing weight nested.
        ordered = tuple(sorted(variants, key=lambda one: one.variant == "stable"))
        return Route(document["model"], document["rollout"], revision, ordered)


def bucket(rollout: str, unit: str) -> int:
    """Return the unit's place in the hash space of this rollout, 0 to 9,999.

    >>> bucket("signs-1", "camera-7") == bucket("signs-1", "camera-7")
    True
    >>> shares = [bucket("signs-1", f"camera-{n}") < 1_000 for n in range(20_000)]
    >>> 0.09 < sum(shares) / len(shares) < 0.11
    True
    """
    digest = blake2b(f"{rollout}\0{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % BUCKETS


def choose(route: Route, unit: str | None, chance: float) -> Choice | None:
    """Choose the variant for a unit; `chance` in [0, 1) places a call that has none. None when nothing is routed."""
    choices = route.choices
    if not choices:
        return None
    if len(choices) == 1:
        return choices[0]
    place = int(chance * BUCKETS) if unit is None else bucket(route.rollout, unit)
    for choice in choices:
        if place < choice.variant.weight:
            return choice
        place -= choice.variant.weight
    msg = f"route of {route.model!r} leaves bucket {place} to nobody"
    raise AssertionError(msg)

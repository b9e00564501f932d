"""Routing is exact, sticky and nested."""

import pytest

from gateway.routing import BUCKETS, Route, bucket, choose


def route(weight: int, rollout: str = "r") -> Route:
    """A route with a canary."""
    variants = [
        {"variant": "stable", "version": "1", "digest": "sha256:1", "weight": BUCKETS - weight},
        {"variant": "canary", "version": "2", "digest": "sha256:2", "weight": weight},
    ]
    return Route.parse({"model": "signs", "rollout": rollout, "variants": variants}, 1)


def chosen(weight: int, unit: str, rollout: str = "r") -> str:
    """The version that a unit gets."""
    choice = choose(route(weight, rollout), unit, 0.0)
    assert choice is not None
    return choice.variant.version


def test_the_split_is_exact_in_the_hash_space() -> None:
    """A unit gets the canary exactly when its bucket lies below the weight."""
    for number in range(3_000):
        unit = f"unit-{number}"
        assert (chosen(1_234, unit) == "2") == (bucket("r", unit) < 1_234)


def test_a_growing_weight_moves_nobody_back() -> None:
    """Who had the canary at 1 % has it at 10, 50 and 99 %."""
    units = [f"unit-{number}" for number in range(5_000)]
    before: set[str] = set()
    for weight in (100, 1_000, 5_000, 9_900):
        now = {unit for unit in units if chosen(weight, unit) == "2"}
        assert before <= now
        before = now


def test_another_rollout_is_another_shuffle() -> None:
    """The units of one canary are not always the guinea pigs of the next."""
    units = [f"unit-{number}" for number in range(2_000)]
    one = {unit for unit in units if chosen(1_000, unit, "a") == "2"}
    two = {unit for unit in units if chosen(1_000, unit, "b") == "2"}
    assert len(one & two) < len(one) / 3


def test_without_a_unit_chance_decides() -> None:
    """The number in [0, 1) that is given decides, and the probability is recorded."""
    canary, stable = choose(route(2_500), None, 0.2499), choose(route(2_500), None, 0.25)
    assert canary is not None
    assert stable is not None
    assert (canary.variant.version, canary.reason, canary.probability) == ("2", "split", 0.25)
    assert (stable.variant.version, stable.probability) == ("1", 0.75)


def test_one_version_is_no_split() -> None:
    """The reason says so."""
    alone = Route.parse(
        {
            "model": "m",
            "rollout": "r",
            "variants": [{"variant": "stable", "version": "1", "digest": "d", "weight": 10_000}],
        },
        1,
    )
    choice = choose(alone, "unit", 0.5)
    assert choice is not None
    assert (choice.reason, choice.probability) == ("default", 1.0)
    assert choose(Route("m", "r", 1, ()), "unit", 0.5) is None


def test_weights_that_do_not_sum_up_are_refused() -> None:
    """A route that leaves part of the hash space to nobody is an error, with its sum."""
    with pytest.raises(ValueError, match="sum to 9000, expected 10000"):
        Route.parse(
            {
                "model": "m",
                "rollout": "r",
                "variants": [{"variant": "stable", "version": "1", "digest": "d", "weight": 9_000}],
            },
            1,
        )

"""What agreement, floor and interval are, and that the floor holds as often as it says."""

import numpy as np
import pytest

from bundles.reproduction.agreement import Agreement, compare, expected, floor

ROWS = 400


def test_a_floor_holds_in_nineteen_of_twenty() -> None:
    """Models of many seeds, of which three make the floor: a fourth is below it in about one of twenty draws."""
    random = np.random.default_rng(5)
    below = 0
    for _draw in range(2_000):
        chances = np.clip(random.normal(0.95, 0.01, 4), 0, 1)
        shares = random.binomial(ROWS, chances) / ROWS
        below += shares[3] < floor(list(shares[:3]), ROWS)
    assert 0.005 < below / 2_000 < 0.06


def test_equal_pairs_leave_room_for_a_count() -> None:
    """Where no seed changed anything the spread is nothing, and the floor is still not one; one pair is refused."""
    assert floor([1.0] * 3, ROWS) == 1 - 2 / ROWS
    assert floor([0.9] * 3, ROWS) < 0.9
    assert floor([0.0, 0.0], ROWS) == 0.0
    with pytest.raises(ValueError, match="1 pairs"):
        floor([0.99], ROWS)


def test_the_interval_covers_what_was_counted() -> None:
    """It reaches the ends where all or none agreed, and is wider with fewer rows."""
    assert Agreement(1.0, 100, 0.0).interval()[1] == 1.0
    assert Agreement(0.0, 100, 0.0).interval()[0] == 0.0
    wide, narrow = (Agreement(0.9, rows, 0.0).interval() for rows in (50, 5_000))
    assert wide[0] < narrow[0] < 0.9 < narrow[1] < wide[1]


def test_a_row_agrees_when_all_its_outputs_do() -> None:
    """Logits by their class, values by being near, text by being the same; gaps are those of probabilities."""
    meanings = {"y": "logits", "v": "value", "t": "label"}
    specs = [{"name": name, "semantic": semantic} for name, semantic in meanings.items()]
    first = {
        "y": np.array([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0], [9.0, 0.0]], dtype=np.float32),
        "v": np.array([0.0, 10.0, 20.0, 30.0], dtype=np.float32),
        "t": np.array(["a", "b", "c", "d"], dtype=object),
    }
    second = {name: array.copy() for name, array in first.items()}
    assert compare(specs, first, second) == Agreement(1.0, 4, 0.0)
    second["y"][0] += 100.0
    assert compare(specs, first, second) == Agreement(1.0, 4, 0.0), "the same probabilities from other logits"
    second["v"][1] += 1.0
    found = compare(specs, first, second)
    assert found.share == 1.0
    assert found.largest == pytest.approx(0.1)
    second["v"][1] += 1.0
    second["y"][2] = [0.0, 9.0]
    assert compare(specs, first, second).share == 0.5
    second["t"][3] = "e"
    found = compare(specs, first, second)
    assert (found.share, found.largest) == (0.25, float("inf"))


def test_another_shape_agrees_nowhere() -> None:
    """A model with other classes, or without the output, is not compared by what happens to fit."""
    specs = [{"name": "y", "semantic": "logits"}]
    first = {"y": np.zeros((3, 2), dtype=np.float32)}
    for second in ({"y": np.zeros((3, 4), dtype=np.float32)}, {"z": first["y"]}):
        assert compare(specs, first, second) == Agreement(0.0, 3, float("inf"))


def test_nan_is_nan_again() -> None:
    """What could not be computed and still can't is the same; what now can is not."""
    specs = [{"name": "v", "semantic": "value"}]
    first = {"v": np.array([np.nan, 1.0, np.inf], dtype=np.float32)}
    assert compare(specs, first, {"v": first["v"].copy()}) == Agreement(1.0, 3, 0.0)
    for other in ([0.0, 1.0, np.inf], [np.nan, np.nan, np.inf], [np.nan, 1.0, 0.0]):
        assert compare(specs, first, {"v": np.array(other, dtype=np.float32)}).largest == float("inf")


def test_a_metric_is_expected_where_seeds_bring_it() -> None:
    """The more metrics are looked at together, the more room each has."""
    low, high = expected([0.90, 0.91, 0.92], 1)
    assert 0.85 < low < 0.90
    assert 0.92 < high < 0.97
    assert expected([0.90, 0.91, 0.92], 5)[0] < low

"""The table from what was found to the verdict."""

import pytest

from bundles.reproduction.agreement import Agreement
from bundles.reproduction.verdict import Floor, Found, cause, verdict

FLOOR = Floor(agreements=[0.96, 0.955, 0.962], floor=0.946, metrics={"accuracy": [0.90, 0.91, 0.905]}, rows=1000)
METRICS = {"accuracy": 0.904}


@pytest.mark.parametrize(
    ("share", "largest", "floor", "after", "changed", "expected"),
    [
        (1.0, 9e-6, None, 0.5, ["code"], "numerically-equal"),
        (1.0, 2e-5, None, 0.904, [], "different"),
        (0.999, 9e-6, None, 0.904, [], "different"),
        (0.999, 0.5, FLOOR, 0.904, [], "equivalent"),
        (0.946, 0.5, FLOOR, 0.904, ["seed"], "equivalent"),
        (0.945, 0.5, FLOOR, 0.904, ["seed"], "different"),
        (0.960, 0.5, FLOOR, 0.800, ["seed"], "different"),
        (0.999, 0.5, FLOOR, 0.904, ["data"], "different"),
        (0.999, 0.5, FLOOR, 0.904, ["code"], "different"),
        (0.999, 0.5, FLOOR, 0.904, ["environment"], "equivalent"),
    ],
)
def test_the_table(
    share: float, largest: float, floor: Floor | None, after: float, changed: list[str], expected: str
) -> None:
    """Labels and numbers first, then the floor and the metrics; other data and code are never equivalent."""
    found = Found(False, Agreement(share, 1000, largest), METRICS, {"accuracy": after}, floor, changed)
    assert verdict(found)[0] == expected


def test_the_same_bytes_need_no_question() -> None:
    """Identical is identical, whatever was changed for it."""
    assert verdict(Found(True, Agreement(1.0, 9, 0.0), METRICS, METRICS, None, ["data"]))[0] == "identical"


def test_the_sentence_says_what_decided() -> None:
    """The margin, what the metrics would have said alone, what to type for a floor, and what the run died of."""
    below = Found(False, Agreement(0.9, 1000, 0.5), METRICS, METRICS, FLOOR)
    assert "0.9000 of 1000 rows agree, and other seeds would have 0.9460" in verdict(below)[1]
    assert "metrics alone would not have told" in verdict(below)[1]
    moved = Found(False, Agreement(0.99, 1000, 0.5), METRICS, {"accuracy": 0.7}, FLOOR)
    assert "accuracy is 0.7" in verdict(moved)[1]
    gone = Found(False, Agreement(0.99, 1000, 0.5), METRICS, {}, FLOOR)
    assert "'accuracy' is missing" in verdict(gone)[1]
    close = Found(False, Agreement(0.99, 1000, 0.5), METRICS, METRICS, FLOOR, ["data"])
    assert "can't tell it from another seed, but it has other data" in verdict(close)[1]
    assert "--floor-seeds" in verdict(Found(False, Agreement(0.99, 1000, 0.5), METRICS, METRICS))[1]
    assert verdict(Found(False, None, METRICS, failed="it died"))[1] == "it died"


def test_a_metric_that_no_seed_moves_may_be_written_otherwise() -> None:
    """Seeds without spread leave no interval; the last digit of a number is still no other result."""
    still = Floor(FLOOR.agreements, FLOOR.floor, {"accuracy": [0.904] * 3}, 1000)
    for after, expected in ((0.904 + 1e-12, "equivalent"), (0.905, "different")):
        found = Found(False, Agreement(0.99, 1000, 0.5), METRICS, {"accuracy": after}, still)
        assert verdict(found)[0] == expected


def test_causes() -> None:
    """What was changed on purpose comes first; a run that does not repeat itself has a seed too few."""
    assert cause("identical", ["seed"], ["hardware"], repeats=None) is None
    assert cause("equivalent", ["seed"], ["hardware"], repeats=None) == "seed"
    assert cause("different", [], ["environment", "hardware"], repeats=True) == "environment, hardware"
    assert cause("different", [], [], repeats=False) == "seed"
    assert cause("different", [], [], repeats=True) is None

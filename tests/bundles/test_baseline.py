import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.baseline import CATEGORIES_MAX, INVALID, OTHER, Baseline, measure
from bundles.runner.rows import packed, unpacked

NAN, INF = float("nan"), float("inf")


def test_a_scalar_is_cut_at_its_quantiles_and_at_its_tails() -> None:
    """Ten bins of equal share, of which the outer two give their outermost hundredth to bins of their own."""
    energy = np.random.default_rng(1).normal(size=10_000)
    expected = measure({"energy": energy}, "holdout").signals["energy"]
    assert [round(expected.counts[str(number)] / 100) for number in range(12)] == [1, 9, *[10] * 8, 9, 1]
    assert expected.edges == pytest.approx(np.quantile(energy, [0.01, *np.arange(1, 10) / 10, 0.99]))
    assert (expected.mean, expected.std) == pytest.approx((energy.mean(), energy.std()))


def test_what_is_not_finite_is_counted_apart() -> None:
    """NaN and infinities have a bin of their own, and no part in edges and moments."""
    expected = measure({"energy": np.array([1.0, 2.0, 3.0, NAN, INF, -INF])}, "holdout").signals["energy"]
    assert expected.counts[INVALID] == 3
    assert sum(expected.counts.values()) == expected.rows == 6
    assert expected.mean == 2
    nothing = measure({"energy": np.array([NAN, NAN])}, "holdout").signals["energy"]
    assert (nothing.counts, nothing.edges, nothing.mean) == ({INVALID: 2}, (), None)


def test_a_constant_signal_has_a_bin_for_it_and_one_on_each_side() -> None:
    """A share of missing that was always 0: the least that is missing later falls elsewhere."""
    expected = measure({"missing": np.zeros(100, dtype=np.float32)}, "holdout").signals["missing"]
    assert expected.counts == {"0": 0, "1": 100, "2": 0}
    assert np.searchsorted(expected.edges, [-1e-30, 0, 1e-30], side="right").tolist() == [0, 1, 2]


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.25, NAN]) | st.floats(width=32), min_size=1, max_size=200))
def test_every_row_is_counted_once_and_json_keeps_it(values: list[float]) -> None:
    """Edges rise strictly, counts sum to the rows, bins found again from the edges are those counted."""
    array = np.array(values, dtype=np.float32)
    baseline = measure({"x": array}, "holdout")
    expected = baseline.signals["x"]
    assert expected.rows == baseline.rows == len(values)
    assert (np.diff(expected.edges) > 0).all()
    again = Baseline.from_json(json.loads(json.dumps(baseline.to_json())))
    assert again == baseline
    finite = array[np.isfinite(array)].astype(np.float64)
    if len(finite):
        found = np.bincount(np.searchsorted(again.signals["x"].edges, finite, side="right"))
        assert found.tolist() == [expected.counts[str(number)] for number in range(len(found))]


def test_classes_from_a_runner_and_from_the_log_are_the_same() -> None:
    """A model's labels may be bytes, the log has text: a baseline that is decided on later means the same."""
    labels = np.array([b"cat", "❄".encode(), b"cat"], dtype=object)
    from_runner = measure(unpacked(*packed({"a": np.array([3, -1, 3]), "b": labels}, 3)), "x")
    from_log = measure({"a": np.array([3, -1, 3]), "b": np.array(["cat", "❄", "cat"])}, "x")
    assert from_runner == from_log
    assert from_runner.signals["a"].counts == {"-1": 1, "3": 2}
    assert from_runner.signals["b"].counts == {"cat": 2, "❄": 1}


def test_categories_have_a_limit() -> None:
    """The rarest beyond it are counted together, and no row is lost."""
    labels = np.concatenate([np.arange(CATEGORIES_MAX + 50), np.arange(CATEGORIES_MAX)])
    counts = measure({"class": labels}, "holdout").signals["class"].counts
    assert len(counts) == CATEGORIES_MAX + 1
    assert counts[OTHER] == 50
    assert sum(counts.values()) == len(labels)


def test_nothing_measured_is_a_baseline_of_nothing() -> None:
    """A model without signals, and a log without rows, raise nothing."""
    assert measure({}, "holdout").rows == 0
    assert measure({"energy": np.array([])}, "log").signals["energy"].rows == 0


def test_another_schema_is_refused() -> None:
    """A baseline of a later kind is not misread."""
    with pytest.raises(ValueError, match="schema 2, expected 1"):
        Baseline.from_json({"schema": 2, "source": "holdout", "rows": 0, "signals": {}})

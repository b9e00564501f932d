"""What every detector of the table must do."""

import json
from typing import Any

import numpy as np
import pytest

from monitors.detectors import DETECTORS, BinnedEDetector

ARGUMENTS: dict[str, dict[str, Any]] = {
    "categorical": {"counts": {"0": 500, "1": 500}},
    "binned": {"edges": [0.5], "counts": [500, 500]},
}


def make(name: str) -> Any:
    """A detector of the table with what it needs."""
    return DETECTORS[name](**ARGUMENTS.get(name, {}))


@pytest.mark.parametrize("name", DETECTORS)
def test_follows_rivers_convention(name: str) -> None:
    """It can be updated, cloned (same parameters, fresh state), and says drift or not after each update."""
    detector = make(name)
    for number in range(100):
        detector.update(number % 2)
        assert detector.drift_detected in (True, False)
    fresh = detector.clone()
    assert type(fresh) is type(detector)
    assert fresh.drift_detected is False


@pytest.mark.parametrize("name", ["categorical", "binned", "adwin"])
def test_quiet_on_what_is_as_expected(name: str) -> None:
    """10,000 fair coins: no drift."""
    detector = make(name)
    seen = 0
    for coin in np.random.default_rng(1).integers(0, 2, 10_000).tolist():
        detector.update(coin)
        seen += detector.drift_detected
    assert seen == 0


class TestBinned:
    """What only the detector of bins does."""

    edges = (-1.0, 0.0, 1.0)
    counts = (160, 340, 340, 160)

    def test_bins_are_closed_below(self) -> None:
        """A value on an edge belongs to the bin above it; what is not finite belongs to none."""
        detector = BinnedEDetector(self.edges, self.counts)
        codes = detector.encode(np.array([-2.0, -1.0, 0.5, 1.0, np.nan, np.inf]))
        assert codes.tolist() == [0, 1, 2, 3, 4, 4]

    @pytest.mark.parametrize(("mean", "spread"), [(0.5, 1.0), (0.0, 2.0), (0.0, 0.5)])
    def test_finds_shifts_of_mean_and_spread(self, mean: float, spread: float) -> None:
        """Half a standard deviation, or a doubled or halved spread, is found within 1,500 rows."""
        chance = np.random.default_rng(2)
        detector = BinnedEDetector(self.edges, self.counts, limit=1e6)
        for first in range(0, 1_500, 50):
            values = chance.normal(mean, spread, 50)
            detector.update_batch(values, np.arange(50), credit=50.0, time=float(first))
            if detector.drift_detected:
                break
        assert detector.drift_detected
        observed = detector.observed_mean()
        assert observed is not None
        assert abs(observed - mean) < 0.3

    def test_invalid_values_are_found(self) -> None:
        """A model that begins to answer NaN is found, and the mean is of the finite values only."""
        detector = BinnedEDetector(self.edges, self.counts, limit=1e6)
        values = np.where(np.arange(60) % 2, np.nan, 0.25)
        detector.update_batch(values, np.arange(60), credit=1.0, time=0.0)
        assert detector.drift_detected
        assert detector.observed_mean() == 0.25

    def test_a_constant_signal(self) -> None:
        """One edge and all rows in one bin is a fair reference; another value is found."""
        detector = BinnedEDetector([0.0], [0, 1_000], limit=1e6)
        detector.update_batch(np.zeros(64), np.arange(64), credit=1.0, time=0.0)
        assert not detector.warning_detected
        detector.update_batch(np.full(64, -1.0), np.arange(64), credit=1.0, time=1.0)
        assert detector.drift_detected

    def test_state_goes_through_json(self) -> None:
        """Saved and restored it goes on as if nothing had been."""
        chance = np.random.default_rng(3)
        detector = BinnedEDetector(self.edges, self.counts, limit=1e6)
        detector.update_batch(chance.normal(size=64), np.arange(64), credit=1.0, time=0.0)
        again = BinnedEDetector(self.edges, self.counts, limit=1e6)
        again.restore(json.loads(json.dumps(detector.to_json())))
        assert again.evidence == detector.evidence
        assert again.observed_mean() == detector.observed_mean()

    def test_edges_and_counts_must_match(self) -> None:
        """A baseline whose counts do not fit its edges is refused in words."""
        with pytest.raises(ValueError, match="one count more"):
            BinnedEDetector([0.0], [1])

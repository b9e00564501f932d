"""The e-detector over categories: its promise, its delays, its batches, its state."""

import json

import numpy as np
import pytest

from monitors.detectors.categorical import OTHER, CategoricalEDetector, band

SHARES = np.array([0.30, 0.15, 0.12, 0.10, 0.08, 0.08, 0.06, 0.05, 0.04, 0.02])


def exact_reference(rows: int = 1_000) -> dict[str, float]:
    """A reference that has each share exactly."""
    return {str(number): share * rows for number, share in enumerate(SHARES)}


def draw(chance: np.random.Generator, shares: np.ndarray, rows: int) -> np.ndarray:
    """Codes of `rows` predictions."""
    return chance.choice(len(shares), size=rows, p=shares).astype(np.int64)


def alarms(
    detector: CategoricalEDetector, codes: np.ndarray, batch: int = 64, units: np.ndarray | None = None
) -> list[int]:
    """Rows after which the detector alarmed."""
    found = []
    for first in range(0, len(codes) - batch + 1, batch):
        number = np.arange(batch) if units is None else units[first : first + batch]
        _, local = np.unique(number, return_inverse=True)
        detector.update_batch(codes[first : first + batch], local, credit=float(batch), time=float(first))
        if detector.drift_detected:
            found.append(first + batch)
    return found


def test_band_holds_every_share_at_once() -> None:
    """In at most 5 % of the references does any true share leave the band, even without tolerance."""
    chance = np.random.default_rng(1)
    outside = 0
    for counts in chance.multinomial(1_000, SHARES, size=400):
        lower, upper = band(counts.astype(float), 0.95, 0.0)
        outside += bool(((lower > SHARES) | (upper < SHARES)).any())
    assert outside <= 400 * 0.05 + 3 * np.sqrt(400 * 0.05)


def test_false_alarms_stay_under_the_promise() -> None:
    """A known reference, 2 million stationary rows, limit 20,000: at most 100 alarms promised, plus three sigma."""
    detector = CategoricalEDetector(exact_reference(10**12), limit=20_000, tolerance=0.0)
    found = alarms(detector, draw(np.random.default_rng(2), SHARES, 2_000_000))
    assert 10 <= len(found) <= 100 + 30


def test_a_reference_of_a_thousand_rows_does_not_cry_wolf() -> None:
    """Ten sampled references of 1,000 rows, 200,000 stationary rows each, limit 100,000: the bound is 20 alarms."""
    chance = np.random.default_rng(3)
    total = 0
    for counts in chance.multinomial(1_000, SHARES, size=10):
        detector = CategoricalEDetector(dict(zip(map(str, range(10)), counts.tolist(), strict=True)), limit=1e5)
        total += len(alarms(detector, draw(chance, SHARES, 200_000)))
    assert total <= 20


@pytest.mark.parametrize("batch", [1, 64, 256])
def test_a_halved_class_is_found(batch: int) -> None:
    """30 % -> 15 % is found within 2,000 rows, and the explanation names the class and about the right onset."""
    chance = np.random.default_rng(4)
    shifted = np.concatenate([[0.15], SHARES[1:] * 0.85 / 0.7])
    detector = CategoricalEDetector(exact_reference(), limit=1e6)
    codes = np.concatenate([draw(chance, SHARES, 2_048), draw(chance, shifted, 2_048)])
    for first in range(0, len(codes), batch):
        part = codes[first : first + batch]
        detector.update_batch(part, np.arange(len(part)), credit=float(len(part)), time=float(first))
        if detector.drift_detected:
            break
    told = detector.explain()
    assert 2_048 <= first < 2_048 + 2_000
    assert told.category == "0"
    assert told.ratio < 1
    assert abs(told.onset - 2_048) < 300
    assert told.observed["0"] < 0.2
    assert told.expected["0"] == pytest.approx(0.3)
    assert told.rows == pytest.approx(first + batch - told.onset)


def test_one_noisy_client_does_not_page() -> None:
    """A client with 20 % of the traffic repeats itself: many alarms when rows count alone, hardly one as a unit."""
    chance = np.random.default_rng(5)
    rows = 200_000
    codes = draw(chance, SHARES, rows)
    noisy = chance.random(rows) < 0.2
    # Runs of 30 equal classes from the noisy client.
    runs = draw(chance, SHARES, rows // 30 + 1).repeat(30)[: noisy.sum()]
    codes[noisy] = runs
    units = np.where(noisy, -1, np.arange(rows))
    alone = len(alarms(CategoricalEDetector(exact_reference(10**6), limit=1e5), codes))
    grouped = len(alarms(CategoricalEDetector(exact_reference(10**6), limit=1e5), codes, units=units))
    assert alone > 100
    assert grouped <= 2


def test_units_of_one_row_equal_plain_rows() -> None:
    """The path for units of several rows gives the same evidence as the fast path when each unit has one row."""
    codes = draw(np.random.default_rng(6), SHARES, 64)
    fast = CategoricalEDetector(exact_reference())
    slow = CategoricalEDetector(exact_reference())
    fast.update_batch(codes, np.arange(64), credit=1.0, time=0.0)
    doubled = np.concatenate([codes, codes])
    slow.update_batch(doubled, np.concatenate([np.arange(64), np.arange(64)]), credit=1.0, time=0.0)
    assert slow.evidence == pytest.approx(fast.evidence)


def test_an_unseen_category_is_found() -> None:
    """A category that the reference never had is counted as OTHER and found."""
    detector = CategoricalEDetector({"a": 500, "b": 500}, limit=1e6)
    codes = detector.encode(["a", "b", "new"] * 30)
    detector.update_batch(codes, np.arange(90), credit=1.0, time=0.0)
    assert detector.drift_detected
    assert detector.explain().category == OTHER


def test_nothing_is_detected_before_the_minimum() -> None:
    """Overwhelming evidence in fewer rows than the minimum waits for the minimum."""
    detector = CategoricalEDetector({"a": 10**6, "b": 1}, limit=10, minimum=30)
    detector.update_batch(detector.encode(["b"] * 29), np.arange(29), credit=1.0, time=0.0)
    assert detector.evidence > 10
    assert not detector.drift_detected
    detector.update("b")
    assert detector.drift_detected


def test_after_an_alarm_it_starts_anew() -> None:
    """River's convention: the update after an alarm begins with a restart, and a lasting shift alarms again."""
    detector = CategoricalEDetector(exact_reference(), limit=1e6)
    found = alarms(detector, np.full(6_400, 9, dtype=np.int64))
    assert len(found) == 100  # every batch of 64 rows of a class that should be at 2 %
    assert np.isfinite(detector.evidence)


def test_state_goes_through_json() -> None:
    """Saved half way and restored, the detector gives the same evidence, alarms and explanation to the last bit."""
    chance = np.random.default_rng(7)
    codes = draw(chance, SHARES[::-1], 3_200)
    straight = CategoricalEDetector(exact_reference(), limit=1e4)
    halved = CategoricalEDetector(exact_reference(), limit=1e4)
    for first in range(0, 3_200, 64):
        for detector in (straight, halved):
            detector.update_batch(codes[first : first + 64], np.arange(64), credit=64.0, time=float(first))
        assert straight.drift_detected == halved.drift_detected
        assert straight.evidence == halved.evidence
        mine, theirs = straight.explain(), halved.explain()
        assert (mine.onset, mine.observed, mine.rows) == (theirs.onset, theirs.observed, theirs.rows)
        saved = json.dumps(halved.to_json(), allow_nan=False)
        halved = CategoricalEDetector(exact_reference(), limit=1e4)
        halved.restore(json.loads(saved))


def test_a_state_of_another_reference_is_refused() -> None:
    """A state saved with other categories is not taken."""
    detector = CategoricalEDetector({"a": 500, "b": 500})
    with pytest.raises(ValueError, match="another reference"):
        CategoricalEDetector({"a": 500, "b": 300, "c": 200}).restore(detector.to_json())


def test_an_empty_reference_is_refused() -> None:
    """A reference without a row promises nothing."""
    with pytest.raises(ValueError, match="at least one row"):
        CategoricalEDetector({})


def test_a_thousand_classes() -> None:
    """With 1,000 classes the number of kept starts stays bounded and a vanished half is found."""
    chance = np.random.default_rng(8)
    detector = CategoricalEDetector({str(number): 10 for number in range(1_000)}, limit=1e6)
    for first in range(0, 64 * 80, 64):
        codes = chance.integers(0, 1_000 if first < 64 * 40 else 20, 64)
        detector.update_batch(codes, np.arange(64), credit=64.0, time=float(first))
        assert not (detector.drift_detected and first < 64 * 40)
        if detector.drift_detected:
            break
    assert detector.drift_detected

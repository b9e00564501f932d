import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bundles.runner.signals import FEW, of_inputs, of_outputs, widened

INF, NAN = float("inf"), float("nan")


def test_logits() -> None:
    """Class, confidence, entropy, margin and energy are what their formulas say."""
    found = of_outputs({"y": np.array([[0, 1, 2], [5, 5, 5]], dtype=np.float32)}, [("y", "logits")])
    softmax = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    assert found["class"].tolist() == [2, 0]
    assert found["confidence"] == pytest.approx([softmax[2], 1 / 3])
    assert found["margin"] == pytest.approx([softmax[2] - softmax[1], 0], abs=1e-12)
    assert found["entropy"] == pytest.approx([-(softmax * np.log(softmax)).sum(), np.log(3)])
    assert found["energy"] == pytest.approx([np.log(np.exp([0, 1, 2]).sum()), 5 + np.log(3)])


def test_large_logits_do_not_overflow() -> None:
    """The largest is subtracted before the exponential."""
    found = of_outputs({"y": np.array([[1e30, 0], [-1e30, -1e30]])}, [("y", "logits")])
    assert found["energy"] == pytest.approx([1e30, -1e30])
    assert found["confidence"] == pytest.approx([1, 0.5])


def test_one_logit_is_two_classes() -> None:
    """A single logit is read as the sigmoid's: above zero is class 1."""
    found = of_outputs({"y": np.array([[3.0], [-3.0]])}, [("y", "logits")])
    assert found["class"].tolist() == [1, 0]
    assert found["confidence"] == pytest.approx([1 / (1 + np.exp(-3))] * 2)
    assert found["energy"] == pytest.approx(np.log1p(np.exp([3.0, -3.0])))


def test_probabilities() -> None:
    """Certainty has no entropy, one number is the second of two classes, and there is no energy."""
    found = of_outputs({"p": np.array([[1.0, 0, 0], [0.5, 0.25, 0.25]])}, [("p", "probabilities")])
    assert found["entropy"] == pytest.approx([0, 1.5 * np.log(2)])
    assert found["margin"] == pytest.approx([1, 0.25])
    assert "energy" not in found
    single = of_outputs({"p": np.array([0.9, 0.2])}, [("p", "probabilities")])
    assert single["class"].tolist() == [1, 0]
    assert single["confidence"] == pytest.approx([0.9, 0.8])


def test_labels_values_and_embeddings() -> None:
    """Labels stay what they are, a value is itself, an embedding is followed by its norm."""
    assert of_outputs({"y": np.array([[3], [7]], dtype=np.int8)}, [("y", "label")])["class"].dtype == np.int64
    text = of_outputs({"y": np.array([b"cat", b"dog"], dtype=object)}, [("y", "label")])
    assert text["class"].tolist() == [b"cat", b"dog"]
    assert of_outputs({"y": np.array([2.0, NAN])}, [("y", "label")])["class"].tolist() == [2, -1]
    assert of_outputs({"y": np.array([[1.5], [2.5]])}, [("y", "value")])["value"].tolist() == [1.5, 2.5]
    assert of_outputs({"y": np.array([[3.0, 4.0]])}, [("y", "embedding")])["norm"].tolist() == [5.0]
    assert of_outputs({"y": np.zeros((2, 2))}, [("y", None)]) == {}


def test_names_say_the_output_where_two_have_the_same_signal() -> None:
    """Bare names are for signals that only one output has."""
    outputs = {"sign": np.zeros((2, 3)), "light": np.zeros((2, 3))}
    both = of_outputs(outputs, [("sign", "logits"), ("light", "probabilities")])
    assert {"sign.class", "light.class", "energy"} <= set(both)
    assert not {"class", "sign.energy"} & set(both)


@pytest.mark.parametrize("nonsense", [NAN, INF, -INF])
def test_a_row_that_is_not_finite_is_invalid_and_its_neighbour_is_not(nonsense: float) -> None:
    """Class -1 and NaN for the row of nonsense; the other row is measured as ever. No warning, no error."""
    for semantic in ("logits", "probabilities"):
        found = of_outputs({"y": np.array([[nonsense, nonsense], [0.8, 0.2]])}, [("y", semantic)])
        assert found["class"].tolist() == [-1, 0]
        for name in ("confidence", "entropy", "margin"):
            assert np.isnan(found[name][0])
            assert np.isfinite(found[name][1])


def test_a_class_that_is_masked_by_minus_infinity_is_no_nonsense() -> None:
    """A logit of minus infinity is a probability of zero."""
    found = of_outputs({"y": np.array([[-INF, 1.0, 1.0]])}, [("y", "logits")])
    assert found["class"].tolist() == [1]
    assert found["entropy"] == pytest.approx([np.log(2)])


@given(arrays.arrays(np.float32, (3, 4), elements=st.floats(width=32)))
def test_nothing_raises_or_warns_on_any_floats(outputs: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
    """Whatever a model says is measured, row by row, as inputs and under each meaning."""
    for semantic in ("logits", "probabilities", "value", "embedding", "label"):
        found = of_outputs({"y": outputs}, [("y", semantic)])
        assert {len(values) for values in found.values()} == {3}
        if semantic in ("logits", "probabilities"):
            assert set(np.flatnonzero(found["class"] == -1)) == set(np.flatnonzero(np.isnan(found["confidence"])))
    assert {values.shape for values in of_inputs({"x": outputs}).values()} == {(3,)}


@given(
    arrays.arrays(np.float32, (1, 4), elements=st.floats(-(2**50), 2**50, width=32) | st.sampled_from([NAN, INF, -INF]))
)
def test_a_lone_row_is_measured_as_it_is_in_company(few: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
    """A small row alone takes another way than several, and comes to the same: nonsense, infinities and ties too.

    Up to 2^50: beyond, float32 overflows where Python does not.
    """
    many = np.concatenate([few] * 2)
    assert few.size <= FEW
    logits = [("y", "logits")]
    pairs = [
        (of_inputs({"y": few}), of_inputs({"y": many})),
        (of_outputs({"y": few}, logits), of_outputs({"y": many}, logits)),
    ]
    for alone, beside in pairs:
        for name, values in alone.items():
            expected = beside[name][:1]
            if name.endswith(("class", "missing")):
                assert values.tolist() == expected.tolist(), name
            else:
                largest = np.nanmax(np.abs(np.where(np.isfinite(few), few, 0)))
                assert values == pytest.approx(expected, rel=1e-5, abs=float(1e-6 * largest) + 1e-9, nan_ok=True), name


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_have_mean_contrast_and_missing(dtype: str) -> None:
    """Per row, over all of its elements, NaN left out; half precision does not overflow."""
    rows = np.array([[[1, 3], [5, 7]], [[NAN, 2], [4, NAN]], [[NAN] * 2] * 2, [[4e3, -4e3], [4e3, -4e3]]], dtype=dtype)
    found = of_inputs({"image": rows})
    assert list(found) == ["image.mean", "image.contrast", "image.missing"]
    assert found["image.mean"] == pytest.approx([4, 3, NAN, 0], nan_ok=True)
    assert found["image.contrast"] == pytest.approx([np.std([1, 3, 5, 7]), 1, NAN, 4e3], nan_ok=True)
    assert found["image.missing"].tolist() == [0, 0.5, 1, 0]


def test_rows_that_miss_nothing_are_measured_the_same_beside_rows_that_do() -> None:
    """The short way for whole batches and the long way for those with NaN agree."""
    rows = np.random.default_rng(1).normal(size=(2, 50))
    alone = of_inputs({"x": rows})
    beside = of_inputs({"x": np.concatenate([rows, np.full((1, 50), NAN)])})
    for name, values in alone.items():
        assert beside[name][:2] == pytest.approx(values)


def test_whole_numbers_can_miss_nothing_and_text_has_no_signals() -> None:
    """Only floats have a share of missing; text and empty inputs are not measured."""
    images = np.array([[0, 255], [10, 10]], dtype=np.uint8)
    found = of_inputs({"image": images, "text": np.array([b"a", b"b"], dtype=object), "none": np.zeros((2, 0))})
    assert {name: values.tolist() for name, values in found.items()} == {
        "image.mean": [127.5, 10],
        "image.contrast": [127.5, 0],
    }


def test_brain_floats_are_widened() -> None:
    """BF16 bits are the upper half of FP32's."""
    numbers = np.array([1.0, -2.5, 0.0, INF], dtype=np.float32)
    assert widened((numbers.view(np.uint32) >> 16).astype(np.uint16)).tolist() == numbers.tolist()

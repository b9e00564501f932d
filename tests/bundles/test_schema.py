from typing import Any

import pytest

from bundles.errors import RecipeError
from bundles.runner import frames
from bundles.schema import DATATYPES, TensorSpec, is_batched


def test_the_runner_knows_the_same_datatypes() -> None:
    """The runner stands alone and says the table again: the two must be one."""
    said = {name: dtype for name, (dtype, _size) in DATATYPES.items() if name != "BYTES"}
    assert said == frames.DTYPES
    assert all(dtype.itemsize == DATATYPES[name][1] for name, dtype in said.items())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"datatype": "FLOAT"}, "FLOAT.*FP32"),
        ({"shape": (0,)}, r"\[0\]"),
        ({"shape": (-2, 3)}, r"\[-2, 3\]"),
        ({"shape": (True,)}, "True"),
        ({"shape": (1.5,)}, "1.5"),
        ({"semantic": "logit"}, "logit.*logits"),
        ({"content_type": "image"}, r"content_type 'image', expected one such as \"image/\*\""),
        ({"content_type": "image/*"}, r"content_type on FP32 \[-1\], expected BYTES"),
        (
            {"datatype": "BYTES", "shape": (-1, 2), "content_type": "image/*"},
            r"BYTES.*expected.*one element",
        ),
    ],
)
def test_a_wrong_declaration_is_named(wrong: dict[str, Any], said: str) -> None:
    """The error names the tensor, what was declared, and what can be."""
    with pytest.raises(RecipeError, match=f"tensor 'image': .*{said}"):
        TensorSpec(**({"name": "image", "datatype": "FP32", "shape": (-1,)} | wrong))


def test_json_and_back() -> None:
    """A specification survives the configuration blob, where lists stand for tuples."""
    spec = TensorSpec("sign", "FP32", (-1, 2), "logits", ("stop", "go"))
    assert TensorSpec(**spec.to_json()) == spec
    photo = TensorSpec("photo", "BYTES", (-1, 1), content_type="image/*")
    assert TensorSpec(**photo.to_json()) == photo
    assert TensorSpec("x", "INT8", (3,)).to_json() == {"name": "x", "datatype": "INT8", "shape": [3]}


def test_a_batch_needs_a_batch_axis_on_every_input() -> None:
    """One input without the axis, and rows can't be joined."""
    rows, row = TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "FP32", (2,))
    assert is_batched([rows])
    assert not is_batched([rows, row])
    assert not is_batched([TensorSpec("scalar", "FP32", ())])
    assert not is_batched([])

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bundles.errors import RecipeError
from bundles.recipe import read_recipe, weights_of

ROWS = np.ones((5, 4), dtype=np.float32)


def edit(project: Path, old: str, new: str) -> None:
    """Change the recipe."""
    path = project / "bundle.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_a_good_recipe_is_read(project: Path) -> None:
    """All that stands there, and a default for what does not."""
    recipe = read_recipe(project)
    assert (recipe.model, recipe.loader, recipe.entrypoint) == ("divider", "python", "divider:Divider")
    assert recipe.inputs[0].shape == (-1, 4)
    assert recipe.outputs[0].semantic == "logits"
    assert recipe.tolerance == {"absolute": 1e-4, "relative": 1e-4}
    assert recipe.max_batch_size == 64
    assert sorted(recipe.rows("holdout.npz")) == ["pixels"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('holdout = "', 'holdot = "', "unknown key 'holdot'; did you mean 'holdout'?"),
        ('model = "divider"', 'python = "3.10"', "needs requirements = "),
        ('model = "divider"', 'python = "old"\nrequirements = "r.txt"', 'expected such as "3.10"'),
        ('model = "divider"', 'requirements = "r.txt"', "requirements = 'r.txt': no such file"),
        ('model = "divider"', "xyz = 1", "unknown key 'xyz'; expected one of entrypoint"),
        ('loader = "python"', "", "'loader' is missing"),
        ('loader = "python"', 'loader = "pickle"', "loader 'pickle', expected one of torch, torch-export"),
        ('"divider:Divider"', '"divider"', "entrypoint 'divider', expected module:name"),
        ('"divider:Divider"', "7", "entrypoint = 7, expected text"),
        ('"holdout.npz"', '"rows.npz"', "holdout = 'rows.npz': no such file"),
        ('"holdout.npz"', '"../holdout.npz"', "holdout = '../holdout.npz': no such file"),
        ('model = "divider"', "model = 7", "model = 7, expected text"),
        ('model = "divider"', "max_batch_size = 0", "max_batch_size = 0, expected a whole number above 0"),
        ('model = "divider"', 'max_batch_size = "8"', "max_batch_size = '8', expected a whole number"),
        ('model = "divider"', "tolerance = -1.0", "tolerance = -1.0, expected 0 or more"),
        ('model = "divider"', "tolerance = { absolute = 1 }", "expected a number, or absolute and relative"),
        (
            'model = "divider"',
            'tolerance = { absolute = "a", relative = 1 }',
            "absolute = 'a', expected a finite number",
        ),
        ("accuracy = 0.75", "accuracy = nan", "metrics: accuracy = nan, expected a finite number"),
        ("accuracy = 0.75", 'accuracy = "good"', "metrics: accuracy = 'good', expected a finite number"),
        (
            'datatype = "FP32"',
            'datatype = "FLOAT"',
            "inputs[0]: tensor 'pixels': datatype 'FLOAT', expected one of BOOL",
        ),
        ("shape = [-1, 4]", "shape = [-1, 0]", "shape [-1, 0], expected sizes above 0"),
        ("shape = [-1, 4]", 'shape = "4"', "shape = '4'"),
        ("shape = [-1, 4]", "shap = [-1, 4]", "inputs[0]: unknown key 'shap'; did you mean 'shape'?"),
        ("shape = [-1, 4]", "", "inputs[0]: 'shape' is missing"),
        ('name = "pixels"', "name = 7", "inputs[0]: name = 7, expected text"),
        ('semantic = "logits"', 'semantic = "odds"', "semantic 'odds', expected one of logits"),
        ("shape = [-1, 4]", "shape = [-1]\ncontent_type = 7", "content_type = 7, expected text"),
        ("shape = [-1, 4]", "shape = [-1]\ncontent_type = 'image/*'", "content_type on FP32 [-1], expected BYTES"),
        ('model = "divider"', 'preprocess = "divider"', "preprocess 'divider', expected module:name"),
        ('model = "divider"', 'preprocess = "a:b"', "only with it, model_inputs are declared"),
        (
            "[[inputs]]",
            "[[model_outputs]]\nname='z'\ndatatype='FP32'\nshape=[-1]\n[[inputs]]",
            "postprocess = None: with it",
        ),
        (
            'model = "divider"',
            "preprocess = 'a:b'\nmodel_inputs = [{ name = 'z', datatype = 'FP32', shape = [4] }]",
            "inputs and model_inputs: expected a leading -1",
        ),
        (
            'model = "divider"',
            "postprocess = 'a:b'\nmodel_outputs = [{name='scores', datatype='FP32', shape=[], semantic='value'}]",
            "output 'scores' has a semantic before and after postprocess",
        ),
        ("[[inputs]]", "[inputs]", "inputs = {"),
        ("[[inputs]]", "inputs = []\n[[unused]]", "unknown key 'unused'"),
        ("[[outputs]]", "[[inputs]]\nname='pixels'\ndatatype='FP32'\nshape=[1]\n[[outputs]]", "'pixels' stands twice"),
        ("[[inputs]]", "[[inputs", "bundle.toml: "),
    ],
)
def test_each_mistake_has_its_message(project: Path, old: str, new: str, said: str) -> None:
    """The file, the key, what stands there, and what was expected."""
    edit(project, old, new)
    with pytest.raises(RecipeError) as caught:
        read_recipe(project)
    assert said in str(caught.value)
    assert "bundle.toml" in str(caught.value)


def test_a_folder_without_a_recipe_says_what_it_needs(tmp_path: Path) -> None:
    """The first thing that a newcomer sees: which file, and where it is described."""
    with pytest.raises(RecipeError, match=r"bundle\.toml: not found.*docs/bundles\.md"):
        read_recipe(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": ROWS, "b": ROWS}, "has arrays a, b, expected one named 'pixels'"),
        ({}, "has arrays nothing, expected one named 'pixels'"),
        ({"pixels": np.ones((5, 3), dtype=np.float32)}, "shape [5, 3], expected ['rows', 4]"),
        ({"pixels": np.ones(4, dtype=np.float32)}, "shape [4], expected ['rows', 4]"),
        ({"pixels": ROWS.astype(complex)}, "is complex128, expected float32 for FP32"),
        ({"pixels": np.full((5, 4), "one")}, "is <U3, expected float32 for FP32"),
        ({"pixels": ROWS[:0]}, "expected the same number in all, at least 1"),
    ],
)
def test_example_rows_that_do_not_fit_say_why(project: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    """A missing input, a wrong shape, a wrong type, no rows: the file, the array, what is there, what is expected."""
    np.savez(project / "holdout.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"holdout\.npz") as caught:
        read_recipe(project).rows("holdout.npz")
    assert said in str(caught.value)


def test_numbers_are_not_cut_to_fit(project: Path) -> None:
    """300 is no UINT8, and must not become 44; float64 in place of float32 is what users have, and is taken."""
    assert read_recipe(project).rows("holdout.npz")["pixels"].dtype == np.float32
    edit(project, 'datatype = "FP32"', 'datatype = "INT8"')
    np.savez(project / "holdout.npz", pixels=np.full((5, 4), 100))
    assert read_recipe(project).rows("holdout.npz")["pixels"].dtype == np.int8
    np.savez(project / "holdout.npz", pixels=np.full((5, 4), 300))
    with pytest.raises(RecipeError, match="values that INT8 can't hold"):
        read_recipe(project).rows("holdout.npz")


def test_objects_are_never_unpickled(project: Path) -> None:
    """A holdout that would run code when it is read is refused, whichever way it is written."""
    np.savez(project / "holdout.npz", pixels=np.array([b"a", 1, None], dtype=object))
    with pytest.raises(RecipeError, match="allow_pickle"):
        read_recipe(project).rows("holdout.npz")
    (project / "holdout.npz").write_bytes(pickle.dumps(ROWS))
    with pytest.raises(RecipeError, match=r"holdout\.npz: can't be read"):
        read_recipe(project).rows("holdout.npz")


@pytest.mark.parametrize("rows", [np.array([[b"ab", b"c"]]), np.array([["é", "c"]])])
def test_text_of_fixed_width_is_taken(project: Path, rows: np.ndarray) -> None:
    """BYTES inputs can be stored without objects, as numpy's bytes or text."""
    edit(project, 'datatype = "FP32"\nshape = [-1, 4]', 'datatype = "BYTES"\nshape = [-1, 2]')
    np.savez(project / "holdout.npz", pixels=rows)
    assert read_recipe(project).rows("holdout.npz")["pixels"].shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.npy", lambda path: np.save(path, ROWS)),
        ("rows.npz", lambda path: np.savez(path, anything=ROWS)),
        ("rows.safetensors", lambda path: save_file({"x": ROWS}, path)),
    ],
)
def test_one_array_for_one_input_needs_no_name(project: Path, name: str, write: Callable[[Path], None]) -> None:
    """All three formats; the only array is the only input's."""
    write(project / name)
    edit(project, "holdout.npz", name)
    assert np.array_equal(read_recipe(project).rows(name)["pixels"], ROWS)


@pytest.mark.parametrize("name", ["rows.npz", "rows.npy", "rows.safetensors", "rows.csv"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"1,2,3"])
def test_a_file_that_is_no_array_is_named(project: Path, name: str, content: bytes) -> None:
    """An empty, cut or foreign file is a mistake in the recipe, and no other exception."""
    (project / name).write_bytes(content)
    edit(project, "holdout.npz", name)
    with pytest.raises(RecipeError, match=name.replace(".", r"\.")):
        read_recipe(project).rows(name)


def test_the_weights_are_the_only_safetensors_that_is_no_example(project: Path) -> None:
    """With one candidate nothing needs to be said; with none or two the recipe must name it."""
    edit(project, 'loader = "python"', 'loader = "torch"')
    edit(project, "holdout.npz", "rows.safetensors")
    save_file({"x": ROWS}, project / "rows.safetensors")
    with pytest.raises(RecipeError, match="none; name one"):
        weights_of(read_recipe(project))
    save_file({"w": ROWS}, project / "a.safetensors")
    assert weights_of(read_recipe(project)) == "a.safetensors"
    save_file({"w": ROWS}, project / "b.safetensors")
    with pytest.raises(RecipeError, match=r"a\.safetensors, b\.safetensors; name one"):
        weights_of(read_recipe(project))

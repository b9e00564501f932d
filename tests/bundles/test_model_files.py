"""Loaders that read what a model's own file carries: what they say of it, and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
import xgboost
from onnx import TensorProto, helper
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from bundles.bundle import open_bundle
from bundles.errors import BundleError, CorruptBundle, RecipeError
from bundles.home import Home
from bundles.manifest import CONFIG_TYPE, Manifest
from bundles.recipe import completed, read_recipe, weights_of
from bundles.runner.declared import LoadError, Refused
from bundles.runner.loaders import describe, load
from tests.bundles.unpacked import tensor

ROWS = np.random.default_rng(1).normal(size=(80, 3))
SIDES = (ROWS[:, 0] > 0).astype(int)
NAMES = ["temperature", "humidity", "wind"]


def graph(operator: str = "Relu", domain: str = "") -> bytes:
    """Return an ONNX model of one operator."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(operator, ["x"], ["y"], domain=domain)],
            "one",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3])],
        ),
        opset_imports=[helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


def boosted(objective: str, labels: Any, **more: Any) -> xgboost.Booster:
    """Return a small model of XGBoost."""
    table = xgboost.DMatrix(ROWS, labels, feature_names=NAMES)
    return xgboost.train({"objective": objective, "nthread": 1, **more}, table, 3)


def grown(objective: str, labels: Any, **more: Any) -> lightgbm.Booster:
    """Return a small model of LightGBM."""
    settings = {"objective": objective, "verbose": -1, "num_threads": 1, "min_data_in_leaf": 2, **more}
    return lightgbm.train(settings, lightgbm.Dataset(ROWS, labels), 3)


WRITERS: dict[str, Callable[[Path], object]] = {
    "m.onnx": lambda file: file.write_bytes(graph()),
    "m.ubj": lambda file: boosted("binary:logistic", SIDES).save_model(file),
    "m.json": lambda file: boosted("binary:logistic", SIDES).save_model(file),
    "m.txt": lambda file: grown("binary", SIDES).save_model(file),
    "m.skops": lambda file: skops.io.dump(LogisticRegression().fit(ROWS, SIDES), file),
    "m.pt2": lambda file: torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.zeros(1, 3),)), file),
}
LOADER_OF = {".onnx": "onnx", ".ubj": "xgboost", ".json": "xgboost", ".txt": "lightgbm", ".skops": "sklearn",
             ".pt2": "torch-export"}  # fmt: skip


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small whole model of each format."""
    folder = tmp_path_factory.mktemp("files")
    for name, write in WRITERS.items():
        write(folder / name)
    return folder


def config_of(name: str, **more: Any) -> dict[str, Any]:
    """Return the configuration of an unpacked bundle."""
    return {"loader": LOADER_OF[Path(name).suffix], "weights": name, "max_batch_size": 8, **more}


def put(directory: Path, name: str, content: bytes) -> Path:
    """Write the model's file of an unpacked bundle."""
    (directory / "model").mkdir(exist_ok=True)
    (directory / "model" / name).write_bytes(content)
    return directory


@pytest.mark.parametrize("name", WRITERS)
def test_half_a_file_and_another_format_are_refused_by_name(name: str, files: Path, tmp_path: Path) -> None:
    """Cut anywhere, or of another kind: one sentence that names the file; the process lives on."""
    whole = (files / name).read_bytes()
    for content in (b"", whole[:7], whole[: len(whole) // 2], whole[:-60], b"snow" * 100):
        with pytest.raises(LoadError, match=f"^{name}: ") as refused:
            describe(put(tmp_path, name, content), config_of(name))
        assert "expected" in str(refused.value) or "writes it" in str(refused.value)


def test_a_custom_operator_is_refused_by_name(tmp_path: Path) -> None:
    """No library of operators is ever loaded for a graph."""
    with pytest.raises(LoadError, match=r"m.onnx: needs the custom operator acme:Blow"):
        describe(put(tmp_path, "m.onnx", graph("Blow", "acme")), config_of("m.onnx"))


@pytest.mark.parametrize("name", ["m.onnx", "m.ubj", "m.txt", "m.skops"])
def test_another_number_of_features_is_refused(name: str, files: Path, tmp_path: Path) -> None:
    """What is declared is held against the file before anything is answered."""
    directory = put(tmp_path, name, (files / name).read_bytes())
    carried = describe(directory, config_of(name))
    wrong = [{**carried["inputs"][0], "shape": [-1, 5]}]
    with pytest.raises(LoadError, match=rf"{name}: .*\[-1, 5\]"):
        load(directory, config_of(name, inputs=wrong, outputs=carried["outputs"]))
    with pytest.raises(LoadError, match=rf"{name}: .*'elsewhere'"):
        load(directory, config_of(name, inputs=carried["inputs"], outputs=[tensor("elsewhere", [-1])]))


@pytest.mark.parametrize(
    ("objective", "labels", "more", "said"),
    [
        ("binary:logistic", SIDES, {}, tensor("probabilities", [-1], "FP32", "probabilities")),
        ("binary:logitraw", SIDES, {}, tensor("logits", [-1], "FP32", "logits")),
        ("multi:softprob", SIDES, {"num_class": 2}, tensor("probabilities", [-1, 2], "FP32", "probabilities")),
        ("multi:softmax", SIDES, {"num_class": 2}, tensor("label", [-1], "INT64", "label")),
        ("reg:squarederror", ROWS[:, 1], {}, tensor("value", [-1], "FP32", "value")),
        ("reg:squarederror", ROWS[:, :2], {}, tensor("value", [-1, 2], "FP32", "value")),
    ],
)
def test_an_objective_of_xgboost_says_what_is_answered(
    objective: str, labels: Any, more: dict[str, Any], said: dict[str, Any], tmp_path: Path
) -> None:
    """Semantic, type and shape follow from the file, and so does the answer."""
    booster = boosted(objective, labels, **more)
    directory = put(tmp_path, "m.ubj", bytes(booster.save_raw("ubj")))
    carried = describe(directory, config_of("m.ubj"))
    assert (carried["outputs"], carried["columns"]) == ([said], tuple(NAMES))
    loaded = load(directory, config_of("m.ubj", inputs=carried["inputs"], outputs=carried["outputs"]))
    answer = loaded.predict({"features": ROWS.astype(np.float32)})[said["name"]]
    assert np.array_equal(answer, booster.predict(xgboost.DMatrix(ROWS, feature_names=NAMES)))
    assert list(answer.shape[1:]) == said["shape"][1:]


def test_trees_after_the_best_iteration_are_left_out(tmp_path: Path) -> None:
    """As XGBoost's own classes for scikit-learn do after early stopping."""
    model = xgboost.XGBRegressor(n_estimators=30, early_stopping_rounds=2, n_jobs=1)
    model.fit(ROWS, ROWS[:, 1], eval_set=[(ROWS[:10], -ROWS[:10, 1])], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    directory = put(tmp_path, "m.ubj", bytes(model.get_booster().save_raw("ubj")))
    tensors = {"inputs": [tensor("features", [-1, 3])], "outputs": [tensor("value", [-1], "FP32", "value")]}
    answer = load(directory, config_of("m.ubj", **tensors)).predict({"features": ROWS.astype(np.float32)})
    assert np.array_equal(answer["value"], model.predict(ROWS))


@pytest.mark.parametrize(
    ("objective", "labels", "more", "said"),
    [
        ("binary", SIDES, {}, tensor("probabilities", [-1], "FP64", "probabilities")),
        ("multiclass", SIDES, {"num_class": 2}, tensor("probabilities", [-1, 2], "FP64", "probabilities")),
        ("poisson", abs(ROWS[:, 1]), {}, tensor("value", [-1], "FP64", "value")),
    ],
)
def test_an_objective_of_lightgbm_says_what_is_answered(
    objective: str, labels: Any, more: dict[str, Any], said: dict[str, Any], tmp_path: Path
) -> None:
    """As for XGBoost."""
    booster = grown(objective, labels, **more)
    directory = put(tmp_path, "m.txt", booster.model_to_string().encode())
    carried = describe(directory, config_of("m.txt"))
    assert carried["outputs"] == [said]
    loaded = load(directory, config_of("m.txt", inputs=carried["inputs"], outputs=carried["outputs"]))
    assert np.array_equal(loaded.predict({"features": ROWS})[said["name"]], booster.predict(ROWS))


def test_columns_are_brought_into_the_order_of_the_model(files: Path, tmp_path: Path) -> None:
    """Inputs by the features' names, in any order and a column each, answer as the matrix does."""
    directory = put(tmp_path, "m.ubj", (files / "m.ubj").read_bytes())
    outputs = describe(directory, config_of("m.ubj"))["outputs"]
    rows = ROWS.astype(np.float32)
    matrix = load(directory, config_of("m.ubj", inputs=[tensor("x", [-1, 3])], outputs=outputs)).predict({"x": rows})
    mixed = [tensor("wind", [-1]), tensor("temperature", [-1, 1]), tensor("humidity", [-1])]
    given = {"wind": rows[:, 2], "temperature": rows[:, :1], "humidity": rows[:, 1]}
    found = load(directory, config_of("m.ubj", inputs=mixed, outputs=outputs)).predict(given)
    assert np.array_equal(found["probabilities"], matrix["probabilities"])
    with pytest.raises(LoadError, match=r"has 3 features .temperature, humidity, wind.*declared: wind"):
        load(directory, config_of("m.ubj", inputs=[mixed[0], tensor("snow", [-1]), mixed[2]], outputs=outputs))


def test_columns_of_text_for_a_pipeline_that_was_fitted_on_a_data_frame(tmp_path: Path) -> None:
    """Text stays text; a category that nobody has seen, and bytes that are no text, are the client's mistake."""
    frame = pd.DataFrame({"place": ["alp", "sea"] * 10, "height": np.arange(20.0)})
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["place"]), remainder="passthrough"), LogisticRegression()
    )
    model.fit(frame, ["snow", "rain"] * 10)
    directory = put(tmp_path, "m.skops", skops.io.dumps(model))
    carried = describe(directory, config_of("m.skops"))
    assert carried["columns"] == ("place", "height")
    assert carried["outputs"][0]["labels"] == ["rain", "snow"]
    outputs = [*carried["outputs"], tensor("label", [-1], "BYTES", "label")]
    inputs = [tensor("height", [-1], "FP64"), tensor("place", [-1], "BYTES")]
    predict = load(directory, config_of("m.skops", inputs=inputs, outputs=outputs)).predict
    found = predict({"height": np.array([1.0, 2.0]), "place": np.array([b"alp", b"sea"], dtype=object)})
    assert found["label"].tolist() == ["snow", "rain"]
    assert np.array_equal(found["probabilities"], model.predict_proba(frame[:2].assign(height=[1.0, 2.0])))
    for place, said in ((b"moon", "unknown categories"), (b"\xff", "expected text in UTF-8")):
        with pytest.raises(Refused, match=said):
            predict({"height": np.array([1.0]), "place": np.array([place], dtype=object)})


def test_types_that_nobody_trusts_are_refused_by_name(home: Home, tmp_path: Path) -> None:
    """The list is the home's: until a type is in it, a model that is made of it is refused, with what to type."""
    model = RandomForestClassifier(2, random_state=1).fit(ROWS, SIDES)
    directory = put(tmp_path, "m.skops", skops.io.dumps(model))
    strangers = skops.io.get_untrusted_types(file=directory / "model" / "m.skops")
    assert strangers, "else this test shows nothing"
    with pytest.raises(LoadError, match=f"m.skops: .*snowgate bundle trust --type {strangers[0]}"):
        describe(directory, config_of("m.skops"))
    put(directory, "trusted.json", json.dumps(strangers).encode())  # Where a bundle could put one.
    with pytest.raises(LoadError, match="nobody here trusts"):
        describe(directory, config_of("m.skops"))
    for _twice in range(2):
        for one in strangers:
            home.keys().trust_type(one)
    assert home.keys().trusted_types() == strangers
    (directory / "trusted.json").write_text(json.dumps(home.keys().trusted_types()))
    assert describe(directory, config_of("m.skops"))["outputs"][0]["semantic"] == "probabilities"
    with pytest.raises(BundleError, match="expected a module and a name"):
        home.keys().trust_type("Tree; rm")


def test_what_an_estimator_can_answer_is_said(tmp_path: Path) -> None:
    """A regressor answers a value; another meaning is refused with those that it has. One not fitted is no model."""
    directory = put(tmp_path, "m.skops", skops.io.dumps(LinearRegression().fit(ROWS, ROWS[:, 1])))
    carried = describe(directory, config_of("m.skops"))
    assert carried["outputs"] == [tensor("value", [-1], "FP64", "value")]
    wrong = [tensor("p", [-1, 2], "FP64", "probabilities")]
    with pytest.raises(LoadError, match="semantic 'probabilities'; LinearRegression can answer: label, value"):
        load(directory, config_of("m.skops", inputs=carried["inputs"], outputs=wrong))
    put(directory, "m.skops", skops.io.dumps(LinearRegression()))
    with pytest.raises(LoadError, match="expected a fitted estimator"):
        describe(directory, config_of("m.skops"))


def recipe_in(folder: Path, text: str, **arrays: Any) -> Path:
    """Write a folder's bundle.toml and its holdout."""
    folder.mkdir(exist_ok=True)
    (folder / "bundle.toml").write_text(text)
    np.savez(folder / "holdout.npz", **arrays)
    return folder


def test_the_holdout_decides_between_a_matrix_and_columns(tmp_path: Path) -> None:
    """Where it has an array for each feature by name there is an input for each, of the array's type."""
    carried = {"inputs": [tensor("features", [-1, 2])], "outputs": [tensor("value", [-1])], "columns": ["a", "b"]}
    text = 'loader = "xgboost"\nholdout = "holdout.npz"\n'
    folder = recipe_in(tmp_path / "columns", text, a=np.zeros(3), b=np.array(["x"] * 3))
    found = completed(read_recipe(folder), carried)
    assert [(one.name, one.datatype, one.shape) for one in found.inputs] == [
        ("a", "FP64", (-1,)),
        ("b", "BYTES", (-1,)),
    ]
    folder = recipe_in(tmp_path / "matrix", text, features=np.zeros((3, 2)))
    assert [one.name for one in completed(read_recipe(folder), carried).inputs] == ["features"]


def test_a_table_may_leave_out_what_the_file_says(tmp_path: Path) -> None:
    """Labels are added to an output by its name alone; a name that the file has not needs the rest."""
    carried = {"inputs": [tensor("x", [-1, 2])], "outputs": [tensor("y", [-1, 2])], "columns": []}
    text = (
        'loader = "onnx"\nholdout = "holdout.npz"\n[[outputs]]\nname = "y"\nsemantic = "logits"\nlabels = ["n", "y"]\n'
    )
    folder = recipe_in(tmp_path / "f", text, x=np.zeros((3, 2)))
    (output,) = completed(read_recipe(folder), carried).outputs
    assert (output.shape, output.semantic, output.labels) == ((-1, 2), "logits", ("n", "y"))
    recipe_in(folder, text.replace('"y"\nsem', '"z"\nsem'), x=np.zeros((3, 2)))
    with pytest.raises(RecipeError, match=r"outputs: 'z' without datatype and shape.* it has y"):
        completed(read_recipe(folder), carried)


@pytest.mark.parametrize(
    ("loader", "name", "said"),
    [
        ("sklearn", "model.pkl", r"model.pkl: a pickle.*skops.io.dump\(model, \"model.skops\"\)"),
        ("sklearn", "model.joblib", "a pickle"),
        ("xgboost", "model.pkl", r"a pickle.*model.save_model\(\"model.ubj\"\)"),
        ("onnx", "model.bin", r"files called \*.onnx: none; name one with weights"),
    ],
)
def test_a_pickle_is_refused_with_what_to_write(loader: str, name: str, said: str, tmp_path: Path) -> None:
    """Found or named: it says what to type instead."""
    folder = recipe_in(tmp_path / "f", f'loader = "{loader}"\nholdout = "holdout.npz"\n', x=np.zeros(3))
    (folder / name).write_bytes(b"cposix\nsystem\n")
    with pytest.raises(RecipeError, match=said):
        weights_of(read_recipe(folder))


def test_a_loader_that_calls_no_code_takes_none(tmp_path: Path) -> None:
    """An entrypoint that nobody would call is a mistake, and not a silence."""
    text = 'loader = "onnx"\nholdout = "holdout.npz"\nentrypoint = "a:b"\n'
    with pytest.raises(RecipeError, match="entrypoint is for a bundle's own code, and the loader 'onnx' calls none"):
        read_recipe(recipe_in(tmp_path / "f", text, x=np.zeros(3)))


def test_weights_outside_of_the_bundle_are_refused(home: Home) -> None:
    """One from elsewhere may name any path: only its own files are opened."""
    store = home.store()
    for weights in ("../../keys/home.pem", "/etc/passwd", "gone.onnx"):
        document = {"inputs": [], "loader": "onnx", "model": "m", "outputs": [], "weights": weights}
        config = store.add_blob(json.dumps(document).encode(), CONFIG_TYPE)
        with pytest.raises(CorruptBundle, match="is none of its files"):
            open_bundle(store, store.add_manifest(Manifest(config, ())))

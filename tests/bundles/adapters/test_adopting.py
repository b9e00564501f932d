"""Models that BentoML and MLflow themselves have written (make_bentoml.py, make_mlflow.py) become bundles."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from bundles.adapters import adopt, bentoml, mlflow
from bundles.bundle import Bundle, open_bundle
from bundles.errors import AdapterError
from bundles.home import Home

HERE = Path(__file__).parent
STORE = HERE / "bentoml"
SNOW = HERE / "mlflow" / "snow"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """What a person adds: rows to measure on."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "bundle.toml").write_text('holdout = "rows.npz"\n')
    np.savez(folder / "rows.npz", features=np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home(tmp_path / "home").make()


def origin_of(bundle: Bundle) -> dict[str, object]:
    """Return the origin as the provenance has it."""
    resources = bundle.provenance()["buildDefinition"]["resolvedDependencies"]
    return next(one for one in resources if one["name"] == "origin")


@pytest.mark.parametrize(("tag", "loader"), [("snow", "xgboost"), ("leaves:one", "lightgbm")])
def test_a_model_of_bentomls_store_becomes_a_bundle(home: Home, recipe: Path, tag: str, loader: str) -> None:
    """The loader follows from the file, not from its name; what BentoML says of it is declared; it has answered."""
    packed = adopt(home, bentoml.find(tag, STORE), recipe=recipe, model="snow", allow_code=False)
    bundle = open_bundle(home.store(), packed.digest)
    assert bundle.config["loader"] == loader
    origin = origin_of(bundle)
    assert origin["uri"] == f"bentoml:{tag.partition(':')[0]}:one"
    assert origin["annotations"]["authority"] == "declared"  # type: ignore[index]
    assert origin["annotations"]["facts"]["metadata"]["commit"] == "1f2e"  # type: ignore[index]
    assert len(bundle.golden()[1]) == 1


def test_what_goes_to_bentoml_comes_back_with_the_same_weights(home: Home, recipe: Path, tmp_path: Path) -> None:
    """The label leads back: the bundle is the parent, its recipe came along, its weights have the same digest."""
    first = adopt(home, bentoml.find("snow", STORE), recipe=recipe, model="snow", allow_code=False)
    bundle = open_bundle(home.store(), first.digest)
    folder = bentoml.hand(bundle, "snow:7", tmp_path / "bento")
    assert (folder.parent / "latest").read_text() == "7"
    again = adopt(home, bentoml.find("snow", tmp_path / "bento"), recipe=None, model="snow", allow_code=False)
    back = open_bundle(home.store(), again.digest)
    assert back.config["parents"] == [first.digest]
    weights = "model/model.ubj"
    assert back.manifest.files()[weights].digest == bundle.manifest.files()[weights].digest
    assert not any(path.startswith("model/bundle/") for path in back.manifest.files())
    with pytest.raises(AdapterError, match="give another version"):
        bentoml.hand(bundle, "snow:7", tmp_path / "bento")


def test_an_mlflow_folder_becomes_a_bundle(home: Home, recipe: Path) -> None:
    """No MLflow is needed; what stands in MLmodel is declared."""
    packed = adopt(home, mlflow.find(str(SNOW)), recipe=recipe, model="snow", allow_code=False)
    bundle = open_bundle(home.store(), packed.digest)
    assert bundle.config["loader"] == "xgboost"
    assert origin_of(bundle)["annotations"]["facts"]["flavors"] == ["python_function", "xgboost"]  # type: ignore[index]
    assert mlflow.find(str(SNOW)).tensors["inputs"] == [{"name": "inputs", "datatype": "FP64", "shape": [-1, 3]}]


def test_a_pickle_is_refused_whatever_it_is_called(home: Home, recipe: Path, tmp_path: Path) -> None:
    """By its name, and by its first bytes where the name says data; nothing was packed."""
    store = tmp_path / "store"
    shutil.copytree(STORE, store)
    with pytest.raises(AdapterError, match=r"saved_model\.pkl would run here"):
        adopt(home, bentoml.find("pickled", store), recipe=recipe, model="snow", allow_code=False)
    (store / "models/pickled/one/saved_model.pkl").rename(store / "models/pickled/one/rows.csv")
    with pytest.raises(AdapterError, match=r"rows\.csv would run here"):
        adopt(home, bentoml.find("pickled", store), recipe=recipe, model="snow", allow_code=False)
    assert home.store().list() == []


def test_a_hostile_store_is_refused(recipe: Path, tmp_path: Path) -> None:
    """Paths in a tag, links out of the model, and YAML that asks for a Python object are refused by name."""
    store = tmp_path / "store"
    shutil.copytree(STORE, store)
    for tag in ("../snow", "snow:../one", "snow:nine", "snow*"):
        with pytest.raises(AdapterError, match=r"expected NAME:VERSION|versions of snow: one"):
            bentoml.find(tag, store)
    link = store / "models/snow/one/rows.csv"
    link.symlink_to("/etc/passwd")
    with pytest.raises(AdapterError, match="leads out of the model"):
        bentoml.find("snow", store)
    link.unlink()
    (store / "models/snow/one/model.yaml").write_text("labels: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(AdapterError, match="can't be read"):
        bentoml.find("snow", store)


def test_a_model_without_a_recipe_says_what_is_needed(home: Home) -> None:
    """Rows to measure on can't be guessed."""
    with pytest.raises(AdapterError, match="--recipe FOLDER"):
        adopt(home, bentoml.find("snow", STORE), recipe=None, model="snow", allow_code=False)

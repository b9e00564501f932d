from typing import Any

import pytest

from bundles.content import LOADERS, executable
from bundles.formats import FORMATS
from bundles.runner.loaders import TABLE

PLAIN = ["model/bundle.toml", "model/model.onnx", "model/LICENSE", "model/holdout.npz"]


def test_host_and_runner_know_the_same_loaders() -> None:
    """The runner stands alone, and trust is decided elsewhere; one list."""
    assert list(FORMATS) == list(TABLE) == list(LOADERS)


@pytest.mark.parametrize("loader", ["onnx", "xgboost", "lightgbm", "huggingface"])
def test_data_alone_can_not_run(loader: str) -> None:
    """These formats hold numbers and names."""
    assert executable({"loader": loader}, PLAIN, own_environment=False) == {}


@pytest.mark.parametrize(
    ("config", "files", "own", "said"),
    [
        ({"loader": "torch"}, [], False, {"code": ["loader torch"]}),
        ({"loader": "torch-export"}, [], False, {"torch-export": ["loader torch-export"]}),
        ({"loader": "sklearn"}, [], False, {"types": ["loader sklearn"]}),
        ({"loader": "python"}, [], False, {"code": ["loader python"]}),
        ({"loader": "unheard of"}, [], False, {"code": ["loader unheard of"]}),
        ({"executable": False, "loader": "onnx", "entrypoint": "a:b"}, [], False, {"code": ["entrypoint a:b"]}),
        ({"loader": "onnx", "postprocess": "a:b"}, [], False, {"code": ["postprocess a:b"]}),
        ({"loader": "onnx"}, [], True, {"packages": ["packages of its own"]}),
        *(
            ({"loader": "onnx"}, [f"model/{name}"], False, {kind: [f"model/{name}"]})
            for kind, names in {
                "code": ("numpy.py", "m.PY", "no_ending", "m.bin"),
                "pickle": ("m.pkl", "m.pt", "m.pth", "deep/m.JOBLIB"),
                "torch-export": ("m.pt2",),
                "types": ("m.skops",),
                "native": ("x.so",),
            }.items()
            for name in names
        ),
    ],
)
def test_what_can_run_is_named(config: dict[str, Any], files: list[str], own: bool, said: dict[str, list[str]]) -> None:
    """Whatever the bundle says of itself; a file of no known kind counts as code."""
    assert executable(config, [*PLAIN, *files], own_environment=own) == said

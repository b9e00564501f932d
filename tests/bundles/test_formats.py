from typing import Any

import pytest

from bundles.formats import FORMATS, executable
from bundles.runner.loaders import TABLE

PLAIN = ["model/bundle.toml", "model/model.onnx", "model/LICENSE", "model/holdout.npz"]


def test_host_and_runner_know_the_same_loaders() -> None:
    """Two tables, because the runner stands alone; one list."""
    assert list(FORMATS) == list(TABLE)


@pytest.mark.parametrize("loader", ["onnx", "xgboost", "lightgbm", "huggingface"])
def test_data_alone_can_not_run(loader: str) -> None:
    """These formats hold numbers and names."""
    assert executable({"loader": loader}, PLAIN, own_environment=False) == []


@pytest.mark.parametrize(
    ("config", "files", "own", "said"),
    [
        ({"loader": "torch"}, [], False, ["loader torch"]),
        ({"loader": "torch-export"}, [], False, ["loader torch-export"]),
        ({"loader": "sklearn"}, [], False, ["loader sklearn"]),
        ({"loader": "python"}, [], False, ["loader python"]),
        ({"loader": "unheard of"}, [], False, ["loader unheard of"]),
        ({"executable": False, "loader": "onnx", "entrypoint": "a:b"}, [], False, ["entrypoint a:b"]),
        ({"loader": "onnx", "postprocess": "a:b"}, [], False, ["postprocess a:b"]),
        ({"loader": "onnx"}, [], True, ["packages of its own"]),
        *(
            ({"loader": "onnx"}, [f"model/{name}"], False, [f"model/{name}"])
            for name in (
                "numpy.py",
                "x.so",
                "m.pkl",
                "m.pt",
                "m.pth",
                "m.pt2",
                "m.PY",
                "no_ending",
                "pytorch_model.bin",
            )
        ),
    ],
)
def test_what_can_run_is_named(config: dict[str, Any], files: list[str], own: bool, said: list[str]) -> None:
    """Whatever the bundle says of itself; a file of no known kind counts as code."""
    assert executable(config, [*PLAIN, *files], own_environment=own) == said

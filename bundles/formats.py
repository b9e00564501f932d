"""Loaders, as the host knows them: in which files their weights come, who says what the tensors are, and what can run.

What is executable content is decided here and nowhere else, from the configuration and the names of a bundle's files,
never from what a bundle says of itself: such a bundle loads only when a key that this home trusts has signed it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any


@dataclass(frozen=True, slots=True)
class Format:
    """How a loader's weights come: their usual names, and what writes them."""

    names: tuple[str, ...]
    written_by: str
    self_describing: bool = True
    """The file carries names, shapes and types: what `bundle.toml` leaves out is read from it."""
    code_free: bool = True
    """Reading it runs nothing of the bundle's."""


FORMATS = {
    "torch": Format(
        ("*.safetensors",),
        'safetensors.torch.save_file(module.state_dict(), "model.safetensors")',
        self_describing=False,
        code_free=False,
    ),
    "torch-export": Format(("*.pt2",), 'torch.export.save(program, "model.pt2")', code_free=False),
    "onnx": Format(("*.onnx",), 'torch.onnx.export(module, example, "model.onnx")'),
    # Its types are built by their names, with what the file gives them.
    "sklearn": Format(("*.skops",), 'skops.io.dump(model, "model.skops")', code_free=False),
    "xgboost": Format(("*.ubj", "model.json"), 'model.save_model("model.ubj")'),
    "lightgbm": Format(("model.txt",), 'booster.save_model("model.txt")'),
    "huggingface": Format(("model.safetensors", "model.safetensors.index.json"), 'model.save_pretrained("model")'),
    "python": Format((), "", self_describing=False, code_free=False),
}
ENTRYPOINT = ("torch", "python")
"""The loaders that call code of the bundle."""
PICKLES = ("*.pkl", "*.pickle", "*.joblib", "*.cloudpickle", "*.dill")
CODE = ("entrypoint", "preprocess", "postprocess")
DATA = (
    "*.bmp", "*.csv", "*.data", "*.gif", "*.jpeg", "*.jpg", "*.json", "*.jsonl", "*.md", "*.npy", "*.npz", "*.onnx",
    "*.onnx_data", "*.parquet", "*.pdf", "*.png", "*.rst", "*.safetensors", "*.toml", "*.txt", "*.ubj", "*.webp",
    "*.yaml", "*.yml", ".gitattributes", ".gitignore", "license", "notice",
)  # fmt: skip
"""Names of files that hold nothing that runs, in lower case; what is not known is taken for code."""


def executable(config: Mapping[str, Any], files: Iterable[str], *, own_environment: bool) -> list[str]:
    """Say what of a bundle can run here; `[]` when it is data alone.

    `files` are the paths of the model's own files. An environment of its own is code too: the packages are those that
    the bundle names.

    >>> executable({"loader": "onnx"}, ["model/model.onnx", "model/bundle.toml"], own_environment=False)
    []
    >>> executable({"loader": "onnx", "preprocess": "photos:decode"}, ["model/photos.py"], own_environment=False)
    ['preprocess photos:decode', 'model/photos.py']
    """
    known = FORMATS.get(config["loader"])
    found = [] if known is not None and known.code_free else [f"loader {config['loader']}"]
    found += [f"{key} {config[key]}" for key in CODE if config.get(key) is not None]
    found += [path for path in files if not _matches(path, DATA)]
    return [*found, "packages of its own"] if own_environment else found


def is_pickle(path: str) -> bool:
    """Say whether a file is called as pickles are.

    >>> is_pickle("deep/Model.PKL"), is_pickle("model.skops")
    (True, False)
    """
    return _matches(path, PICKLES)


def _matches(path: str, names: Iterable[str]) -> bool:
    name = path.rpartition("/")[2].lower()
    return any(fnmatch(name, one) for one in names)

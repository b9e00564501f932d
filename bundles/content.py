"""What of a bundle is executed when it is loaded: that needs somebody's signature, whatever else needs its digest only.

    code            Python modules, and the functions around a model; whatever is of no known kind
    pickle          a pickle may run anything while it is read
    torch-export    a .pt2 archive, which torch reads through a pickle
    types           a model in the skops format, which builds types by their names
    native          compiled libraries: custom operators and the like
    packages        an environment of its own: the packages are those that the bundle names

Decided here and nowhere else, from the configuration and the names of a bundle's files, whatever a bundle says of
itself. A file's kind is told by its ending. That is enough, because a loader is chosen by the bundle's configuration,
and none of ours reads a pickle under another ending; what a bundle's own code reads is on its code's account.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from typing import Any, Literal, get_args

Kind = Literal["code", "pickle", "torch-export", "types", "native", "packages"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LOADERS: dict[str, Kind | None] = {
    "torch": "code",
    "torch-export": "torch-export",
    "onnx": None,
    "sklearn": "types",
    "xgboost": None,
    "lightgbm": None,
    "huggingface": None,
    "python": "code",
}
"""What each loader executes; None reads data alone."""
ENDINGS: dict[Kind, tuple[str, ...]] = {
    "pickle": (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt"),
    "torch-export": (".pt2",),
    "types": (".skops",),
    "native": (".so", ".pyd", ".dylib", ".dll"),
}
DATA = (
    "*.bmp", "*.csv", "*.data", "*.gif", "*.jpeg", "*.jpg", "*.json", "*.jsonl", "*.md", "*.npy", "*.npz", "*.onnx",
    "*.onnx_data", "*.parquet", "*.pdf", "*.png", "*.rst", "*.safetensors", "*.toml", "*.txt", "*.ubj", "*.webp",
    "*.yaml", "*.yml", ".gitattributes", ".gitignore", "license", "notice",
)  # fmt: skip
"""Names of files that hold nothing that runs, in lower case; what is not known is taken for code."""
NAMING_CODE = ("entrypoint", "preprocess", "postprocess")
"""Fields of a bundle's configuration that name a function or class to call."""


def executable(config: Mapping[str, Any], files: Iterable[str], *, own_environment: bool) -> dict[Kind, list[str]]:
    """Return what a bundle executes, by kind; `{}` when it is data alone. `files` are the paths of the model's own.

    >>> executable({"loader": "onnx"}, ["model/model.onnx", "model/bundle.toml"], own_environment=False)
    {}
    >>> executable({"loader": "onnx", "preprocess": "photos:decode"}, ["model/photos.py"], own_environment=False)
    {'code': ['preprocess photos:decode', 'model/photos.py']}
    """
    loader = config["loader"]
    named: list[tuple[Kind | None, str]] = [(LOADERS.get(loader, "code"), f"loader {loader}")]
    named += [("code", f"{name} {config[name]}") for name in NAMING_CODE if config.get(name) is not None]
    named += [(_kind_of(path), path) for path in files]
    if own_environment:
        named.append(("packages", "packages of its own"))
    found: dict[Kind, list[str]] = {}
    for kind, name in named:
        if kind is not None:
            found.setdefault(kind, []).append(name)
    return found


def _kind_of(path: str) -> Kind | None:
    name = path.rpartition("/")[2].lower()
    for kind, endings in ENDINGS.items():
        if name.endswith(endings):
            return kind
    return None if any(fnmatch(name, one) for one in DATA) else "code"

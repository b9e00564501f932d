"""A model that was found in another tool's store, before anything of it is believed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundles.errors import AdapterError

FILES_MAX = 10_000
DOCUMENT_BYTES_MAX = 1 << 20
"""What another tool writes about a model: kilobytes; a signature of a thousand columns has a hundred of them."""
TREES = ("lightgbm", "model.txt")
TREE_HEADER = b"tree\n"
TREE_SUFFIXES = (".txt", ".lgb", ".ubj")
"""How MLflow and BentoML call LightGBM's text; the last is XGBoost's name, so its beginning is looked at."""
WEIGHTS = {
    ".ubj": ("xgboost", "model.ubj"),
    ".onnx": ("onnx", "model.onnx"),
    ".skops": ("sklearn", "model.skops"),
    ".pt2": ("torch-export", "model.pt2"),
    ".safetensors": ("torch", "model.safetensors"),
}
"""By the ending of a file of weights: which loader reads it, and how it is called in a bundle."""


@dataclass(frozen=True, slots=True)
class Found:
    """Files by the path that they shall have in the bundle, and what the other tool says about them."""

    uri: str
    files: Mapping[str, Path]
    facts: Mapping[str, Any]
    bundle: str | None = None
    """The digest of the bundle that it was made from, where it says so."""
    tensors: Mapping[str, Any] = field(default_factory=dict)
    """`inputs` and `outputs`, where the tool keeps a signature."""

    def weights(self) -> tuple[str, str] | None:
        """Return the loader and the path of the weights, where exactly one file can be them."""
        kinds = [(kind[0], path) for path, file in self.files.items() if (kind := _kind(file)) is not None]
        return kinds[0] if len(kinds) == 1 else None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a document of another tool, without its tags. Raises AdapterError."""
    try:
        import yaml  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise AdapterError(f"{error}: {path.name} is YAML: pip install 'snowgate[adapters]'") from error
    try:
        with path.open("rb") as file:
            data = file.read(DOCUMENT_BYTES_MAX + 1)
        if len(data) > DOCUMENT_BYTES_MAX:
            raise AdapterError(f"{path}: more than {DOCUMENT_BYTES_MAX} bytes, which no description of a model has")
        # The pure safe loader builds plain values only: a tag that names a Python type is an error.
        document = yaml.safe_load(data)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise AdapterError(f"{path}: can't be read: {error}") from error
    if not isinstance(document, dict):
        raise AdapterError(f"{path}: expected a table of names, got {type(document).__name__}")
    return document


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by the path that they shall have; links that lead out are refused."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if not path.resolve().is_relative_to(folder.resolve()):
            raise AdapterError(f"{path}: a link that leads out of the model; put the file itself there")
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = path
        if len(files) > FILES_MAX:
            raise AdapterError(f"{folder}: more than {FILES_MAX} files, expected those of one model")
    return files


def renamed(files: Mapping[str, Path], documents: Mapping[str, str]) -> dict[str, Path]:
    """Give the only file of weights the name that our loaders know, and documents of the tool a folder of their own."""
    kinds = {path: kind[1] for path, file in files.items() if (kind := _kind(file)) is not None}
    names = dict(documents)
    if len(kinds) == 1 and "bundle.toml" not in files:
        names |= kinds
    return {names.get(path, path): file for path, file in files.items()}


def _kind(file: Path) -> tuple[str, str] | None:
    if file.suffix in TREE_SUFFIXES:
        with file.open("rb") as content:
            if content.read(len(TREE_HEADER)) == TREE_HEADER:
                return TREES
    return WEIGHTS.get(file.suffix)

"""Loaders, as the host knows them: in which files their weights come, and who says what the tensors are.

What of them is executed is said by `content`.
"""

from dataclasses import dataclass
from fnmatch import fnmatch


@dataclass(frozen=True, slots=True)
class Format:
    """How a loader's weights come: their usual names, and what writes them."""

    names: tuple[str, ...]
    written_by: str
    self_describing: bool = True
    """The file carries names, shapes and types: what `bundle.toml` leaves out is read from it."""


FORMATS = {
    "torch": Format(
        ("*.safetensors",),
        'safetensors.torch.save_file(module.state_dict(), "model.safetensors")',
        self_describing=False,
    ),
    "torch-export": Format(("*.pt2",), 'torch.export.save(program, "model.pt2")'),
    "onnx": Format(("*.onnx",), 'torch.onnx.export(module, example, "model.onnx")'),
    "sklearn": Format(("*.skops",), 'skops.io.dump(model, "model.skops")'),
    "xgboost": Format(("*.ubj", "model.json"), 'model.save_model("model.ubj")'),
    "lightgbm": Format(("model.txt",), 'booster.save_model("model.txt")'),
    "huggingface": Format(("model.safetensors", "model.safetensors.index.json"), 'model.save_pretrained("model")'),
    "python": Format((), "", self_describing=False),
}
ENTRYPOINT = ("torch", "python")
"""The loaders that call code of the bundle."""
PICKLES = ("*.pkl", "*.pickle", "*.joblib", "*.cloudpickle", "*.dill")


def is_pickle(path: str) -> bool:
    """Say whether a file is called as pickles are.

    >>> is_pickle("deep/Model.PKL"), is_pickle("model.skops")
    (True, False)
    """
    return any(fnmatch(path.rpartition("/")[2].lower(), one) for one in PICKLES)

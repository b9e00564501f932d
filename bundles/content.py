"""What of a bundle is executed when it is loaded: that needs somebody's signature, whatever else needs its digest only.

    code            Python modules, and the functions around a model
    pickle          a pickle may run anything while it is read
    torch-export    a .pt2 archive, which torch reads through a pickle
    native          compiled libraries: custom operators and the like

A file's kind is told by its ending. That is enough, because a loader is chosen by the bundle's configuration, and none
of ours reads a pickle under another ending; what a bundle's own code reads is on its code's account.
"""

from typing import Literal, get_args

from bundles.bundle import MODEL_PREFIX, Bundle

Kind = Literal["code", "pickle", "torch-export", "native"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ENDINGS: dict[Kind, tuple[str, ...]] = {
    "code": (".py", ".pyc"),
    "pickle": (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt"),
    "torch-export": (".pt2",),
    "native": (".so", ".pyd", ".dylib", ".dll"),
}
NAMING_CODE = ("entrypoint", "preprocess", "postprocess")
"""Fields of a bundle's configuration that name a function or class to call."""


def executable_content(bundle: Bundle) -> dict[Kind, list[str]]:
    """Return what a bundle executes, by kind: its files, or the fields of its configuration that name code."""
    found: dict[Kind, list[str]] = {}
    for path in bundle.manifest.files():
        for kind, endings in ENDINGS.items():
            if path.startswith(MODEL_PREFIX) and path.lower().endswith(endings):
                found.setdefault(kind, []).append(path)
    named = [name for name in NAMING_CODE if bundle.config.get(name)]
    if named and "code" not in found:
        found["code"] = named
    return found

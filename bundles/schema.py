"""What a bundle declares of its tensors: name, datatype, shape, and what an output means."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bundles.errors import RecipeError

DATATYPES: dict[str, tuple[np.dtype[Any], int]] = {
    "BOOL": (np.dtype("?"), 1),
    "UINT8": (np.dtype("<u1"), 1),
    "UINT16": (np.dtype("<u2"), 2),
    "UINT32": (np.dtype("<u4"), 4),
    "UINT64": (np.dtype("<u8"), 8),
    "INT8": (np.dtype("<i1"), 1),
    "INT16": (np.dtype("<i2"), 2),
    "INT32": (np.dtype("<i4"), 4),
    "INT64": (np.dtype("<i8"), 8),
    "FP16": (np.dtype("<f2"), 2),
    "BF16": (np.dtype("<u2"), 2),
    "FP32": (np.dtype("<f4"), 4),
    "FP64": (np.dtype("<f8"), 8),
    "BYTES": (np.dtype("O"), 0),
}
"""The protocol's datatypes: how numpy holds one (BF16 as its bits, BYTES as objects), and its bytes an element."""
CONTENT_TYPE = re.compile(r"[a-z]+/(\*|[a-z0-9][a-z0-9.+-]*)")
SEMANTICS = ("logits", "probabilities", "label", "value", "embedding")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. In `shape` -1 is any size, and a leading -1 is the batch axis.

    `semantic` says what an output means, one of `SEMANTICS`, and decides which signals are computed from it; `labels`
    are the names of its classes. `content_type` says what an element of a BYTES input is, such as `image/*` or
    `application/json`: a client may send it as it is, and the bundle's `preprocess` makes arrays of it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    semantic: str | None = None
    labels: tuple[str, ...] = ()
    content_type: str | None = None

    def __post_init__(self) -> None:
        """Check what was declared. Raises RecipeError."""
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.datatype not in DATATYPES:
            msg = f"tensor '{self.name}': datatype {self.datatype!r}, expected one of {', '.join(DATATYPES)}"
            raise RecipeError(msg)
        if not all(type(size) is int and (size > 0 or size == -1) for size in self.shape):
            msg = f"tensor '{self.name}': shape {list(self.shape)}, expected sizes above 0, or -1 for any size"
            raise RecipeError(msg)
        if self.semantic is not None and self.semantic not in SEMANTICS:
            msg = f"tensor '{self.name}': semantic {self.semantic!r}, expected one of {', '.join(SEMANTICS)}"
            raise RecipeError(msg)
        if self.content_type is not None:
            self._check_content_type(self.content_type)

    def _check_content_type(self, content_type: str) -> None:
        row = self.shape[1:] if self.shape[:1] == (-1,) else self.shape
        if not CONTENT_TYPE.fullmatch(content_type):
            msg = f"tensor '{self.name}': content_type {content_type!r}, expected one such as \"image/*\""
        elif self.datatype != "BYTES" or set(row) - {1}:
            kind = f"{self.datatype} {list(self.shape)}"
            msg = f"tensor '{self.name}': content_type on {kind}, expected BYTES with one element a row, such as [-1]"
        else:
            return
        raise RecipeError(msg)

    def to_json(self) -> dict[str, Any]:
        """Return the form that the configuration blob holds."""
        document: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        if self.semantic is not None:
            document["semantic"] = self.semantic
        if self.labels:
            document["labels"] = list(self.labels)
        if self.content_type is not None:
            document["content_type"] = self.content_type
        return document


def is_batched(inputs: Sequence[TensorSpec]) -> bool:
    """Whether a model takes several rows a call: all of its inputs have a batch axis.

    >>> is_batched([TensorSpec("image", "FP32", (-1, 784))]), is_batched([TensorSpec("image", "FP32", (784,))])
    (True, False)
    """
    return bool(inputs) and all(spec.shape[:1] == (-1,) for spec in inputs)

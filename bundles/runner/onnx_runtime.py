"""ONNX by ONNX Runtime: no code of the bundle's runs.

No library of custom operators is ever registered, so a graph that needs one is refused by name. External data is read
from the model's folder only, which ONNX Runtime itself sees to.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .declared import LoadError
from .engines import onnx_session
from .loaded import Loaded, agree, around_model, only_on_cpu, spec, weights

DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
MEANINGS = {"logits": "logits", "probabilities": "probabilities", "embedding": "embedding", "label": "label"}
"""What an output of such a name means; what another one means is for the bundle's author to say."""


def load_onnx(directory: Path, config: Mapping[str, Any], _engine: str, device: str) -> Loaded:
    """Raise LoadError where the file is no ONNX, or wants what ONNX Runtime does not bring."""
    only_on_cpu("onnx", device)
    file = weights(directory, config)
    try:
        import onnxruntime
    except ImportError as error:
        raise LoadError(f"{error}: an onnx bundle needs pip install 'snowgate[onnxruntime]'") from error
    try:
        session = onnx_session(onnxruntime, str(file))
    except Exception as error:  # Its errors have no base class of their own.
        raise LoadError(f"{file.name}: {_reason(str(error))}") from error
    inputs = [_spec(file, one) for one in session.get_inputs()]
    outputs = [_spec(file, one, MEANINGS.get(one.name)) for one in session.get_outputs()]
    agree(file, "input", around_model(config, "inputs"), inputs, all_of_them=True)
    answered = around_model(config, "outputs")
    agree(file, "output", answered, outputs, all_of_them=False)
    names = [one["name"] for one in answered]
    run = session.run
    return Loaded(
        lambda given: dict(zip(names, run(names, given), strict=True)),
        "onnxruntime_onnx",
        "onnxruntime",
        inputs,
        outputs,
    )


def _spec(file: Path, tensor: Any, semantic: str | None = None) -> dict[str, Any]:
    if tensor.type not in DATATYPES:
        advice = "; export with zipmap=False" if tensor.type.startswith("seq(") else ""
        raise LoadError(f"{file.name}: '{tensor.name}' is {tensor.type}, expected a tensor of the protocol's{advice}")
    return spec(tensor.name, DATATYPES[tensor.type], _shape(tensor.shape), semantic)


def _shape(sizes: Sequence[int | str | None]) -> list[int]:
    return [size if isinstance(size, int) and size > 0 else -1 for size in sizes]


def _reason(said: str) -> str:
    """Say what is wrong in our words; the library's come behind them.

    >>> _reason("[ONNXRuntimeError] : 1 : FAIL : Fatal error: acme:Blow(-1) is not a registered function/op")
    'needs the custom operator acme:Blow, and a bundle may bring none; export it with operators of ONNX alone'
    """
    said = said.rpartition("] : ")[2].strip()
    operator, missing, _rest = said.partition("(-1) is not a registered function/op")
    if missing:
        name = operator.rpartition(" ")[2]
        return f"needs the custom operator {name}, and a bundle may bring none; export it with operators of ONNX alone"
    return f"expected a whole ONNX model that ONNX Runtime can run ({said})"

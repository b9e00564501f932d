"""Engines: the ways in which a torch bundle can run here.

An engine makes of the bundle's network a function from arrays to arrays. `eager` is the network as its author wrote
it; all others rearrange the same arithmetic, and which one is fast depends on the network, the processor and the
versions. So none is believed: `trial` measures them, and an engine that differs from the recorded answers by more than
the bundle's tolerance is out.

All but the first two follow the network once with example rows (a trace). Where its code decides by the values of a
tensor, one trace is not the whole of it: then torch warns, and here a warning is an end.
"""

import inspect
import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .declared import Spec, by_name

Array = np.ndarray[Any, Any]
Predict = Callable[[dict[str, Array]], dict[str, Array]]
EAGER = "eager"
CPU = "cpu"
OPSET = 17
"""Of ONNX (2022): every torch from 2.2 on writes it, every ONNX Runtime from 1.12 on reads it."""


class EngineError(Exception):
    """This engine can't run this network here."""


@dataclass(frozen=True)
class Network:
    """A torch module in eval mode, what it takes and answers, and some inputs to follow it with."""

    module: Any
    inputs: Sequence[Spec]
    outputs: Sequence[Spec]
    example: Mapping[str, Array] | None = None
    device: str = CPU
    """Where the module is; only what runs on tensors can follow it there."""


def threads() -> int:
    """Return the threads that one call may take; `__main__` has set the variable where nobody else did."""
    # It may be a list, for parallel regions inside of others.
    return int(os.environ.get("OMP_NUM_THREADS", "1").partition(",")[0])


def build(name: str, network: Network) -> Predict:
    """Return the network as a function of arrays. Raises EngineError, or what the engine's library raises."""
    made = TABLE.get(name)
    if made is None:
        raise EngineError(f"engine {name!r}, expected one of {', '.join(TABLE)}")
    if network.device != CPU and name != EAGER:
        raise EngineError(f"engine {name!r} runs on {CPU}, and the network is on {network.device}: expected {EAGER}")
    return made(network)


def _eager(network: Network) -> Predict:
    return _on_tensors(network, network.module)


def _channels_last(network: Network) -> Predict:
    return _on_tensors(network, _in_channels_last(network))


def _frozen(network: Network) -> Predict:
    """Weights as constants, and oneDNN's own layouts inside."""
    import torch

    return _on_tensors(network, torch.jit.optimize_for_inference(_freeze(network, network.module)))


def _frozen_channels_last(network: Network) -> Predict:
    return _on_tensors(network, _freeze(network, _in_channels_last(network)))


def _onnxruntime(network: Network) -> Predict:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(f"{error}: pip install 'snowgate[onnxruntime]'") from error
    session = onnx_session(onnxruntime, _onnx(network))
    names = [spec["name"] for spec in network.outputs]
    run = session.run
    return lambda inputs: dict(zip(names, run(names, inputs), strict=True))


def onnx_session(onnxruntime: Any, model: bytes | str) -> Any:
    """Return ONNX Runtime's session of a model or its file. Raises what it raises."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    # Threads that spin while they wait would take the core from those who bring the work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _openvino(network: Network) -> Predict:
    try:
        import openvino
    except ImportError as error:
        raise EngineError(f"{error}: pip install 'snowgate[openvino]'") from error
    # From ONNX: the converter from torch would tell its maker about its use.
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(_onnx(network)),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads(),
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    request = compiled.create_infer_request()
    given = [spec["name"] for spec in network.inputs]
    made = [(position, spec["name"]) for position, spec in enumerate(network.outputs)]

    def predict(inputs: dict[str, Array]) -> dict[str, Array]:
        # Held by a name until it has answered: a request looks into the memory, and keeps nobody who owns it.
        arrays = [np.require(inputs[name], None, ["C", "W"]) for name in given]
        for position, array in enumerate(arrays):
            request.set_input_tensor(position, openvino.Tensor(array, shared_memory=True))
        request.infer()
        return {name: request.get_output_tensor(position).data.copy() for position, name in made}

    return predict


TABLE: dict[str, Callable[[Network], Predict]] = {
    EAGER: _eager,
    "onnxruntime": _onnxruntime,
    "channels-last": _channels_last,
    "frozen": _frozen,
    "frozen-channels-last": _frozen_channels_last,
    "openvino": _openvino,
}
"""In the order in which they are tried; among equals the first is taken. The fastest elsewhere come early: a machine
that is busy may leave no time for the last."""


def _on_tensors(network: Network, call: Callable[..., Any]) -> Predict:
    """Put numpy on both sides of a function on tensors."""
    import torch

    inputs = [(spec["name"], spec["datatype"] == "BF16") for spec in network.inputs]
    kept = {spec["name"]: spec["datatype"] == "BF16" for spec in network.outputs}
    elsewhere = network.device != CPU

    def to_tensor(array: Array, half: bool) -> Any:  # noqa: FBT001 - private, and twice called by position
        # An array that looks into a frame's bytes can't be written to; a module may expect that it can.
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        if elsewhere:
            tensor = tensor.to(network.device)
        return tensor.view(torch.bfloat16) if half else tensor

    def to_array(answer: Any, half: bool) -> Array:  # noqa: FBT001 - as above
        tensor = torch.as_tensor(answer)
        if elsewhere:
            tensor = tensor.cpu()
        if tensor.dtype is torch.bfloat16:
            # numpy has no such type: as its bits, when that is what was declared.
            bits: Array = tensor.view(torch.int16).numpy().view(np.uint16)
            return bits if half else tensor.float().numpy()
        array: Array = tensor.numpy()
        return array

    def predict(given: dict[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            answer = call(*[to_tensor(given[name], half) for name, half in inputs])
            return {name: to_array(one, kept[name]) for name, one in by_name(answer, network.outputs).items()}

    return predict


def _in_channels_last(network: Network) -> Any:
    import torch

    if not any(isinstance(one, torch.nn.Conv2d | torch.nn.ConvTranspose2d) for one in network.module.modules()):
        raise EngineError("there is no convolution in two dimensions, whose memory format could matter")
    return network.module.to(memory_format=torch.channels_last)


def _freeze(network: Network, module: Any) -> Any:
    import torch

    with torch.inference_mode():
        return torch.jit.freeze(_traced(network, module)[0])


def _traced(network: Network, module: Any) -> tuple[Any, tuple[Any, ...]]:
    """Follow the module once; its answer becomes a tuple in the declared order. Returns the example tensors too."""
    import torch

    jit: Any = torch.jit
    specs = (*network.inputs, *network.outputs)
    if network.example is None or any(spec["datatype"] in ("BF16", "BYTES") for spec in specs):
        raise EngineError("it takes examples, and tensors that numpy and torch both know, to follow the network")

    class Ordered(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            return tuple(by_name(self.module(*tensors), network.outputs).values())

    example = tuple(torch.from_numpy(network.example[spec["name"]].copy()) for spec in network.inputs)
    with torch.inference_mode(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        traced = jit.trace(Ordered().eval(), example, check_trace=False)
    for warning in caught:
        if issubclass(warning.category, jit.TracerWarning):
            raise EngineError(f"its code depends on the values of a tensor: {str(warning.message).strip()[:300]}")
    return traced, example


def _onnx(network: Network) -> bytes:
    """Export the network: every size that the bundle leaves open stays open."""
    import torch

    try:
        import onnx  # noqa: F401 - torch puts the export together with it, and leaves it empty where it is missing
    except ImportError as error:
        raise EngineError(f"{error}: pip install 'snowgate[onnxruntime]'") from error
    traced, example = _traced(network, network.module)
    open_sizes = {
        spec["name"]: {axis: f"{spec['name']}_{axis}" for axis, size in enumerate(spec["shape"]) if size == -1}
        for spec in (*network.inputs, *network.outputs)
    }
    # The exporter by traces: the newer one takes seconds, and bakes sizes in that it believes to be constant.
    export: Any = torch.onnx.export
    choice = {"dynamo": False} if "dynamo" in inspect.signature(export).parameters else {}
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(
            traced,
            example,
            written,
            input_names=[spec["name"] for spec in network.inputs],
            output_names=[spec["name"] for spec in network.outputs],
            dynamic_axes=open_sizes,
            opset_version=OPSET,
            **choice,
        )
    return written.getvalue()

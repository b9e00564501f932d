"""torch.export's own files, `.pt2`: a graph and its weights. Reading one unpickles, so it is executable content."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .declared import LoadError
from .engines import Network, build
from .loaded import Loaded, agree, around_model, spec, weights

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
}


def load_torch_export(directory: Path, config: Mapping[str, Any], _engine: str, device: str) -> Loaded:
    """Run the graph as it was exported: that is its one engine."""
    try:
        import torch
    except ImportError as error:
        raise LoadError(f"{error}: a torch-export bundle needs pip install 'snowgate[torch]'") from error
    file = weights(directory, config)
    try:
        program = torch.export.load(file)
    except Exception as error:  # Whatever zip, JSON and pickle raise on what they do not know.
        raise LoadError(
            f'{file.name}: not a whole program as torch.export.save(program, "model.pt2") writes it '
            f"({type(error).__name__}: {error})"
        ) from error
    inputs, outputs = _tensors(file, program)
    takes, answers = around_model(config, "inputs"), around_model(config, "outputs")
    agree(file, "input", takes, inputs, all_of_them=True)
    agree(file, "output", answers, outputs, all_of_them=True)
    # Called by position, in the program's order; a mapping answers by name, whatever the declared order.
    order = [one for spec_ in inputs for one in takes if one["name"] == spec_["name"]]
    answered = [one for spec_ in outputs for one in answers if one["name"] == spec_["name"]]
    module = program.module().to(device)
    predict = build("eager", Network(module, order, answered, None, device))
    return Loaded(predict, "pytorch_export", "torch-export", inputs, outputs)


def _tensors(file: Path, program: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what the program takes and answers, by the tensors with which it was followed."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    signature = program.graph_signature
    inputs = [_spec(file, name, values.get(name)) for name in signature.user_inputs]
    made = [values.get(name) for name in signature.user_outputs]
    structure = program.call_spec.out_spec
    if structure.type is dict:
        names = [str(one) for one in structure.context]
    else:
        names = ["output"] if len(made) == 1 else [f"output_{number}" for number in range(len(made))]
    if len(names) != len(made):
        raise LoadError(f"{file.name}: answers something nested, expected a tensor, a tuple of them or a dict of them")
    return inputs, [_spec(file, name, value) for name, value in zip(names, made, strict=True)]


def _spec(file: Path, name: str, value: Any) -> dict[str, Any]:
    datatype = DATATYPES.get(str(getattr(value, "dtype", "")).removeprefix("torch."))
    if datatype is None:
        raise LoadError(f"{file.name}: '{name}' is {value!r}, expected a tensor of the protocol's datatypes")
    shape = [size if isinstance(size, int) else -1 for size in value.shape]
    return spec(name, datatype, shape, name if name in ("logits", "probabilities", "embedding") else None)

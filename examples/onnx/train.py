"""On which side of a line is a point? Learned with numpy, written as ONNX: `snowgate train -- python train.py`."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

chance = np.random.default_rng(1)
points = chance.normal(size=(600, 2)).astype(np.float32)
side = (points @ [2, -1] + 0.5 > 0).astype(np.float32)
slope, offset = np.zeros(2), 0.0
for _ in range(200):
    wrong = 1 / (1 + np.exp(-(points[:500] @ slope + offset))) - side[:500]
    slope -= wrong @ points[:500] / 100
    offset -= wrong.mean() * 5

weights = np.column_stack([np.zeros(2), slope]).astype(np.float32)
graph = helper.make_graph(
    [helper.make_node("Gemm", ["points", "weights", "offsets"], ["logits"])],
    "line",
    [helper.make_tensor_value_info("points", TensorProto.FLOAT, ["rows", 2])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 2])],
    [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([0, offset], dtype=np.float32), "offsets"),
    ],
)
output = Path(os.environ.get("SNOWGATE_OUTPUT", "model"))
output.mkdir(exist_ok=True)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), output / "model.onnx")
np.savez(output / "holdout.npz", points=points[500:])
shutil.copy("bundle.toml", output)

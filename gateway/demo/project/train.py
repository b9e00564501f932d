"""Train a classifier of digits, as anybody would: nothing here knows of Snowgate but where the result goes."""

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from network import build
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--width", type=int, default=8)
arguments = parser.parse_args()

torch.manual_seed(arguments.seed)
torch.set_num_threads(1)
with np.load("data/train.npz") as archive:
    images, labels = torch.from_numpy(archive["image"]), torch.from_numpy(archive["label"])
with np.load("data/holdout.npz") as archive:
    held_images, held_labels = torch.from_numpy(archive["image"]), torch.from_numpy(archive["label"])

model = build(arguments.width)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for epoch in range(arguments.epochs):
    for rows in torch.randperm(len(images)).split(50):
        loss = cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(held_images).argmax(1) == held_labels).float().mean().item()
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}, accuracy on the holdout {accuracy:.3f}")

output = Path(os.environ.get("SNOWGATE_OUTPUT", "model"))
output.mkdir(exist_ok=True)
save_file(model.state_dict(), output / "model.safetensors")
shutil.copy("network.py", output)
shutil.copy("data/holdout.npz", output)
(output / "metrics.json").write_text(json.dumps({"accuracy": accuracy}))
(output / "bundle.toml").write_text(f"""\
model = "digits"
loader = "torch"
entrypoint = "network:build"
holdout = "holdout.npz"
parameters = {{ width = {arguments.width} }}
inputs = [{{ name = "image", datatype = "FP32", shape = [-1, 1, 28, 28] }}]
outputs = [{{ name = "logits", datatype = "FP32", shape = [-1, 10], semantic = "logits" }}]
""")

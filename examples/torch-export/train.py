"""Does a point lie in a circle? A network, exported as a graph: `snowgate train -- python train.py`."""

import os
import shutil
from pathlib import Path

import numpy as np
import torch

torch.manual_seed(1)


class Circle(torch.nn.Module):
    """A network whose answer has a name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))

    def forward(self, point: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits of outside and inside."""
        return {"logits": self.layers(point)}


points = torch.randn(600, 2)
inside = (points.norm(dim=1) < 1).long()
network = Circle()
optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
for _ in range(100):
    loss = torch.nn.functional.cross_entropy(network(points[:500])["logits"], inside[:500])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

output = Path(os.environ.get("SNOWGATE_OUTPUT", "model"))
output.mkdir(exist_ok=True)
# The first axis is the batch: any number of rows.
program = torch.export.export(network.eval(), (points[:3],), dynamic_shapes=({0: torch.export.Dim("rows")},))
torch.export.save(program, output / "model.pt2")
np.savez(output / "holdout.npz", point=points[500:].numpy())
shutil.copy("bundle.toml", output)

"""A small convolutional network for 28 by 28 scans; the bundle's entrypoint."""

import torch
from torch import nn


class Network(nn.Module):
    """Two convolutions and a linear layer: images [rows, 1, 28, 28] to logits [rows, 10]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 5, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 16, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classify a batch."""
        return self.layers(images)


def build(width: int) -> Network:
    """Make the network that the weights belong to."""
    return Network(width)

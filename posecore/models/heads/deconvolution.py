"""What convolutional heads have in common: ViTPose's and PoseBH's up-sampling trunk, and how weights are drawn."""

from typing import Literal

from torch import nn


def deconv_layers(num_features: int, channels: int) -> nn.Sequential:
    """Two 2× transposed convolutions, each with BatchNorm and ReLU: (B, D, h, w) to (B, channels, 4h, 4w)."""
    return nn.Sequential(
        nn.ConvTranspose2d(num_features, channels, kernel_size=4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.ConvTranspose2d(channels, channels, kernel_size=4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def initialise_convolutions(module: nn.Module, initialisation: Literal["normal", "kaiming"] = "normal") -> None:
    """Draws the weights of all convolutions and zeroes their biases.

    Args:
        module: whose convolutions, transposed ones included.
        initialisation: ``normal`` draws from N(0, 0.001²), as all but Sapiens2 did; ``kaiming`` is Sapiens2's.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            if initialisation == "normal":
                nn.init.normal_(part.weight, std=0.001)
            else:
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)

"""What experiments on rendered bodies have in common: nets that learn in minutes, and how crops are varied."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODEL: Mapping[str, Any] = {
    # Patches of 8 pixels and small crops: a transformer of this size learns little from patches of 16.
    "backbone": {"preset": "vit-micro", "patch_size": 8, "patch_padding": 0},
    "head": {"kind": "classic", "channels": 32},
    "input_size": [64, 64],
    "heatmap_sigma": 1.5,
}
LARGER: Mapping[str, Any] = {
    # 5.1 M parameters; as many patches to a body as above.
    "backbone": {
        "kind": "vit",
        "embed_dim": 256,
        "depth": 6,
        "num_heads": 4,
        "patch_size": 16,
        "patch_padding": 0,
    },
    "head": {"kind": "classic", "channels": 32},
    "input_size": [128, 96],
    "heatmap_sigma": 1.5,
}


@dataclass(frozen=True)
class Net:
    """A net and the learning rate at which it learns from fresh weights.

    Attributes:
        model: the architecture.
        rate: its learning rate.
    """

    model: Mapping[str, Any]
    rate: float


NETS: Mapping[str, Net] = {"micro": Net(MODEL, 2e-3), "larger": Net(LARGER, 1e-3)}
"""By the name that ``--net`` takes."""
STANDING: Mapping[str, Any] = {
    "half_body_probability": 0,
    "scale_factor": 0.15,
    "rotation_probability": 0.6,
    "rotation_degrees": 40,
}
LYING: Mapping[str, Any] = {
    **STANDING,
    "rotation_probability": 1.0,
    "rotation_distribution": "uniform",
    "rotation_degrees": 180,
}
"""Bodies that may lie in any direction."""

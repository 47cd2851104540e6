"""The closed union of backbones, and what each offers.

A backbone's configuration has a ``stride`` (crop pixels per feature), a ``size_multiple`` (crop sides are multiples of
it) and ``build(input_size, tasks)``, which returns a module with ``num_features`` and ``forward(images, groups)`` from
(B, 3, H, W) normalised RGB to (B, D, h, w) features. ``tasks`` are the names of the model's heads; only backbones with
experts use them.
"""

from typing import Annotated, TypeAlias

from pydantic import Field

from posecore.models.cspnext import CspnextConfig
from posecore.models.onnx_graph import OnnxGraphConfig
from posecore.models.sapiens2 import Sapiens2Config
from posecore.models.vit import VitConfig

BackboneConfig: TypeAlias = Annotated[
    VitConfig | Sapiens2Config | CspnextConfig | OnnxGraphConfig, Field(discriminator="kind")
]
"""Every backbone there is."""

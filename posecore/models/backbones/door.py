"""The door of backbones: those that are built in, and any other :class:`~posecore.models.backbone.Backbone`."""

from typing import Annotated, TypeAlias

from posecore.doors import Door
from posecore.models.backbone import Backbone
from posecore.models.backbones.cspnext import CspnextConfig
from posecore.models.backbones.sapiens2 import Sapiens2Config
from posecore.models.backbones.vit import VitConfig
from posecore.models.onnx_graph import OnnxGraphConfig

BackboneConfig: TypeAlias = Annotated[
    VitConfig | Sapiens2Config | CspnextConfig | OnnxGraphConfig | Backbone, Door("backbone", "posecore.backbones")
]
"""Every backbone there is, and whoever comes by."""

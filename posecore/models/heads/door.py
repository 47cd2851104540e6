"""The door of heads: those that are built in, and any other :class:`~posecore.models.head.Head`."""

from typing import Annotated, TypeAlias

from posecore.doors import Door
from posecore.models.head import Head
from posecore.models.heads.associative import AssociativeHeadConfig
from posecore.models.heads.classic import ClassicHeadConfig, PlacesHeadConfig, SimpleHeadConfig
from posecore.models.heads.instance_norm import InstanceNormHeadConfig
from posecore.models.heads.queries import QueryHeadConfig
from posecore.models.heads.rtmcc import RtmccHeadConfig
from posecore.models.onnx_graph import OnnxBinsConfig, OnnxHeatmapsConfig

HeadConfig: TypeAlias = Annotated[
    ClassicHeadConfig
    | SimpleHeadConfig
    | InstanceNormHeadConfig
    | RtmccHeadConfig
    | PlacesHeadConfig
    | AssociativeHeadConfig
    | QueryHeadConfig
    | OnnxHeatmapsConfig
    | OnnxBinsConfig
    | Head,
    Door("head", "posecore.heads"),
]
"""Every head there is, and whoever comes by."""

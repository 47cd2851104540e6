"""The closed union of codecs: how keypoints become targets, and outputs keypoints.

Every codec has ``crop`` (the affine its crops are cut with), ``frame_size`` ((height, width) of the frame that decoded
points live in), ``encode``, ``decode`` and ``flip_back``. Targets and outputs are single tensors, so that averages,
groups and losses need not know which codec is at work.
"""

from typing import TypeAlias

from posecore.codecs.heatmap import HeatmapCodec
from posecore.codecs.simcc import SimccCodec

Codec: TypeAlias = HeatmapCodec | SimccCodec
"""Every codec there is."""

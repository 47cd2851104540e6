"""The closed list of published layouts."""

from collections.abc import Mapping

from posecore.models.weights.huggingface_sapiens2 import HUGGINGFACE_SAPIENS2
from posecore.models.weights.huggingface_vitpose import HUGGINGFACE_VITPOSE
from posecore.models.weights.layout import Layout
from posecore.models.weights.mae import MAE
from posecore.models.weights.mmpose_vitpose import MMPOSE_VITPOSE
from posecore.models.weights.posebh import POSEBH
from posecore.models.weights.rtmpose import RTMPOSE
from posecore.models.weights.sapiens import SAPIENS
from posecore.models.weights.sapiens2 import SAPIENS2
from posecore.models.weights.vitpose import VITPOSE

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        VITPOSE,
        POSEBH,
        HUGGINGFACE_VITPOSE,
        MAE,
        MMPOSE_VITPOSE,
        SAPIENS,
        SAPIENS2,
        HUGGINGFACE_SAPIENS2,
        RTMPOSE,
    )
}
"""By name."""

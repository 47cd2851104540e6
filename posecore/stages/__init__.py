"""What happens to a dataset's annotations and pictures on their way into shards, named in ``dataset.yaml``.

A stage is one of five things, told apart by their type (:mod:`posecore.stages.protocol`): a plain function of a record,
a table stage, a source stage, an image stage or a model stage. Everything a stage of one's own needs is here.
"""

from posecore.stages.protocol import ImageStage, ModelStage, Picture, SourceStage, Stage, TableStage
from posecore.stages.rejects import reject_image, reject_instance

__all__ = [
    "ImageStage",
    "ModelStage",
    "Picture",
    "SourceStage",
    "Stage",
    "TableStage",
    "reject_image",
    "reject_instance",
]

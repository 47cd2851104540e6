"""Whose points the heads of published models find."""

from collections.abc import Mapping

from posecore.conventions import LabelConventions

UNMISTAKABLE = frozenset({133, 308})
"""Numbers of points that only a published skeleton has. A head named by any other is a guess: 16 may be anybody's."""

DATASETS_BY_POINTS: Mapping[int, tuple[str, ...]] = {
    17: ("coco", "ap10k", "apt36k"),
    14: ("aic", "crowdpose"),
    16: ("mpii",),
    133: ("coco_wholebody",),
    308: ("goliath",),
}
"""Datasets whose heads are published, by number of points. Those of one number have their points in other orders."""

VITPOSE_MULTI = ("coco", "aic", "mpii")
"""The heads of ViTPose trained on several datasets, in the published order."""
VITPOSE_PLUS = (*VITPOSE_MULTI, "ap10k", "apt36k", "coco_wholebody")
"""The heads of ViTPose++ and PoseBH, in the published order: expert e belongs to the e-th."""

LABELS: Mapping[str, LabelConventions] = {"mpii": LabelConventions(box_source="center_scale", clip_boxes=False)}
"""What the labels of published heads' datasets mean, where it is not what labels mostly do."""
SKELETONS: Mapping[str, str] = {
    "coco": "coco17",
    "aic": "aic14",
    "mpii": "mpii16",
    "crowdpose": "crowdpose14",
    "ap10k": "ap10k17",
    "apt36k": "ap10k17",
    "coco_wholebody": "coco_wholebody133",
    "goliath": "goliath308",
}
"""Skeleton of every dataset in :data:`DATASETS_BY_POINTS`."""

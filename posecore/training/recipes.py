"""Every published training there is: values by the names that run files have for them, with where they were published.

``posecore models recipes`` prints them, ``docs/recipes.md`` is that table, and
``tests/unit/training/test_recipe_page.py`` holds them against the published figures, stated there a second time.

Where paper and code differ the code's values are taken, since they are what the released weights were trained with;
``unmet`` says what no field of a run file can say yet.
"""

from collections.abc import Iterator, Mapping

from posecore.counting import counted
from posecore.schema import Json
from posecore.training.recipe import Recipe

_VITPOSE = "ViTAE-Transformer/ViTPose @ c050ed2, ViTPose_{size}_coco_256x192.py"
_VITPOSE_PLUS = (
    "ViTAE-Transformer/ViTPose @ c050ed2, vitPose+_{size}_coco+aic+mpii+ap10k+apt36k+wholebody_256x192_udp.py"
)
_POSEBH = "uyoung-jeong/PoseBH @ 8f03438, mdt/vit{letter}_posebh.py"
_RTMPOSE = "open-mmlab/mmpose @ 759b39c, {folder}/rtmpose"
_DWPOSE = "IDEA-Research/DWPose @ 3dca5db, mmpose/configs/distiller"
_SAPIENS = "facebookresearch/sapiens @ 3e829ac, pose/configs/sapiens_pose/{folder}"
_SAPIENS2 = "facebookresearch/sapiens2 @ 3098c14, sapiens/pose/configs/keypoints308/shutterstock_goliath_3po"


def _adamw(lr: float, weight_decay: float, layer_decay: float, clip_norm: float | None, **others: Json) -> Json:
    return {
        "lr": lr,
        "weight_decay": weight_decay,
        "undecayed": "vectors",
        "betas": [0.9, 0.999],
        "layer_decay": layer_decay,
        "clip_norm": clip_norm,
        **others,
    }


def _multistep(*milestones: float, reaches: str = "after") -> Json:
    return {
        "kind": "multistep",
        "warmup_steps": 500,
        "warmup_start": 0.001,
        "warmup_reaches": reaches,
        "milestones": list(milestones),
        "gamma": 0.1,
    }


_VITPOSE_CROPS: Mapping[str, Json] = {
    "flip_probability": 0.5,
    "half_body_probability": 0.3,
    "half_body_rule": "vitpose",
    "half_body_padding": 1.5,
    "scale_factor": 0.5,
    "scale_distribution": "clipped",
    "rotation_probability": 0.6,
    "rotation_degrees": 40.0,
    "rotation_distribution": "normal",
    "center_jitter": "per_run",
    "center_jitter_probability": 0.3,
    "center_jitter_distribution": "uniform",
    "center_jitter_extent": 0.4,
    "appearance": None,
}
"""``top_down_transform.py`` and the COCO configurations there; MPII and CrowdPose differ by their conventions."""


def _mmpose_crops(scale: float, degrees: float, hole: float = 1.0, shifts: bool = True) -> dict[str, Json]:
    """``RandomHalfBody``, ``RandomBBoxTransform``, ``Blur``, ``MedianBlur`` and ``CoarseDropout`` of mmpose 1."""
    return {
        "flip_probability": 0.5,
        "half_body_probability": 0.3,
        "half_body_rule": "mmpose",
        "half_body_padding": 1.5,
        "scale_factor": scale,
        "scale_distribution": "truncated",
        "rotation_probability": 0.6,
        "rotation_degrees": degrees,
        "rotation_distribution": "truncated",
        "center_jitter": "per_sample" if shifts else "off",
        "center_jitter_probability": 0.3,
        "center_jitter_distribution": "truncated",
        "center_jitter_extent": 0.16,
        "appearance": {
            "blur_probability": 0.1,
            "median_blur_probability": 0.1,
            "hole_probability": hole,
            "hole_extent": [0.2, 0.4],
        },
    }


def _vitpose() -> Iterator[Recipe]:
    for size, layer_decay in (("small", 0.8), ("base", 0.75), ("large", 0.8), ("huge", 0.85), ("giant", 0.85)):
        yield Recipe(
            name=f"vitpose-{size}",
            preset=f"vitpose-{size}",
            source="arXiv 2204.12484, table 1; no code" if size == "giant" else _VITPOSE.format(size=size),
            keypoints=17,
            batch=512,
            length="210 epochs of COCO",
            fields={
                "method": {"kind": "heads"},
                "training": {
                    "optimizer": _adamw(5e-4, 0.1, layer_decay, 1.0),
                    "schedule": _multistep(170 / 210, 200 / 210),
                    "engine": {"precision": "fp32"},
                },
                "loading": {"augment": dict(_VITPOSE_CROPS)},
            },
        )
    for size, layer_decay in (("small", 0.8), ("base", 0.75), ("large", 0.8), ("huge", 0.8)):
        yield Recipe(
            name=f"vitpose-plus-{size}",
            preset=f"vitpose-plus-{size}",
            source=_VITPOSE_PLUS.format(size=size),
            keypoints=133,
            batch=1024,
            length="210 epochs of six sets",
            fields={
                "method": {"kind": "experts", "head_statistics": "mixed", "denominator": "batch"},
                "training": {
                    "optimizer": _adamw(1e-3, 0.1, layer_decay, 1.0),
                    "schedule": _multistep(170 / 210, 200 / 210),
                    "engine": {"precision": "fp32"},
                },
                "loading": {"sampling": "natural", "augment": dict(_VITPOSE_CROPS)},
            },
        )


def _posebh() -> Iterator[Recipe]:
    for size, layer_decay in (("base", 0.75), ("huge", 0.8)):
        yield Recipe(
            name=f"posebh-{size}",
            preset=f"vitpose-plus-{size}",
            source=_POSEBH.format(letter=size[0]),
            keypoints=133,
            batch=512,
            length="100 epochs of six sets, from ViTPose++",
            fields={
                "method": {
                    "kind": "prototypes",
                    "head_statistics": "mixed",
                    "denominator": "batch",
                    "stages": "published",
                    "weights": "published",
                    "momentum": 0.999,
                    "frozen": "weights",
                    "pixel_threshold": 0.0,
                    "pixel_weighting": "confidence",
                },
                "training": {
                    "optimizer": _adamw(1e-3, 0.1, layer_decay, 1.0),
                    "schedule": _multistep(0.5, 0.9),
                    "engine": {"precision": "fp16"},
                },
                "loading": {"sampling": "natural", "augment": dict(_VITPOSE_CROPS)},
            },
            unmet=("clusters of prototypes supervise nothing here: see docs/prototypes.md.",),
        )


def _simcc(weight_decay: float, clip_norm: float | None, average: bool) -> dict[str, Json]:
    return {
        "optimizer": _adamw(4e-3, weight_decay, 1.0, clip_norm, undecayed="norms_and_biases"),
        "schedule": {
            "kind": "cosine",
            "warmup_steps": 1000,
            "warmup_start": 1e-5,
            "warmup_reaches": "last",
            "begin": 0.5,
            "floor": 0.05,
        },
        "average": {"momentum": 2e-4, "warmup": 2000} if average else None,
        "synchronised_batchnorm": True,
        "engine": {"precision": "fp32"},
    }


def _late(epochs: int, scale: float = 0.25, degrees: float = 60.0) -> Json:
    return {"from_pass": epochs - 30, "augment": _mmpose_crops(scale, degrees, hole=0.5, shifts=False)}


def _rtmpose() -> Iterator[Recipe]:
    for points, folder, keypoints, epochs, batch in (
        ("body", "body_2d_keypoint", 17, 420, 1024),
        ("wholebody", "wholebody_2d_keypoint", 133, 270, 512),
    ):
        for size in "tsml" if points == "body" else "tsmlx":
            largest = size == "x"
            scale, degrees = (0.5, 90.0) if largest else (0.4, 80.0)
            fields: dict[str, Json] = {
                "method": {"kind": "heads", "simcc_reduction": "sum"},
                "training": _simcc(
                    0.0 if points == "body" and size in "ts" else 0.05,
                    35.0 if largest else None,
                    average=not (points == "body" and size == "t"),
                ),
                "loading": {"augment": _mmpose_crops(scale, degrees), "late": _late(epochs)},
            }
            if largest:
                fields["model"] = {"input_size": [384, 288]}
            yield Recipe(
                name=f"rtmpose-{size}-{points}",
                preset=f"rtmpose-{size}",
                source=_RTMPOSE.format(folder=folder),
                keypoints=keypoints,
                batch=256 if largest else batch,
                length=f"{counted(epochs, 'epoch')} of {'COCO' if points == 'body' else 'COCO-WholeBody'}",
                fields=fields,
            )


def _dwpose() -> Iterator[Recipe]:
    for points, keypoints, epochs, second, batch in (("body", 17, 420, 80, 1024), ("wholebody", 133, 270, 60, 512)):
        for size in "tsml":
            if points == "body" and size == "l":
                continue  # it is nobody's student there
            yield Recipe(
                name=f"dwpose-{size}" + ("" if points == "wholebody" else "-body"),
                preset=f"rtmpose-{size}",
                source=_DWPOSE,
                job="distill",
                keypoints=keypoints,
                batch=batch,
                length=f"{counted(epochs, 'epoch')}, and {second} of the second stage",
                fields={
                    "method": {
                        "feature_reduction": "sum",
                        "feature_weight": 7e-5,
                        "output_weight": 0.1,
                        "decay": "linear",
                        "decay_epochs": epochs,
                        "balance": "published",
                        "teacher_statistics": "batch",
                    },
                    "second_stage": second / epochs,
                    "backbone_statistics": "drift",
                    "training": _simcc(0.0 if points == "body" and size in "ts" else 0.05, 1.0, average=True),
                    "loading": {"augment": _mmpose_crops(0.4, 80.0), "late": _late(epochs)},
                },
            )


def _sapiens() -> Iterator[Recipe]:
    published: tuple[tuple[int, str, float, Mapping[str, float]], ...] = (
        (17, "coco", 5e-4, {"0.3b": 0.85, "0.6b": 0.85, "1b": 0.85, "2b": 0.85}),
        (133, "coco_wholebody", 5e-4, {"0.3b": 0.75, "0.6b": 0.75, "1b": 0.85, "2b": 0.85}),
        (308, "goliath", 5e-5, {"0.3b": 0.85, "0.6b": 0.85, "1b": 0.95, "2b": 0.85}),
    )
    for keypoints, folder, lr, layer_decays in published:
        for size, layer_decay in layer_decays.items():
            hardest = 128 if keypoints == 308 and size in ("0.3b", "1b") else None
            yield Recipe(
                name=f"sapiens-{size}-{keypoints}",
                preset=f"sapiens-{size}",
                source=_SAPIENS.format(folder=folder),
                keypoints=keypoints,
                batch=512,
                length="210 epochs",
                fields={
                    "method": {"kind": "heads", "hardest_points": hardest},
                    "training": {
                        "optimizer": _adamw(lr, 0.1, layer_decay, 1.0),
                        "schedule": _multistep(170 / 210, 200 / 210, reaches="last"),
                    },
                    "loading": {"augment": _mmpose_crops(0.5, 80.0)},
                },
                unmet=("PhotometricDistortion: colours change as in RTMPose's training.",),
            )


def _sapiens2() -> Iterator[Recipe]:
    published: tuple[tuple[str, float, float, float, int, int], ...] = (
        ("0.4b", 5e-4, 0.80, 2.0, 48, 10_000),
        ("0.8b", 5e-4, 0.85, 4.0, 96, 10_000),
        ("1b", 5e-4, 0.90, 4.0, 56, 20_000),
        ("5b", 1e-4, 0.94, 4.0, 16, 20_000),
    )
    for size, lr, layer_decay, clip_norm, batch, steps in published:
        yield Recipe(
            name=f"sapiens2-{size}-308",
            preset=f"sapiens2-{size}",
            source=_SAPIENS2,
            keypoints=308,
            batch=batch,
            length=f"{counted(steps, 'step')}",
            fields={
                "method": {"kind": "heads", "loss_weight": 10.0},
                "training": {
                    "optimizer": _adamw(lr, 0.1, layer_decay, clip_norm),
                    "schedule": {
                        "kind": "polynomial",
                        "warmup_steps": 500,
                        "warmup_start": 0.001,
                        "warmup_reaches": "after",
                        "power": 1.0,
                        "floor": 0.0,
                    },
                    "engine": {"precision": "bf16"},
                },
                "loading": {"augment": _mmpose_crops(0.5, 80.0)},
            },
            unmet=(
                "PhotometricDistortion: colours change as in RTMPose's training.",
                "crops are resampled bilinearly, not by area where they shrink and bicubically where they grow.",
            ),
        )


_FAMILIES = (_vitpose, _posebh, _rtmpose, _dwpose, _sapiens, _sapiens2)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for family in _FAMILIES for recipe in family()}
"""By name. Of several for one backbone, kind of job and method, the first with about as many points is its default."""

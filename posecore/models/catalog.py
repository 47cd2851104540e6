"""Every published model we read, by name: architecture, heads, terms and, where its publisher states it, the file.

A row says what to expect of a file and where to look for it; no weights ship with this library. Where ``hub`` is None
the publisher's page, given by ``homepage``, leads to the file, to be downloaded and named by its path.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from posecore.config import parse_config
from posecore.conventions import LabelConventions
from posecore.datasets.definition import LicenseDefinition
from posecore.errors import CheckpointError
from posecore.models.catalog_figures import FIGURES
from posecore.models.weights.licenses import LICENSES
from posecore.models.weights.published_heads import LABELS, SKELETONS, VITPOSE_MULTI, VITPOSE_PLUS
from posecore.nearest import nearest
from posecore.skeletons.library import load_skeleton

if TYPE_CHECKING:
    from posecore.models.architecture import ModelCard, ModelConfig


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """One row of the catalog.

    Attributes:
        name: how we call it.
        preset: its architecture.
        heads: datasets it has a head for, in the published order; empty for a backbone only.
        layout: layout of the published file.
        license_id: terms of the weights, a key of :data:`~posecore.models.weights.licenses.LICENSES`.
        homepage: where its publisher describes it and links the file.
        file: the published file name, where known.
        hub: repository on the Hugging Face hub, where the publisher names one; ViTPose++ is mirrored by the person who
            ported it to ``transformers``.
        changes: fields of :class:`~posecore.models.architecture.ModelConfig` that differ from the preset's.
        whole_scenes: whether it finds all bodies of a whole picture; else it takes crops.
    """

    name: str
    preset: str
    heads: tuple[str, ...]
    layout: str
    license_id: str
    homepage: str
    file: str | None = None
    hub: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    whole_scenes: bool = False

    @property
    def license(self) -> LicenseDefinition:
        """Terms of the weights."""
        return LICENSES[self.license_id]

    @property
    def parameters(self) -> int:
        """Exact number."""
        return FIGURES[self.name][0]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one crop through the backbone and, on average, a head."""
        return FIGURES[self.name][1]

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of a crop."""
        return FIGURES[self.name][2]

    @property
    def points(self) -> tuple[int, ...]:
        """How many each head finds."""
        return tuple(load_skeleton(SKELETONS[dataset]).num_keypoints for dataset in self.heads)

    def architecture(self) -> "ModelConfig":
        """What to build."""
        from posecore.models.architecture import ModelConfig  # torch, which a list of names does without

        fields = {**self.changes, "backbone": {"preset": self.preset, **self.changes.get("backbone", {})}}
        return parse_config(fields, ModelConfig, origin=self.name)

    def card(self) -> "ModelCard":
        """Everything about the model but its weights."""
        from posecore.models.architecture import ModelCard

        architecture = self.architecture()
        return ModelCard(
            architecture=architecture,
            skeletons={dataset: load_skeleton(SKELETONS[dataset]) for dataset in self.heads},
            conventions={
                dataset: architecture.of_head(dataset).on(LABELS.get(dataset, LabelConventions()))
                for dataset in self.heads
            },
            licenses={self.name: self.license_id},
        )


_RESTRICTED_DATA = "Apache-2.0 (non-commercial data)"
_RTMPOSE_RELEASES = {
    *(("rtmpose", "coco", size, 256) for size in "tsml"),
    *(("rtmpose", "coco", size, 384) for size in "ml"),
    *(("rtmpose", "wholebody", size, 256) for size in "ml"),
    *(("rtmpose", "wholebody", size, 384) for size in "lx"),
    *(("dwpose", "wholebody", size, 256) for size in "tsml"),
    ("dwpose", "wholebody", "l", 384),
}
"""(family, points, size, height) of every released model."""


def _vitpose() -> Iterator[PublishedModel]:
    for size in ("small", "base", "large", "huge"):
        name = f"vitpose-{size}"
        row = PublishedModel(
            name,
            name,
            ("coco",),
            "vitpose",
            "Apache-2.0",
            "https://github.com/ViTAE-Transformer/ViTPose",
        )
        yield row
        yield replace(row, name=f"{name}-simple", changes={"head": {"kind": "simple"}})
        if size != "small":
            multi = replace(row, name=f"{name}-multi", heads=VITPOSE_MULTI, license_id=_RESTRICTED_DATA)
            yield multi
            yield replace(multi, name=f"{name}-multi-crowdpose", heads=(*multi.heads, "crowdpose"))
        plus = f"vitpose-plus-{size}"
        yield replace(
            row,
            name=plus,
            preset=plus,
            heads=VITPOSE_PLUS,
            license_id=_RESTRICTED_DATA,
            file=f"vitpose+_{size}.pth",
            hub=None if size == "huge" else "nielsr/vitpose-original-checkpoints",
        )


def _posebh() -> Iterator[PublishedModel]:
    for size in ("base", "huge"):
        yield PublishedModel(
            f"posebh-{size}",
            f"vitpose-plus-{size}",
            VITPOSE_PLUS,
            "posebh",
            _RESTRICTED_DATA,
            "https://github.com/uyoung-jeong/PoseBH",
            changes={"embedding": {}},
        )


def _sapiens() -> Iterator[PublishedModel]:
    # (epoch of the pre-training, AP in the file names of 17, 133 and 308 points)
    files = {
        "0.3b": ("1600", "796", "620", "573"),
        "0.6b": ("1600", "812", "695", "609"),
        "1b": ("173", "821", "727", "639"),
        "2b": ("660", "822", "745", None),
    }
    for size, (epoch, coco, wholebody, goliath) in files.items():
        preset = f"sapiens-{size}"
        row = PublishedModel(
            f"{preset}-pretrain",
            preset,
            (),
            "sapiens",
            "CC-BY-NC-4.0",
            "https://github.com/facebookresearch/sapiens",
            file=f"sapiens_{size}_epoch_{epoch}_clean.pth",
            changes={"input_size": (1024, 1024), "backbone": {"patch_padding": 0}},
        )
        yield row
        folder = f"sapiens_host/pose/checkpoints/sapiens_{size}"
        for head, points, average_precision, hub in (
            ("coco", "coco", coco, "noahcao/sapiens-pose-coco"),
            ("coco_wholebody", "wholebody", wholebody, "noahcao/sapiens-pose-coco"),
            ("goliath", "308", goliath, None),
        ):
            if average_precision is not None:
                file = f"sapiens_{size}_{head}_best_{head}_AP_{average_precision}.pth"
                yield replace(
                    row,
                    name=f"{preset}-{points}",
                    heads=(head,),
                    file=f"{folder}/{file}" if hub else file,
                    hub=hub,
                    changes={},
                )


def _sapiens2() -> Iterator[PublishedModel]:
    for size in ("0.1b", "0.4b", "0.8b", "1b", "5b", "1b-4k"):
        preset = f"sapiens2-{size}"
        row = PublishedModel(
            f"{preset}-pretrain",
            preset,
            (),
            "sapiens2",
            "Sapiens2",
            "https://github.com/facebookresearch/sapiens2",
            hub=f"facebook/sapiens2-pretrain-{size}",
        )
        yield row
        if size not in ("0.1b", "1b-4k"):
            yield replace(row, name=f"{preset}-308", heads=("goliath",), hub=f"facebook/sapiens2-pose-{size}")


def _rtmpose() -> Iterator[PublishedModel]:
    for size in "tsmlx":
        for points, head, family, license_id, homepage in (
            ("coco", "coco", "rtmpose", "Apache-2.0", "https://github.com/open-mmlab/mmpose"),
            ("wholebody", "coco_wholebody", "rtmpose", _RESTRICTED_DATA, "https://github.com/open-mmlab/mmpose"),
            ("wholebody", "coco_wholebody", "dwpose", _RESTRICTED_DATA, "https://github.com/IDEA-Research/DWPose"),
        ):
            for height, width in ((256, 192), (384, 288)):
                if (family, points, size, height) not in _RTMPOSE_RELEASES:
                    continue
                yield PublishedModel(
                    f"{family}-{size}-{points}-{height}x{width}",
                    f"rtmpose-{size}",
                    (head,),
                    "rtmpose",
                    license_id,
                    homepage,
                    changes={"input_size": (height, width)},
                )


def _mae() -> Iterator[PublishedModel]:
    for size, side in (("base", 224), ("large", 224), ("huge", 256)):
        yield PublishedModel(
            f"mae-{size}",
            f"vitpose-{size}",
            (),
            "mae",
            "CC-BY-NC-4.0",
            "https://github.com/facebookresearch/mae",
            changes={"input_size": (side, side), "backbone": {"patch_padding": 0}},
        )


CATALOG: Mapping[str, PublishedModel] = {
    model.name: model
    for models in (_vitpose(), _posebh(), _sapiens(), _sapiens2(), _rtmpose(), _mae())
    for model in models
}
"""By name."""


def find(name: str) -> PublishedModel:
    """A row of the catalog.

    Raises:
        CheckpointError: there is none of that name; the message suggests the closest.
    """
    if name not in CATALOG:
        close = nearest(name, CATALOG, most=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "; posecore models list shows all."
        raise CheckpointError(f"no preset or published model is called {name!r}{hint}")
    return CATALOG[name]


def published_card(name: str) -> "ModelCard":
    """The card of a published model.

    Raises:
        CheckpointError: there is no such model.
    """
    return find(name).card()

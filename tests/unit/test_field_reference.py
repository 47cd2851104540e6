"""``docs/fields.md`` says of every field what the code does; run this file as a program to write it anew."""

from pathlib import Path

from pipelines.distill import DistillationJob
from pipelines.multidataset_train import JobConfig
from pipelines.pretrain import PretrainingConfig
from posecore.config import Config, load_config
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import load_dataset
from posecore.formats.coco_options import CocoOptions
from posecore.formats.named_points import NamedPointsOptions
from posecore.formats.several import SeveralOptions
from posecore.skeletons.library import load_skeleton, skeleton_names
from posecore.skeletons.skeleton import Skeleton
from posecore.workflows.adaptation.job import AdaptationJob
from tests.architecture.test_configs import CONFIGS, job_of
from tests.support.field_reference import classes_of, descriptions, page

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "fields.md"
SECTIONS = {
    "dataset.yaml": [DatasetDefinition, CocoOptions, NamedPointsOptions, SeveralOptions],
    "skeleton.yaml": [Skeleton],
    "Run files of pipelines/multidataset_train.py": [JobConfig],
    "Run files of pipelines/adapt.py": [AdaptationJob],
    "Run files of pipelines/distill.py": [DistillationJob],
    "Run files of pipelines/pretrain.py": [PretrainingConfig],
}


def reference() -> str:
    values: list[Config] = [load_dataset(path) for path in sorted((ROOT / "datasets").glob("*/dataset.yaml"))]
    values += [load_skeleton(name) for name in skeleton_names()]
    values += [load_config(path, job_of(path)) for path in CONFIGS]
    return page(SECTIONS, values, "python tests/unit/test_field_reference.py")


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "a field changed; if that is meant, run `python tests/unit/test_field_reference.py` and read the difference"
    )


def test_every_field_is_described() -> None:
    kinds = classes_of([kind for kinds in SECTIONS.values() for kind in kinds])
    assert len(kinds) > 60
    silent = [
        f"{kind.__module__}.{kind.__name__}.{name}"
        for kind in kinds
        for name, field in kind.model_fields.items()
        if not field.exclude and name not in descriptions(kind) and name != "kind"
    ]
    assert silent == []


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")

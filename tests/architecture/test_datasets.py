"""Every dataset folder is complete, and its reader stays below the rooms that import torch."""

import ast
import sys

import pytest

from posecore.config import read_yaml
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import dataset_folders, load_dataset, load_reader
from posecore.evaluation.protocols import metric_of
from posecore.skeletons.union import builtin_vocabulary

NAMES = [name for name, folder in dataset_folders().items() if folder.parent.name == "datasets"]
ALLOWED = ("posecore.formats", "posecore.geometry", "posecore.schema", "posecore.errors", "posecore.storage", "numpy")


def test_no_package_shadows_hugging_faces_datasets():
    for folder in {folder.parent for folder in dataset_folders().values()}:
        assert folder.name == "datasets"
        assert not (folder / "__init__.py").exists() or folder.parent.name == "posecore"


@pytest.mark.parametrize("name", NAMES)
def test_definition_loads_and_its_reader_can_be_had(name):
    definition = load_dataset(name)
    assert definition.splits
    assert callable(load_reader(definition).read)
    assert metric_of(definition.evaluation).kind == definition.evaluation.protocol


@pytest.mark.parametrize("name", NAMES)
def test_protocols_that_need_oks_constants_have_them(name):
    definition = load_dataset(name)
    if definition.evaluation.protocol in ("oks", "oks_per_category", "wholebody", "crowdpose", "aic"):
        assert definition.skeleton.oks_sigmas is not None


@pytest.mark.parametrize("name", NAMES)
def test_licence_is_stated_with_its_source(name):
    license = load_dataset(name).license
    assert license.id
    assert license.note.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_readme_has_the_sections_a_user_looks_for(name):
    readme = (dataset_folders()[name] / "README.md").read_text()
    for heading in (
        "# ",
        "## Source and licence",
        "## Files",
        "## Keypoints",
        "## Known defects",
        "## What is dropped",
    ):
        assert f"\n{heading}" in f"\n{readme}", heading


@pytest.mark.parametrize("name", NAMES)
def test_overlaps_name_datasets_we_have_and_skeletons_use_known_points(name):
    definition = load_dataset(name)
    assert definition.shares_images_with.keys() <= set(NAMES) - {name}
    if isinstance(read_yaml(dataset_folders()[name] / "dataset.yaml")["skeleton"], str):
        builtin_vocabulary().indices(definition.skeleton)


def test_own_readers_import_only_the_lower_rooms():
    for folder in dataset_folders().values():
        for path in folder.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for module in names:
                    allowed = module.split(".")[0] in sys.stdlib_module_names or module.startswith(ALLOWED)
                    assert allowed, f"{path} imports {module}"


def test_digest_depends_on_the_content_and_not_on_the_place():
    definition = load_dataset("coco")
    moved = definition.model_copy(update={"folder": definition.folder / "elsewhere"})
    changed = DatasetDefinition.model_validate({**dict(definition), "area_rule": "box"})
    assert moved.digest() == definition.digest() != changed.digest()

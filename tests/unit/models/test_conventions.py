"""How a head is trained and read is the model's affair, whatever data it meets, and a trained head keeps it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.multidataset_train import JobConfig
from posecore.codecs.heatmap import HeatmapCodec
from posecore.config import parse_config
from posecore.conventions import Conventions, HeadConventions, LabelConventions
from posecore.datasets.definition import DatasetDefinition
from posecore.datasets.discovery import load_dataset
from posecore.errors import ConfigError
from posecore.geometry import apply_affine, crop_matrix, heatmap_to_image
from posecore.models.architecture import ModelCard, ModelConfig
from posecore.models.pose_model import PoseModel, build_model, conventions_of, model_for
from posecore.models.presets import PRESETS
from posecore.models.saving import save_model
from posecore.models.sources import StartFolder
from posecore.models.warm_start import WarmStartConfig, warm_start
from posecore.shards.manifest import MANIFEST_NAME, read_manifest
from posecore.workflows.fetched_model import refuse_other_conventions
from tests.support.tiny_store import write_store

TINY: dict[str, Any] = {
    "backbone": {"kind": "vit", "embed_dim": 16, "depth": 1, "num_heads": 2},
    "head": {"kind": "classic", "channels": 8},
    "input_size": (64, 48),
}
OTHER_SETS = ("coco_wholebody", "halpe", "aic", "ap10k", "crowdpose", "goliath")


def _of(preset: str, dataset: str) -> Conventions:
    config = ModelConfig.model_validate({"backbone": preset})
    return conventions_of(config, dataset, {dataset: load_dataset(dataset)})


@pytest.mark.parametrize("dataset", OTHER_SETS)
@pytest.mark.parametrize("preset", ["sapiens-0.3b", "sapiens-2b", "sapiens2-1b", "vit-tiny"])
def test_sapiens_is_udp_on_every_set(preset: str, dataset: str) -> None:
    """facebookresearch/sapiens @ 3e829ac, ``pose/configs/sapiens_pose``: UDP, padding 1.25, no flip shift."""
    assert _of(preset, dataset).reading == {"codec": "udp", "flip_shift": False, "padding": 1.25}


@pytest.mark.parametrize("dataset", [*OTHER_SETS, "coco", "mpii"])
def test_rtmpose_has_its_own_on_every_set(dataset: str) -> None:
    assert _of("rtmpose-l", dataset).reading == {"codec": "msra", "flip_shift": False, "padding": 1.25}


@pytest.mark.parametrize(
    ("dataset", "codec", "half_body"),
    [
        ("coco", "udp", 8),
        ("aic", "msra", 8),
        ("mpii", "udp", None),
        ("ap10k", "msra", 8),
        ("apt36k", "msra", 8),
        ("coco_wholebody", "msra", 8),
        ("crowdpose", "msra", 6),
    ],
)
def test_the_mixture_of_vitpose_plus_stays_its_own(dataset: str, codec: str, half_body: int | None) -> None:
    """ViTAE-Transformer/ViTPose @ c050ed2: only COCO and MPII are UDP; the others shift in the flip test."""
    found = _of("vitpose-plus-base", dataset)
    assert (found.codec, found.flip_shift, found.half_body_min_keypoints) == (codec, codec == "msra", half_body)
    assert (found.box_source == "center_scale") == (dataset == "mpii")
    assert found.center_jitter == (dataset != "mpii")


def test_a_perfect_map_of_sapiens_on_133_points_is_read_back_to_a_ten_thousandth_of_a_pixel() -> None:
    """1024×768 under the published conventions; ViTPose++'s for this set lose 1.5 pixels on average."""
    config = ModelConfig.model_validate({"backbone": "sapiens-1b"})
    errors = {}
    for name, conventions in (
        ("own", _of("sapiens-1b", "coco_wholebody")),
        ("vitpose", _of("vitpose-plus-base", "coco_wholebody")),
    ):
        codec = config.codec(conventions)
        assert isinstance(codec, HeatmapCodec)
        errors[name] = _decode_errors(codec)
    assert errors["own"].mean() < 0.00005
    assert errors["own"].max() < 0.001
    assert errors["vitpose"].mean() > 1.0


def _decode_errors(codec: HeatmapCodec) -> np.ndarray:
    """Pixels of the crop, of points well inside it, through crop, target, decoding and back."""
    random = np.random.default_rng(0)
    center, scale = np.array([640.0, 480.0]), np.array([768.0, 1024.0])
    points = center + random.uniform(-0.4, 0.4, (40, 2)) * scale
    into = crop_matrix(center, scale, np.array(0.0), codec.input_size, codec.crop)
    in_crop = apply_affine(points, into)
    targets, _ = codec.encode(torch.from_numpy(in_crop)[None], torch.ones(1, len(points)))
    found = codec.decode(targets)[0][0].double().numpy()
    image = heatmap_to_image(found, center, scale, codec.frame_size, codec.crop)
    errors: np.ndarray = np.linalg.norm(image - points, axis=1)
    return errors


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith(("vitpose", "sapiens"))])
def test_spread_and_blur_grow_with_the_map(preset: str) -> None:
    """At half as much again, as HRNet was published at 384×288: 3 for 2, and 17 for 11."""
    own = ModelConfig.model_validate({"backbone": preset})
    height, width = own.input_size
    factor = 2 if preset.endswith(("4k", "giant")) else 1.5
    size = (round(height * factor), round(width * factor))
    larger = ModelConfig.model_validate({"backbone": preset, "input_size": size})
    assert larger.heatmap_sigma == own.heatmap_sigma * factor
    if own.blur_kernel == 11 and factor == 1.5:
        assert larger.blur_kernel == 17
    stated = ModelConfig.model_validate({"backbone": preset, "input_size": size, "heatmap_sigma": 2.5})
    assert (stated.heatmap_sigma, stated.blur_kernel) == (2.5, own.blur_kernel)


def test_a_spread_that_does_not_fit_the_map_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"heatmap_sigma 6.5 does not fit maps of 16×12 pixels .*lower it"):
        parse_config(TINY | {"heatmap_sigma": 6.5}, ModelConfig, origin="model")


def test_a_definition_says_nothing_of_heads() -> None:
    values = load_dataset("aic").model_dump()
    for name in HeadConventions.model_fields:
        with pytest.raises(ConfigError, match=f"conventions: {name} is of the model, not of the labels"):
            parse_config({**values, "conventions": {name: 4}}, DatasetDefinition, origin="aic")
    with pytest.raises(ConfigError, match="conventions: codek is no convention of labels"):
        parse_config({**values, "conventions": {"codek": 1}}, DatasetDefinition, origin="aic")


def test_bodies_without_halves_may_be_said_the_old_way() -> None:
    values = load_dataset("aic").model_dump() | {"conventions": {"half_body_min_keypoints": None}}
    definition = parse_config(values, DatasetDefinition, origin="aic")
    assert definition.conventions == LabelConventions(half_bodies=False)


def test_a_manifest_from_when_definitions_did_is_read_with_its_digest(tmp_path: Path) -> None:
    store = write_store(tmp_path, "people", [1])
    path = store.location / MANIFEST_NAME
    value = json.loads(path.read_text())
    value["definition"]["conventions"] = Conventions(codec="msra", flip_shift=True).model_dump(mode="json")
    manifest = type(store.manifest).model_validate(
        {key: item for key, item in value.items() if key != "digest"}, context={"stored": True}
    )
    path.write_text(json.dumps(value | {"digest": manifest.digest}))
    read = read_manifest(store.location)
    assert read.model_dump(mode="json")["definition"]["conventions"] == value["definition"]["conventions"]
    assert HeadConventions().on(read.definition.conventions) == Conventions()


def test_what_labels_mean_reaches_the_crops() -> None:
    head = HeadConventions(padding=1.1, codec="msra")
    assert head.on(LabelConventions()).padding == 1.1
    assert head.on(LabelConventions(padded=True)).padding == 1.0
    assert head.on(LabelConventions(half_bodies=False)).half_body_min_keypoints is None
    assert head.on(LabelConventions(box_source="center_scale", clip_boxes=False)).box_source == "center_scale"
    assert head.on(LabelConventions()).head == head


def test_a_head_that_is_shared_has_one_way_to_be_read() -> None:
    config = ModelConfig.model_validate({"backbone": "vitpose-base", "shared_heads": {"ubody": "coco_wholebody"}})
    definitions = {name: load_dataset(name) for name in ("coco_wholebody", "ubody")}
    assert conventions_of(config, "ubody", definitions).codec == "msra"


def _model(heads: Mapping[str, str], **changes: Any) -> PoseModel:
    return model_for(
        ModelConfig.model_validate(TINY | changes), {name: load_dataset(dataset) for name, dataset in heads.items()}
    )


def test_heads_that_start_from_a_parents_keep_its_conventions() -> None:
    """Under its own name, under another one, and shared; a head that starts afresh has the architecture's."""
    parent = _model({"body": "coco", "beasts": "ap10k"}, conventions_of={"body": {"codec": "msra", "padding": 1.1}})
    heads = {"body": "coco", "infants": "syrip", "beasts": "ap10k", "hands": "deeplabcut"}
    child = _model(heads, shared_heads={"infants": "body"})
    report = warm_start(child, parent)
    sources = {row.what: row.source for row in report.rows}
    assert sources["head body"] == "head body"
    assert sources["head hands"] == ""
    for head in ("body", "infants"):
        assert child.conventions[head].reading == {"codec": "msra", "flip_shift": False, "padding": 1.1}
    assert child.conventions["beasts"].codec == child.conventions["hands"].codec == "udp"


def test_a_contradiction_names_both_sides(tmp_path: Path) -> None:
    parent = _model({"coco": "coco"}, conventions={"codec": "msra", "flip_shift": True})
    message = (
        "head aic starts from the parent's coco, which was trained with codec msra, and model.conventions says udp: "
        "leave it out, or start this head afresh"
    )
    child = _model({"aic": "aic"}, conventions_of={"aic": {"codec": "udp", "padding": 1.1}})
    with pytest.raises(ConfigError, match=message):
        warm_start(child, parent)
    start = StartFolder.at(save_model(parent, tmp_path / "parent"))
    job = {
        "name": "x",
        "run_folder": "x",
        "datasets": [{"name": "aic", "root": "aic", "train": "train"}],
        "model": TINY | {"conventions_of": {"aic": {"codec": "udp", "padding": 1.1}}},
        "training": {"steps": 1, "global_batch": 1},
    }
    config = parse_config(job, JobConfig, origin="job")
    definitions = {"aic": load_dataset("aic")}
    with pytest.raises(ConfigError, match=message):
        refuse_other_conventions(config.model, definitions, start)
    afresh = start.model_copy(update={"take": WarmStartConfig(points=False)})
    refuse_other_conventions(config.model, definitions, afresh)


def test_released_heads_of_another_preset_keep_theirs() -> None:
    """What a preset says of a set is no statement of the run file: ViTPose++ starting from a head that learned UDP."""
    parent = _model({"aic": "aic"})
    child = _model({"aic": "aic"}, conventions=parent.config.conventions)
    assert not child.config.states("aic")
    warm_start(child, parent)
    assert child.conventions["aic"].codec == "udp"


def test_a_card_written_before_is_read_as_it_was_trained() -> None:
    """Cards of heads under ViTPose++'s conventions, whose architecture says nothing of them."""
    model = build_model(
        ModelConfig.model_validate(TINY),
        {"aic": load_dataset("aic").skeleton},
        {"aic": Conventions(codec="msra", flip_shift=True)},
    )
    value = model.card.model_dump(mode="json")
    for name in ("conventions", "conventions_of"):
        del value["architecture"][name]
    card = ModelCard.model_validate(value)
    assert card.conventions["aic"].reading == {"codec": "msra", "flip_shift": True, "padding": 1.25}
    assert PoseModel(card).codec("aic").crop == "msra"

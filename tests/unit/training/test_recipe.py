"""Which recipe a run follows, what it gives, and what a run says where it does not follow."""

import math
from typing import Any

import pytest

from pipelines.multidataset_train import JobConfig
from posecore.config import parse_config
from posecore.datasets.discovery import load_dataset
from posecore.errors import ConfigError
from posecore.models.architecture import ModelConfig
from posecore.models.presets import PRESETS, preset_of
from posecore.training.recipe import Followed, Pupil, RecipeConfig, choose, recipe_facts
from posecore.training.recipes import RECIPES


def _job(backbone: Any, datasets: tuple[str, ...] = ("coco",), **fields: Any) -> JobConfig:
    values = {
        "name": "x",
        "run_folder": "x",
        "datasets": [{"name": name, "root": name, "train": "train"} for name in datasets],
        "model": {"backbone": backbone},
        "training": {"steps": 100_000, "global_batch": 512},
    }
    training = values["training"] | fields.pop("training", {})
    return parse_config(values | {"training": training} | fields, JobConfig, origin="job")


def _followed(config: JobConfig) -> Followed[JobConfig]:
    return config.followed({entry.name: load_dataset(entry.name) for entry in config.datasets})


def test_what_a_run_leaves_out_is_the_recipes() -> None:
    followed = _followed(_job("sapiens-1b"))
    assert followed.recipe is RECIPES["sapiens-1b-17"]
    assert followed.deviations == ()
    training = followed.config.training
    assert (training.optimizer.lr, training.optimizer.layer_decay, training.optimizer.clip_norm) == (5e-4, 0.85, 1.0)
    assert followed.config.loading.augment.rotation_degrees == 80.0
    assert followed.config.loading.augment.appearance is not None


def test_what_a_run_states_stands_and_is_listed() -> None:
    config = _job(
        "rtmpose-m",
        training={
            "global_batch": 1024,
            "optimizer": {"lr": 2e-3},
            "schedule": {"kind": "cosine", "floor": 0.1},
            "engine": {"kind": "deepspeed", "zero_stage": 1},
        },
        loading={"augment": {"appearance": {"hole_probability": 0.0}}},
    )
    followed = _followed(config)
    training = followed.config.training
    assert [str(deviation) for deviation in followed.deviations] == [
        "training.optimizer.lr: 0.002, published 0.004",
        "training.schedule.floor: 0.1, published 0.05",
        "loading.augment.appearance.hole_probability: 0, published 1",
    ]
    assert training.schedule.begin == 0.5
    assert training.optimizer.undecayed == "norms_and_biases"
    assert (training.engine.kind, training.engine.precision) == ("deepspeed", "fp32")
    assert training.average is not None
    assert training.synchronised_batchnorm
    assert followed.config.loading.late.from_pass == 390


def test_another_kind_is_one_deviation_and_nothing_is_mixed_into_it() -> None:
    followed = _followed(_job("vitpose-base", training={"schedule": {"kind": "cosine", "warmup_steps": 7}}))
    assert [str(deviation) for deviation in followed.deviations] == [
        "training.schedule.kind: cosine, published multistep"
    ]
    assert followed.config.training.schedule.warmup_start == 0.001  # cosine's own


def test_a_resolved_run_is_complete_and_stays_what_it_is() -> None:
    once = _followed(_job("sapiens2-1b", ("goliath",), training={"global_batch": 56})).config
    again = parse_config(once.model_dump(mode="json"), JobConfig, origin="resolved")
    assert again.fingerprint() == once.fingerprint() == _followed(again).config.fingerprint()


@pytest.mark.parametrize(
    ("backbone", "datasets", "method", "expected"),
    [
        ("vitpose-large", ("coco",), None, "vitpose-large"),
        ("vitpose-large", ("coco", "mpii"), "experts", "vitpose-plus-large"),
        ("vitpose-plus-base", ("coco", "aic"), None, "vitpose-plus-base"),
        ("vitpose-plus-base", ("coco", "aic"), "prototypes", "posebh-base"),
        ("rtmpose-t", ("ap10k",), None, "rtmpose-t-body"),
        ("rtmpose-l", ("coco", "coco_wholebody"), None, "rtmpose-l-wholebody"),
        ("sapiens-0.3b", ("aic",), None, "sapiens-0.3b-17"),
        ("sapiens-0.3b", ("halpe",), None, "sapiens-0.3b-133"),
        ("sapiens-0.3b", ("goliath",), None, "sapiens-0.3b-308"),
        ("sapiens2-0.4b", ("coco",), None, "sapiens2-0.4b-308"),
        ("vit-tiny", ("coco",), None, None),
        ("sapiens2-0.1b", ("coco",), None, None),
        ({"kind": "vit", "embed_dim": 96, "depth": 2, "num_heads": 2}, ("coco",), None, None),
        (
            {"preset": "vitpose-base", "drop_path": 0.0, "activation_checkpointing": True},
            ("coco",),
            None,
            "vitpose-base",
        ),
    ],
)
def test_the_recipe_of_a_run_that_names_none(
    backbone: Any, datasets: tuple[str, ...], method: str | None, expected: str | None
) -> None:
    chosen = {} if method is None else {"method": {"kind": method}}
    if method == "prototypes":
        chosen["weights"] = {"source": "somewhere"}
    followed = _followed(_job(backbone, datasets, **chosen))
    assert (followed.recipe and followed.recipe.name) == expected


def test_a_method_that_is_left_out_is_the_backbones() -> None:
    config = _followed(_job("vitpose-plus-small")).config
    assert (config.method.kind, config.method.head_statistics) == ("experts", "mixed")


def test_a_model_that_is_not_the_preset_deviates() -> None:
    config = _job("vitpose-base").model_copy(
        update={
            "model": ModelConfig.model_validate(
                {"backbone": {"preset": "vitpose-base", "drop_path": 0.1}, "input_size": [384, 288]}
            )
        }
    )
    found = {deviation.field: (deviation.own, deviation.published) for deviation in _followed(config).deviations}
    assert found["model.backbone.drop_path"] == (0.1, 0.3)
    assert found["model.input_size"] == ([384, 288], [256, 192])


def test_the_largest_rtmpose_takes_the_size_it_was_published_at() -> None:
    followed = _followed(_job("rtmpose-x", ("coco_wholebody",), training={"global_batch": 256}))
    assert followed.config.model.input_size == (384, 288)
    assert followed.deviations == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sapiens-1b-17", "sapiens-1b-17 was published for sapiens-1b .*model.backbone is vitpose-base"),
        ("dwpose-m", "dwpose-m was published for rtmpose-m .distill.*take that backbone, or recipe: vitpose-base"),
        ("resnet", "none is called 'resnet'. There are vitpose-small"),
    ],
)
def test_a_recipe_of_another_backbone_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _followed(_job("vitpose-base", recipe=name))


def test_a_backbone_of_no_recipe_is_told_so() -> None:
    with pytest.raises(
        ConfigError, match=r"model.backbone is of no preset \(train\); take that backbone, or recipe: none"
    ):
        _followed(_job({"kind": "vit", "embed_dim": 96, "depth": 2, "num_heads": 2}, recipe="vitpose-base"))


def test_none_is_an_answer() -> None:
    config = _job("sapiens-1b", recipe="none")
    followed = _followed(config)
    assert followed.config == config
    assert [*followed.lines()] == ["recipe    none"]
    assert followed.record() == {"name": "none"}


def test_a_rate_is_scaled_only_if_asked_and_says_so() -> None:
    plain = _followed(_job("vitpose-base", training={"global_batch": 64}))
    assert plain.config.training.optimizer.lr == 5e-4
    assert plain.remarks[0].startswith("warning: a rate of 0.0005 for 64 crops a step is 8 times the published 0.0005")
    scaled = _followed(_job("vitpose-base", training={"global_batch": 64}, recipe={"auto_scale_lr": True}))
    assert scaled.config.training.optimizer.lr == 5e-4 * 64 / 512
    assert scaled.remarks == ("auto_scale_lr: 0.0005 belongs to 512 crops a step; for 64 it is 6.25e-05.",)
    assert {deviation.field for deviation in scaled.deviations} == {"training.optimizer.lr", "training.global_batch"}
    assert scaled.record()["remarks"] == list(scaled.remarks)


@pytest.mark.parametrize(("batch", "rate", "is_odd"), [(256, 5e-4, False), (255, 5e-4, True), (1024, 5e-4, False)])
def test_a_warning_begins_beyond_a_factor_of_two(batch: int, rate: float, is_odd: bool) -> None:
    training = {"global_batch": batch, "optimizer": {"lr": rate}}
    remarks = _followed(_job("vitpose-base", training=training)).remarks
    assert any(remark.startswith("warning") for remark in remarks) == is_odd


def test_a_rate_without_a_recipe_cannot_be_scaled() -> None:
    with pytest.raises(ConfigError, match="no batch is known that the rate belongs to"):
        _followed(_job("vit-tiny", recipe={"auto_scale_lr": True}))


def test_augmentation_of_one_set_deviates() -> None:
    config = _job("vitpose-base", ("coco", "mpii"))
    entry = config.datasets[1].model_copy(update={"augment": config.loading.augment})
    followed = _followed(config.model_copy(update={"datasets": (config.datasets[0], entry)}))
    assert "datasets.mpii.augment" in {deviation.field for deviation in followed.deviations}


def test_every_recipe_is_of_a_preset_and_fits_a_run_file() -> None:
    for recipe in RECIPES.values():
        assert recipe.preset in PRESETS, recipe.name
        if recipe.job == "train":
            datasets = {17: ("coco",), 133: ("coco_wholebody",), 308: ("goliath",)}[recipe.keypoints]
            chosen = {"weights": {"source": "somewhere"}} if recipe.method == "prototypes" else {}
            config = _job(
                recipe.preset, datasets, recipe=recipe.name, training={"global_batch": recipe.batch}, **chosen
            )
            followed = _followed(config)
            assert followed.recipe is recipe
            assert followed.deviations == (), recipe.name
            assert math.isclose(followed.config.training.optimizer.lr, recipe.training["optimizer"]["lr"])


def test_presets_are_told_apart() -> None:
    assert {name: preset_of(preset["backbone"]) for name, preset in PRESETS.items()} == {name: name for name in PRESETS}


def test_a_default_is_chosen_by_the_most_points_of_any_head() -> None:
    model = ModelConfig.model_validate({"backbone": "rtmpose-s"})
    recipe = choose(RecipeConfig(), Pupil(model=model, keypoints={"hands": 21, "face": 98}), RECIPES)
    assert recipe is RECIPES["rtmpose-s-wholebody"]


def test_a_report_says_what_was_followed_and_where_it_was_not() -> None:
    followed = _followed(_job("sapiens2-0.4b", ("goliath",), training={"global_batch": 24}))
    facts = recipe_facts({"recipe": followed.record()})
    assert facts["recipe"].startswith("sapiens2-0.4b-308 (facebookresearch/sapiens2 @ 3098c14")
    assert facts["deviations from it"] == "training.global_batch: 24, published 48"
    assert "PhotometricDistortion" in facts["remarks"]
    assert recipe_facts({"recipe": {"name": "none"}}) == {"recipe": "none"}
    assert recipe_facts({}) == {}

from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from posecore.errors import ConfigError
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.position import resize_position_embedding
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig, SimpleHeadConfig
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.warm_start import WarmStartConfig, warm_start
from posecore.skeletons.skeleton import Keypoint, Skeleton

INPUT_SIZE = (64, 48)
BODY = ("nose", "left_eye", "right_eye", "neck", "tail")
INFANTS = ("right_eye", "nose", "navel", "neck")
DOGS = ("tail", "paw", "neck")


def _model(skeletons: dict[str, tuple[str, ...]], seed: int, expert_share: float = 0.0, **fields: Any) -> PoseModel:
    backbone = VitConfig(embed_dim=32, depth=2, num_heads=2, expert_share=expert_share)
    given = {"backbone": backbone, "head": ClassicHeadConfig(channels=8), "input_size": INPUT_SIZE} | fields
    described = {
        name: Skeleton(name=name, keypoints=tuple(Keypoint(name=f"{name}_{point}", union=point) for point in points))
        for name, points in skeletons.items()
    }
    model = build_model(ModelConfig(**given), described, licenses=dict.fromkeys(skeletons, f"terms-{seed}"))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=random) * 0.3
                tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise)
    return model.eval()


def _images(size: tuple[int, int] = INPUT_SIZE) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(9))


def _line(result: Any, what: str) -> str:
    return str(result.as_dict()[what])


def test_known_points_of_a_new_skeleton_are_predicted_as_by_the_parent() -> None:
    parent, model = _model({"dogs": DOGS, "body": BODY}, 0), _model({"infants": INFANTS}, 1)
    fresh = model.heads["infants"].final_layer.weight[2].clone()
    result = warm_start(model, parent)
    ours, theirs = model.predict(_images(), "infants"), parent.predict(_images(), "body")
    for point in ("right_eye", "nose", "neck"):
        torch.testing.assert_close(ours[:, INFANTS.index(point)], theirs[:, BODY.index(point)])
    assert torch.equal(model.heads["infants"].final_layer.weight[2], fresh)
    assert _line(result, "head infants") == "3 of 4 points from head body"
    assert result.rows[-1].fresh == ("navel",)


def test_a_head_of_the_same_name_comes_before_one_with_more_points() -> None:
    parent = _model({"body": BODY, "infants": ("navel", "nose")}, 0)
    result = warm_start(_model({"infants": INFANTS}, 1), parent)
    assert _line(result, "head infants") == "2 of 4 points from head infants"


def test_experts_of_a_dense_parent_start_equal_and_compute_what_it_does() -> None:
    parent = _model({"body": BODY}, 0)
    model = _model({"body": BODY, "dogs": DOGS, "hands": ("thumb",)}, 1, expert_share=0.25)
    result = warm_start(model, parent)
    expected = parent.features(_images(), [("body", 0, 2)])
    for task in ("body", "dogs", "hands"):
        torch.testing.assert_close(model.features(_images(), [(task, 0, 2)]), expected)
        assert _line(result, f"expert {task}") == "16 of 16 rows from dense layers"
    assert _line(result, "head hands") == "0 of 1 point"


def test_an_expert_comes_from_the_same_name_else_from_the_nearest_skeleton() -> None:
    parent = _model({"dogs": DOGS, "body": BODY}, 0, expert_share=0.25)
    model = _model({"infants": INFANTS, "dogs": ("nose", "neck", "left_eye")}, 1, expert_share=0.25)
    result = warm_start(model, parent)
    for task, origin in (("infants", "body"), ("dogs", "dogs")):
        assert _line(result, f"expert {task}") == f"16 of 16 rows from expert {origin}"
        ours, theirs = model.features(_images(), [(task, 0, 2)]), parent.features(_images(), [(origin, 0, 2)])
        torch.testing.assert_close(ours, theirs)


def test_positions_are_resampled_to_another_input_size() -> None:
    parent, model = _model({"body": BODY}, 0), _model({"body": BODY}, 1, input_size=(96, 64))
    result = warm_start(model, parent)
    expected = resize_position_embedding(parent.backbone.pos_embed, (6, 4), (4, 3))
    assert torch.equal(model.backbone.pos_embed, expected)
    assert _line(result, "positions") == "24 of 24 tokens from backbone, resampled from 4×3"
    assert model.predict(_images((96, 64)), "body").shape == (2, 5, 24, 16)


def test_knowledge_tokens_come_with_a_parent_that_has_them_and_stay_with_one_that_has_none() -> None:
    told = VitConfig(embed_dim=32, depth=2, num_heads=2, knowledge_tokens=2, knowledge_width=8)
    parent, model = _model({"body": BODY}, 0, backbone=told), _model({"infants": INFANTS}, 1, backbone=told)
    warm_start(model, parent)
    assert torch.equal(model.backbone(_images()), parent.backbone(_images()))

    plain, model = _model({"body": BODY}, 0), _model({"infants": INFANTS}, 1, backbone=told)
    own = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items() if "knowledge" in name}
    assert _line(warm_start(model, plain), "knowledge tokens") == "0 of 2 tokens"
    copied = model.backbone.state_dict()
    assert len(own) == 3
    assert all(torch.equal(copied[name], tensor) for name, tensor in own.items())
    assert all(torch.equal(copied[name], tensor) for name, tensor in plain.backbone.state_dict().items())

    with pytest.raises(
        ConfigError, match=r"parent's backbone has knowledge_tokens 2, .* the model's knowledge_tokens 0"
    ):
        warm_start(_model({"infants": INFANTS}, 1), parent)


def test_prototypes_are_taken_from_whichever_dataset_has_the_point() -> None:
    embedding = EmbeddingConfig(dim=4, channels=8, prototypes_per_point=2)
    parent = _model({"body": BODY, "dogs": DOGS}, 0, embedding=embedding)
    model = _model({"infants": (*INFANTS, "paw")}, 1, embedding=embedding)
    result = warm_start(model, parent)
    ours = model.prototypes.get_buffer("infants")
    assert torch.equal(ours[0], parent.prototypes.get_buffer("body")[2])
    assert torch.equal(ours[4], parent.prototypes.get_buffer("dogs")[1])
    assert _line(result, "prototypes infants") == "4 of 5 points from body (3), dogs (1)"
    features = model.features(_images(), [("infants", 0, 2)])
    torch.testing.assert_close(
        model.prototype_heatmaps(features, "infants")[:, 4], parent.prototype_heatmaps(features, "dogs")[:, 1]
    )


def test_each_part_of_a_new_dataset_can_be_left_out() -> None:
    embedding = EmbeddingConfig(dim=4, channels=8, prototypes_per_point=2)
    described = {"expert_share": 0.25, "embedding": embedding}
    parent = _model({"body": BODY}, 0, **described)
    fresh = _model({"body": BODY, "infants": INFANTS}, 1, **described).state_dict()
    full = _model({"body": BODY, "infants": INFANTS}, 1, **described)
    warm_start(full, parent)
    parts = {"experts": ".experts.infants", "points": "heads.infants", "prototypes": "prototypes.infants"}
    for part, name_of_part in parts.items():
        model = _model({"body": BODY, "infants": INFANTS}, 1, **described)
        warm_start(model, parent, WarmStartConfig.model_validate({part: False}))
        for name, tensor in model.state_dict().items():
            expected = fresh if name_of_part in name else full.state_dict()
            assert torch.equal(tensor, expected[name]), (part, name)


def test_a_head_of_another_kind_keeps_its_initial_values() -> None:
    parent, model = _model({"body": BODY}, 0), _model({"body": BODY}, 1, head=SimpleHeadConfig())
    before = model.heads["body"].final_layer.weight.clone()
    assert _line(warm_start(model, parent), "head body") == "0 of 5 points"
    assert torch.equal(model.heads["body"].final_layer.weight, before)


def test_a_parent_of_other_widths_is_refused_with_the_preset_that_fits() -> None:
    skeletons = _model({"body": BODY}, 0).skeletons
    parent = build_model(ModelConfig.model_validate({"backbone": "vit-micro"}), skeletons)
    model = build_model(ModelConfig.model_validate({"backbone": "vit-nano"}), skeletons)
    with pytest.raises(ConfigError) as refusal:
        warm_start(model, parent)
    assert str(refusal.value) == (
        "the parent's backbone has embed_dim 128, depth 4, num_heads 4, the model's embed_dim 64, depth 2, "
        "num_heads 2; use backbone: vit-micro."
    )
    with pytest.raises(ConfigError, match=r"experts are 0\.25 of every feed-forward output, the model's 0; "):
        warm_start(_model({"body": BODY}, 1), _model({"body": BODY}, 0, expert_share=0.25))


def test_licences_follow_the_weights_and_the_table_prints() -> None:
    parent, model = _model({"body": BODY}, 0), _model({"infants": INFANTS}, 1)
    result = warm_start(model, parent)
    assert model.card.licenses == {"body": "terms-0", "infants": "terms-1"}
    console = Console(width=100)
    with console.capture() as captured:
        console.print(result.table())
    text = captured.get()
    assert "head infants" in text
    assert "navel" in text
    assert text.count("│") >= 4 * len(result.rows)

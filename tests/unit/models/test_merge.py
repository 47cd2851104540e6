import pytest
import torch

from posecore.errors import ConfigError
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.heads.classic import ClassicHeadConfig
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.merge import merge_experts
from posecore.models.pose_model import PoseModel, build_model
from tests.support.tiny_training import INPUT_SIZE, tiny_model


def _model(expert_share: float = 0.25, tokens: int = 0) -> PoseModel:
    skeletons = tiny_model().skeletons
    config = ModelConfig(
        backbone=VitConfig(embed_dim=32, depth=2, num_heads=2, expert_share=expert_share, knowledge_tokens=tokens),
        head=ClassicHeadConfig(channels=8),
        input_size=INPUT_SIZE,
        shared_heads={"puppies": "dogs"},
        embedding=EmbeddingConfig(),
    )
    model = build_model(config, {**skeletons, "puppies": skeletons["dogs"]})
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())) * 0.3)
    return model.eval()


@pytest.mark.parametrize(("task", "tokens"), [("people", 0), ("dogs", 2), ("puppies", 0)])
def test_a_merged_expert_computes_what_the_routed_one_does(task: str, tokens: int) -> None:
    model = _model(tokens=tokens)
    with torch.no_grad():  # experts that differ
        for index, name in enumerate(("people", "dogs")):
            for block in model.backbone.blocks:
                block.mlp.experts[name].weight.normal_(generator=torch.Generator().manual_seed(index))
    dense = merge_experts(model, task)
    images = torch.randn(3, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(0))
    for path in ("regression", "prototypes"):
        torch.testing.assert_close(
            dense.predict(images, task, path), model.predict(images, task, path), atol=1e-6, rtol=0
        )
    assert not dense.training
    other = {"people": "dogs"}.get(task, "people")
    features = [model.features(images, [(name, 0, 3)]) for name in (task, other)]
    assert not torch.allclose(*features, atol=1e-2), "the test must be able to tell experts apart"


def test_the_result_is_dense_and_keeps_the_tasks_heads_only() -> None:
    model = _model()
    dense = merge_experts(model, "puppies")
    assert set(dense.skeletons) == set(dense.conventions) == {"dogs", "puppies"}
    assert set(dense.heads) == {"dogs"}
    assert dense.head("puppies") is dense.head("dogs")
    assert dense.config.backbone == model.config.backbone.model_copy(update={"expert_share": 0.0})
    assert not any("expert" in name or "people" in name for name in dense.state_dict())
    assert dense.card.licenses == model.card.licenses
    assert list(PoseModel(dense.card).state_dict()) == list(dense.state_dict()), "a card that builds the same model"
    owned = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not owned & {tensor.data_ptr() for tensor in dense.state_dict().values()}


def test_what_cannot_be_merged_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no experts to merge"):
        merge_experts(_model(expert_share=0.0), "dogs")
    with pytest.raises(ConfigError, match="no expert for 'cats'; it knows people, dogs, puppies"):
        merge_experts(_model(), "cats")

import numpy as np
import pytest
import torch

from posecore.config import parse_config
from posecore.errors import ConfigError
from posecore.models.architecture import ModelConfig
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.pose_model import PoseModel, build_model
from posecore.models.prototypes import Prototypes, prototype_heatmaps, similarity
from tests.support.tiny_training import INPUT_SIZE, tiny_model


def _model(**changes: object) -> PoseModel:
    card = tiny_model().card
    config = card.architecture.model_copy(update={"embedding": EmbeddingConfig(dim=8, channels=8), **changes})
    torch.manual_seed(0)
    return build_model(config, card.skeletons).eval()


def _images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("width", "parameters"), [(768, 4_437_760), (1280, 6_534_912)])
def test_published_sizes(width: int, parameters: int) -> None:
    with torch.device("meta"):
        head = EmbeddingConfig().build(width)
        prototypes = Prototypes({"all": 214}, per_point=3, dim=64)
        assert head(torch.empty(2, width, 16, 12)).shape == (2, 64, 64, 48)
    assert sum(parameter.numel() for parameter in head.parameters()) == parameters
    assert prototypes("all").numel() == 41_088


def test_similarity_is_the_absolute_cosine_of_every_pair() -> None:
    generator = np.random.default_rng(0)
    embeddings, prototypes = generator.normal(size=(4, 5, 2, 3)), generator.normal(size=(6, 3, 5))
    prototypes /= np.linalg.norm(prototypes, axis=-1, keepdims=True)
    found = similarity(torch.tensor(embeddings), torch.tensor(prototypes)).numpy()
    heatmaps = prototype_heatmaps(torch.tensor(embeddings), torch.tensor(prototypes)).numpy()
    for n, k, row, column in np.ndindex(4, 6, 2, 3):
        pixel = embeddings[n, :, row, column]
        expected = [abs(pixel @ prototypes[k, m]) / np.linalg.norm(pixel) for m in range(3)]
        np.testing.assert_allclose(found[n, k, :, row, column], expected, atol=1e-6)
        assert heatmaps[n, k, row, column] == pytest.approx(np.clip(max(expected), 1e-4, 1 - 1e-4), abs=1e-6)


def test_similarity_is_exact_under_autocast() -> None:
    vectors, prototypes = torch.randn(9, 64), torch.nn.functional.normalize(torch.randn(5, 3, 64), dim=-1)
    expected = similarity(vectors, prototypes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(similarity(vectors, prototypes), expected)


def test_prototypes_are_unit_vectors_that_no_optimiser_sees() -> None:
    model = _model()
    state = model.state_dict()
    assert state["prototypes.people"].shape == (5, 3, 8)
    assert state["prototypes.dogs"].shape == (7, 3, 8)
    torch.testing.assert_close(state["prototypes.dogs"].norm(dim=-1), torch.ones(7, 3))
    assert not [name for name, _ in model.named_parameters() if name.startswith("prototypes")]
    with torch.no_grad():
        model.prototypes.people.mul_(3.0)
    torch.testing.assert_close(model.prototypes("people").norm(dim=-1), torch.ones(5, 3))


@pytest.mark.parametrize("dataset", ["people", "dogs"])
def test_any_skeleton_can_be_asked_of_any_image(dataset: str) -> None:
    model = _model()
    images = _images(2)
    regression, prototypes, average = (
        model.predict(images, dataset, path) for path in ("regression", "prototypes", "average")
    )
    count = model.skeletons[dataset].num_keypoints
    assert regression.shape == prototypes.shape == (2, count, *model.config.heatmap_size)
    torch.testing.assert_close(average, (regression + prototypes) / 2)
    assert 0 < prototypes.min() < prototypes.max() < 1
    expected = prototype_heatmaps(model.embedding_head(model.features(images, [])), model.prototypes(dataset))
    torch.testing.assert_close(prototypes, expected)


def test_a_shared_head_shares_its_prototypes() -> None:
    card = tiny_model().card
    config = card.architecture.model_copy(
        update={"embedding": EmbeddingConfig(dim=8, channels=8), "shared_heads": {"staff": "people"}}
    )
    model = build_model(config, {**card.skeletons, "staff": card.skeletons["people"]}).eval()
    assert "prototypes.staff" not in model.state_dict()
    images = _images(1)
    assert torch.equal(model.predict(images, "staff", "prototypes"), model.predict(images, "people", "prototypes"))


def test_a_model_without_prototypes_says_so() -> None:
    model = tiny_model().eval()
    assert not [name for name in model.state_dict() if "embedding" in name or "prototypes" in name]
    with pytest.raises(ConfigError, match="the model has no prototypes"):
        model.predict(_images(1), "people", "prototypes")


def test_an_embedding_has_a_line_of_its_own_in_the_configuration() -> None:
    config = parse_config({"backbone": "vitpose-small", "embedding": {"dim": 32}}, ModelConfig, "test")
    assert config.embedding == EmbeddingConfig(dim=32)


def test_prototypes_of_a_dataset_that_the_model_does_not_know_are_refused() -> None:
    model = _model()
    with pytest.raises(ConfigError, match="knows no dataset 'cats'"):
        model.prototype_heatmaps(model.features(_images(1), [("dogs", 0, 1)]), "cats")

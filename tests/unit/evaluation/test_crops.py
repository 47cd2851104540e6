import numpy as np
import torch

from posecore.evaluation.crops import predict_crops, predict_heads
from posecore.methods.batch import normalise
from posecore.models.heads.embedding import EmbeddingConfig
from posecore.models.pose_model import PoseModel, build_model
from tests.support.tiny_training import INPUT_SIZE, tiny_model

CENTER, SCALE = np.full((2, 2), 50.0, np.float32), np.full((2, 2), 64.0, np.float32)


def _model() -> PoseModel:
    card = tiny_model().card
    config = card.architecture.model_copy(update={"embedding": EmbeddingConfig(dim=8, channels=8)})
    torch.manual_seed(0)
    return build_model(config, card.skeletons).eval()


def test_predictions_can_come_from_prototypes_alone() -> None:
    model = _model()
    images = np.random.default_rng(0).integers(0, 256, (2, *INPUT_SIZE, 3), np.uint8)
    _, regression, _ = predict_crops(model, "dogs", images, CENTER, SCALE, flip_test=False)
    points, scores, _ = predict_crops(model, "dogs", images, CENTER, SCALE, flip_test=False, path="prototypes")
    with torch.no_grad():
        features = model.features(normalise(torch.from_numpy(images)), [("dogs", 0, 2)])
        maxima = model.prototype_heatmaps(features, "dogs").amax(dim=(2, 3))
    np.testing.assert_allclose(scores, maxima, atol=1e-6)
    assert not np.allclose(scores, regression)
    both = predict_heads(model, ["people", "dogs"], images, CENTER, SCALE, flip_test=False, path="prototypes")
    np.testing.assert_allclose(both["dogs"][0], points, atol=1e-4)


@torch.no_grad()
def test_a_flip_test_averages_two_outputs() -> None:
    """Places hardly depend on the scale of the maps: scores show that it is a mean and no sum."""
    model = _model()
    images = np.random.default_rng(1).integers(0, 256, (2, *INPUT_SIZE, 3), np.uint8)
    _, scores, _ = predict_crops(model, "dogs", images, CENTER, SCALE, flip_test=True)
    batch, codec = normalise(torch.from_numpy(images)), model.codec("dogs")
    partners = torch.from_numpy(model.skeletons["dogs"].flip_indices)
    shift = model.conventions["dogs"].flip_shift
    mirrored = codec.flip_back(model.predict(batch.flip(-1), "dogs"), partners, shift)
    _, expected = codec.decode((model.predict(batch, "dogs") + mirrored) / 2)
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-5)

"""The prior as a loss: expected points, its gradient, what it does to infants, and its place in a method."""

from pathlib import Path

import numpy as np
import pytest
import torch

from posecore.codecs.heatmap import HeatmapCodec
from posecore.codecs.simcc import SimccCodec
from posecore.errors import ConfigError
from posecore.geometry import crop_matrix, invert_affine
from posecore.labels.plausibility import BodyScorer, learn_from_labels
from posecore.methods.batch import to_device
from posecore.methods.expectation import expected_points, extent
from posecore.methods.heads import HeadsConfig
from posecore.methods.pose_prior import PosePriorConfig, ProportionEnergy, gradient_ratio
from posecore.methods.prototypes import PrototypesConfig
from posecore.methods.sharing import pinned
from posecore.methods.supervised import SupervisedConfig, SupervisedHeads
from posecore.models.architecture import ModelConfig
from posecore.models.pose_model import build_model
from posecore.schema import CropBatch, CropGroup, KeypointState
from posecore.skeletons.library import load_skeleton
from tests.support.synthetic_bodies import diagonals, synthetic_bodies

COCO = load_skeleton("coco17")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def infants():
    return learn_from_labels(*synthetic_bodies("infant", 100), COCO, dataset="infants")


@pytest.fixture(scope="module")
def adults():
    return learn_from_labels(*synthetic_bodies("adult", 100), COCO, dataset="adults")


@pytest.fixture(scope="module")
def source(infants, tmp_path_factory):
    return str(infants.save(tmp_path_factory.mktemp("prior") / "infants.json"))


def others():
    keypoints, labelled = synthetic_bodies("infant", 60, seed=1)
    return torch.from_numpy(keypoints.copy()).float(), torch.from_numpy(labelled.copy()).float()


@pytest.mark.parametrize(
    ("codec", "tolerance_px"),
    [
        (HeatmapCodec(input_size=(128, 96), heatmap_size=(32, 24)), 0.2),
        (HeatmapCodec(kind="msra", input_size=(128, 96), heatmap_size=(32, 24)), 2.3),  # its targets are rounded
        (SimccCodec(input_size=(128, 96)), 0.5),  # so are these, to half a pixel
    ],
)
def test_expected_points_are_where_targets_were_drawn(codec, tolerance_px):
    points = torch.from_numpy(np.random.default_rng(0).uniform(24, 72, (5, 4, 2))).float()
    targets, _ = codec.encode(points, torch.ones(5, 4))
    found, confidence = expected_points(codec, targets, torch.tensor([[96.0, 128.0]]).expand(5, 2))
    inner = [s - (codec.crop == "udp") for s in codec.input_size[::-1]]
    crop = found * torch.tensor(inner) / torch.tensor([96.0, 128.0])
    assert (crop - points).abs().max() < tolerance_px
    assert confidence.min() > 0.7


def test_an_energy_computes_in_the_precision_of_its_points(infants):
    """The population's statistics are float64: half as fast on many a GPU, and refused on some."""
    points, confidence = others()
    assert points.dtype == torch.float32
    assert ProportionEnergy(infants, COCO)(points, confidence).dtype == torch.float32


@pytest.mark.parametrize("convention", ["udp", "msra"])
def test_expected_points_keep_the_shape_a_body_has_in_the_image(convention):
    """Also where the crop is stretched and turned: distances are those of image pixels."""
    codec = HeatmapCodec(kind=convention, input_size=(128, 96), heatmap_size=(32, 24))
    scale = np.array([[200.0, 200.0]]) if convention == "udp" else np.array([[150.0, 200.0]])
    matrix = crop_matrix(np.array([[300.0, 200.0]]), scale, np.array([25.0]), (128, 96), convention)
    crop = np.array([[[40.0, 44.0], [52.0, 84.0], [68.0, 60.0]]])
    back = invert_affine(matrix)
    image = crop @ back[:, :, :2].transpose(0, 2, 1) + back[:, None, :, 2]
    targets, _ = codec.encode(torch.from_numpy(crop).float(), torch.ones(1, 3))
    found, _ = expected_points(codec, targets, torch.from_numpy(scale).float())

    def distances(points):
        return [np.hypot(*(points[0, i] - points[0, j])) for i, j in ((0, 1), (1, 2), (0, 2))]

    np.testing.assert_allclose(distances(found.numpy()), distances(image), rtol=0.02 if convention == "udp" else 0.05)


def test_a_body_has_the_energy_that_the_scorer_gives_it(infants):
    points, known = others()
    energy = ProportionEnergy(infants, COCO)(points, known)
    penalties = BodyScorer(infants, COCO).penalties(points.numpy().astype(np.float64), known.numpy() > 0)
    expected = np.nanmean(np.concatenate([penalties.bones, penalties.angles], axis=1), axis=1)
    np.testing.assert_allclose(energy, expected, rtol=1e-4)


def test_the_gradient_is_that_of_the_energy_with_the_scale_held(infants):
    """Against differences, along moves that leave the median bone as it is."""
    points, known = (array[:1].double() for array in others())
    prior = ProportionEnergy(infants, COCO)
    prior._tensors = {n: t.double() if t.is_floating_point() else t for n, t in prior._tensors.items()}
    points.requires_grad_()
    prior(points, known).sum().backward()
    lengths = BodyScorer(infants, COCO).penalties(points.detach().numpy(), known.numpy() > 0).residuals[0]
    middle = BodyScorer(infants, COCO).features.bones[np.argsort(np.abs(lengths))[:2]].ravel()
    compared = 0
    for point in (p for p in range(17) if p not in middle and known[0, p]):
        for axis in range(2):
            step = torch.zeros_like(points)
            step[0, point, axis] = 1e-5
            with torch.no_grad():
                slope = (prior(points + step, known) - prior(points - step, known)).sum() / 2e-5
            assert points.grad[0, point, axis].item() == pytest.approx(slope.item(), rel=1e-3, abs=1e-6)
            compared += 1
    assert compared > 15


def test_degenerate_bodies_have_finite_energies_and_gradients(infants):
    points = torch.zeros(3, 17, 2)
    points[1, 5:] = torch.rand(12, 2, generator=torch.Generator().manual_seed(0))
    points[2, 3] = 7.0
    points.requires_grad_()
    energy = ProportionEnergy(infants, COCO)(points, torch.ones(3, 17))
    energy.sum().backward()
    assert torch.isfinite(energy).all()
    assert torch.isfinite(points.grad).all()
    assert energy[0] == 0
    unsure = ProportionEnergy(infants, COCO)(points, torch.full((3, 17), 0.05))
    assert unsure.tolist() == [0.0, 0.0, 0.0]


def test_adults_proportions_as_a_loss_drag_infants_away_from_the_truth(infants, adults):
    """Predictions begin at the truth, near it, or far off, and follow the prior alone: whatever it does is its own."""
    truth, known = others()
    size = torch.from_numpy(diagonals(truth.double().numpy(), known.numpy() > 0)).float()[:, None, None]
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))

    def error(points):
        return ((points - truth) / size).norm(dim=-1)[known > 0].mean().item()

    after, before = {}, {}
    for who, statistics in (("infants", infants), ("adults", adults)):
        prior = ProportionEnergy(statistics, COCO)
        for spread in (0.0, 0.02, 0.06):
            points = truth + spread * size * noise
            before[spread] = error(points)
            for _ in range(60):
                points.requires_grad_()
                (gradient,) = torch.autograd.grad(prior(points, known).sum(), points)
                points = (points - 1e-3 * size**2 * gradient).detach()
            after[who, spread] = error(points)
    print(before, after)
    assert after["adults", 0.0] > 1.4 * after["infants", 0.0]
    assert after["adults", 0.02] > 1.5 * before[0.02]
    assert after["adults", 0.02] > 1.3 * after["infants", 0.02]
    assert after["infants", 0.06] < 0.9 * before[0.06], "infants' own proportions help where predictions are bad"
    assert after["infants", 0.06] < after["adults", 0.06]


def people(source, **changes):
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "backbone": {"kind": "vit", "embed_dim": 16, "depth": 1, "num_heads": 2},
            "head": {"kind": "classic", "channels": 8},
            "input_size": (64, 64),
        }
    )
    model = build_model(config, {"people": COCO, "empty": COCO})
    return SupervisedHeads(model, SupervisedConfig(prior=PosePriorConfig(source=source, **changes))).train()


def crops(count=4):
    keypoints, labelled = synthetic_bodies("infant", 60, seed=1)
    points = (keypoints[:count] * 64 / 96).astype(np.float32)
    state = np.where(labelled[:count], KeypointState.VISIBLE, KeypointState.UNLABELLED).astype(np.uint8)

    def group(name, start, stop):
        rows = slice(0, stop - start)
        return CropGroup(
            dataset=name, start=start, stop=stop, keypoints_crop=points[rows], state=state[rows],
            center=np.zeros((stop - start, 2), np.float32), scale=np.full((stop - start, 2), 96, np.float32),
            rotation=np.zeros(stop - start, np.float32), flipped=np.zeros(stop - start, bool),
            rows=np.arange(stop - start), seeds=np.arange(stop - start),
        )  # fmt: skip

    images = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)
    groups = (group("people", 0, count), group("empty", count, count))
    return to_device(CropBatch(images=images, groups=groups, step=0, epoch=0), CPU)


def learned(method, batch, steps=25):
    optimizer = torch.optim.Adam(method.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(value for name, value in method(batch).items() if name.startswith("loss/")).backward()
        optimizer.step()
    return method


def test_a_method_has_a_term_for_every_head_that_is_drawn(source):
    batch = crops()
    method = learned(people(source), batch)
    losses = method(batch)
    assert set(losses) == {"loss/people", "loss/empty", "prior/people", "prior/empty"}
    assert losses["prior/people"] > 0
    assert losses["prior/empty"].item() == 0.0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    assert not any("prior" in name for name in method.state_dict()), "it is read again from where it came from"
    only = people(source, datasets=("people",))
    assert set(only(batch)) == {"loss/people", "loss/empty", "prior/people"}
    with pytest.raises(ConfigError, match=r"prior\.datasets: 'cats' is no dataset of the model: people, empty"):
        people(source, datasets=("cats", "dogs"))


def test_the_default_weight_matters_and_is_proportional(source):
    batch = crops()
    method = learned(people(source), batch)
    ratio = gradient_ratio(method, batch, "people")
    method.prior.weight /= 10
    assert gradient_ratio(method, batch, "people") == pytest.approx(ratio / 10, rel=1e-3)
    assert 0.02 < ratio < 2


def test_every_supervised_method_takes_a_prior_and_pins_its_file(source, tmp_path):
    for kind in (HeadsConfig, PrototypesConfig):
        method = pinned(kind(prior=PosePriorConfig(source=source)))
        assert method.prior.digest is not None
        assert pinned(kind()) == kind()
    copy = tmp_path / "copy.json"
    copy.write_text(Path(source).read_text())
    config = PosePriorConfig(source=str(copy)).pinned()
    config.energy(COCO)
    copy.write_text(Path(source).read_text() + "\n")
    with pytest.raises(ConfigError, match="no longer the file the run began with"):
        config.energy(COCO)
    with pytest.raises(ConfigError, match="is no file of `posecore labels learn`"):
        PosePriorConfig(source=str(tmp_path / "none.json")).pinned()


def test_a_body_without_known_points_has_no_extent():
    assert extent(torch.rand(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)).tolist() == [0.0]

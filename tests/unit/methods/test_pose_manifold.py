"""The learned distance: the tree, the frame, nearest poses against an exhaustive search, and what it learns."""

import numpy as np
import pytest
import torch

from posecore.errors import ConfigError, DatasetError
from posecore.labels.proportions import bones_of
from posecore.methods.pose_manifold import (
    BoneTree,
    ManifoldEnergy,
    ManifoldTraining,
    bone_directions,
    learn_manifold,
    load_manifold,
    nearest_distance,
    save_manifold,
)
from posecore.methods.pose_prior import PosePriorConfig
from posecore.skeletons.library import load_skeleton
from tests.support.synthetic_bodies import synthetic_bodies

COCO = load_skeleton("coco17")
BODY = slice(5, 17)
QUICK = ManifoldTraining(steps=150, batch=128, width=48, depth=2, noisy_poses=1500, lr=3e-3)


def bodies(count=150, seed=0):
    keypoints, labelled = (array[:count].copy() for array in synthetic_bodies("infant", 150 if not seed else 100, seed))
    # Far sides of heads are not labelled; without them more bodies are complete.
    labelled[:, :5] = False
    return keypoints, labelled


def test_bones_of_a_body_whose_torso_is_not_known_are_not_turned():
    tree = BoneTree.of(COCO, bones_of(COCO))
    points = torch.from_numpy(np.random.default_rng(0).uniform(0, 90, (3, 17, 2))).float()
    known = torch.ones(points.shape[:2], dtype=torch.bool)
    known[:, tree.torso[0][0]] = False
    directions = bone_directions(points, known, tree)
    parents = list(tree.parents[1:])
    bones = points[:, 1:] - points[:, parents]
    seen = known[:, 1:] & known[:, parents]
    assert seen.float().mean() > 0.8
    np.testing.assert_allclose(directions[seen], (bones / bones.norm(dim=-1, keepdim=True))[seen], atol=1e-5)
    assert not directions[~seen].any()


@pytest.fixture(scope="module")
def manifold():
    return learn_manifold(*bodies(), COCO, QUICK)


def test_the_tree_spans_what_is_linked():
    tree = BoneTree.of(COCO, bones_of(COCO))
    assert tree.num_bones == 16
    assert sorted(tree.points) == sorted(COCO.union_names)
    assert tree.parents[0] == -1
    assert all(parent < point for point, parent in enumerate(tree.parents))
    links = {frozenset(COCO.union_names[i] for i in bone) for bone in bones_of(COCO)}
    assert all(
        frozenset((tree.points[point], tree.points[parent])) in links
        for point, parent in enumerate(tree.parents)
        if point
    )
    seen = [bone for bones, _ in tree.levels for bone in bones]
    assert sorted(seen) == list(range(16))


def test_directions_are_unit_vectors_in_an_upright_frame():
    tree = BoneTree.of(COCO, bones_of(COCO))
    columns = tree.columns(COCO)
    keypoints, _ = bodies(20)
    points = torch.from_numpy(keypoints[:, columns]).float()
    known = torch.ones(points.shape[:2], dtype=torch.bool)
    directions = bone_directions(points, known, tree)
    length = directions.norm(dim=-1)  # 0 for points that are not labelled, which all lie in the corner
    np.testing.assert_allclose(length[length > 0], 1.0, atol=1e-5)
    assert (length > 0).float().mean() > 0.9
    turn = torch.tensor([[0.28, 0.96], [-0.96, 0.28]])
    np.testing.assert_allclose(bone_directions(points @ turn * 3 + 50, known, tree), directions, atol=1e-4)
    low, high = tree.torso
    upright = torch.zeros_like(points)
    upright[:, list(high), 1] = -5.0
    upright[:, list(high), 0] = torch.tensor([1.0, -1.0])
    upright[:, list(low), 0] = torch.tensor([1.0, -1.0])
    units = bone_directions(upright, known, tree)
    raw = upright[:, 1:] - upright[:, list(tree.parents[1:])]
    length = raw.norm(dim=-1, keepdim=True)
    np.testing.assert_allclose(units, torch.where(length > 0, raw / length.clamp(min=1e-9), 0.0), atol=1e-6)


def test_nearest_poses_are_those_of_an_exhaustive_search():
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand((90, 6), generator=generator) * 6.28
    real = torch.stack([angles.cos(), angles.sin()], dim=-1)
    query, real = real[:20], real[20:]
    between = np.array([[np.hypot(*(q - r).T).mean() for r in real.numpy()] for q in query.numpy()])
    expected = np.sort(between, axis=1)[:, :5].mean(axis=1)
    np.testing.assert_allclose(nearest_distance(query, real), expected, rtol=0.02)


def test_the_distance_grows_with_what_is_wrong(manifold):
    keypoints, labelled = bodies(100, seed=1)
    whole = labelled[:, BODY].all(axis=1)
    points = torch.from_numpy(keypoints[whole]).float()
    energy = ManifoldEnergy(manifold, COCO)
    sure = torch.ones(points.shape[:2])
    noise = torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
    size = (points.amax(dim=1) - points.amin(dim=1)).amax(dim=1)[:, None, None]
    means = [energy(points + spread * size * noise, sure).mean().item() for spread in (0.0, 0.1, 0.3)]
    assert means[0] + 0.1 < means[1] < means[2]
    turned = points @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    np.testing.assert_allclose(energy(turned, sure), energy(points, sure), atol=1e-4)
    gappy = sure.clone()
    gappy[:, 9:11] = 0.0
    assert (energy(points, gappy) - energy(points, sure)).abs().mean() < 0.15, "missing wrists are no oddity"
    assert energy(points, torch.zeros_like(sure)).abs().max() == 0
    points.requires_grad_()
    energy(points, sure).sum().backward()
    assert torch.isfinite(points.grad).all()
    assert points.grad[:, BODY].abs().amax() > 0


def test_equal_labels_give_equal_weights(manifold):
    again = learn_manifold(*bodies(), COCO, QUICK.model_copy(update={"steps": 2}))
    same = learn_manifold(*bodies(), COCO, QUICK.model_copy(update={"steps": 2}))
    for name, value in again.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name


def test_a_manifold_comes_back_from_its_file_and_serves_as_a_prior(manifold, tmp_path):
    path = save_manifold(tmp_path / "infants.safetensors", manifold, dataset="infants", digest="1" * 64, num_bodies=150)
    loaded = load_manifold(path)
    directions = torch.rand((3, manifold.tree.num_bones, 2))
    assert torch.equal(loaded(directions), manifold(directions))
    energy = PosePriorConfig(source=str(path)).pinned().energy(COCO)
    assert energy(torch.rand(2, 17, 2), torch.ones(2, 17)).shape == (2,)
    with pytest.raises(ConfigError, match="learned with the point left_shoulder, which ap10k17 does not have"):
        PosePriorConfig(source=str(path)).energy(load_skeleton("ap10k17"))
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_manifold(tmp_path / "broken.safetensors")


def test_too_few_complete_bodies_are_refused():
    keypoints, labelled = bodies(30)
    labelled[3:, 9] = False
    with pytest.raises(DatasetError, match="and it needs 20; label more"):
        learn_manifold(keypoints[:12], labelled[:12], COCO, QUICK)

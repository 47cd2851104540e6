"""The learned distance: the tree, the frame, nearest poses against an exhaustive search, and what it learns."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from posecore.errors import ConfigError, DatasetError
from posecore.labels.proportions import bones_of
from posecore.methods.pose_manifold import (
    BoneTree,
    ManifoldEnergy,
    ManifoldTraining,
    PoseManifold,
    _noisy_poses,
    _Poses,
    _with_gaps,
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


SMALL = BoneTree(points=("a", "b", "c", "d", "e"), parents=(-1, 0, 1, 0, 2))  # a-b-c-e, and d beside


def test_levels_are_distances_from_the_root():
    assert SMALL.num_bones == 4
    assert SMALL.levels == [([0, 2], [-1, -1]), ([1], [0]), ([3], [1])]
    assert SMALL.torso == ((0,), (1, 2, 3, 4))
    hips = ("left_hip", "left_shoulder", "right_hip", "nose", "right_shoulder")
    assert BoneTree(points=hips, parents=(-1, 0, 0, 1, 2)).torso == ((0, 2), (1, 4))


def test_a_tree_begins_where_most_bones_meet_and_leaves_out_what_hangs_apart():
    links = [(3, 1), (1, 2), (2, 4), (2, 0), (7, 8)]
    tree = BoneTree.of(COCO, links)
    assert tree.points == tuple(COCO.union_names[point] for point in (2, 1, 4, 0, 3))
    assert tree.parents == (-1, 0, 0, 0, 1)
    assert BoneTree.of(COCO, [(5, 4), (4, 3)]).points == tuple(COCO.union_names[point] for point in (4, 5, 3))
    assert BoneTree.of(COCO, [(9, 6)]).points[0] == COCO.union_names[6], "of equals the first"


def test_every_bone_has_a_code_that_sees_its_parents():
    torch.manual_seed(0)
    network = PoseManifold(SMALL, width=8, depth=2)
    with torch.no_grad():
        for bias in (network.inner_bias, network.outer_bias):
            bias.normal_()
    directions = torch.randn(5, 4, 2)
    codes = []
    for bone, parent in enumerate((-1, 0, -1, 1)):
        above = torch.cat([directions[:, bone], codes[parent] if parent >= 0 else torch.zeros(5, 6)], dim=1)
        hidden = torch.relu(above @ network.inner[bone] + network.inner_bias[bone])
        codes.append(hidden @ network.outer[bone] + network.outer_bias[bone])
    # Directions come in the order of bones, and bone 2 comes after bone 1, whose parent is bone 0.
    seen = torch.cat([torch.cat([code, directions[:, bone]], dim=1) for bone, code in enumerate(codes)], dim=1)
    expected = torch.log1p(network.distance(seen)[:, 0].exp())
    torch.testing.assert_close(network(directions), expected)
    linear = [layer for layer in network.distance if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(32, 8), (8, 8), (8, 1)]


def test_codes_begin_as_linear_layers_do():
    tree = BoneTree(points=tuple("abcdefghijklmnop"), parents=tuple(range(-1, 15)))
    network = PoseManifold(tree, width=8, depth=1)
    for weight, inputs in ((network.inner, 8), (network.outer, 6)):
        most = inputs**-0.5
        assert 0.97 * most < weight.max() <= most
        assert -most <= weight.min() < -0.97 * most
    assert not network.inner_bias.any()
    assert not network.outer_bias.any()


def test_a_body_whose_head_is_to_the_right_is_turned_to_stand():
    names = ("left_hip", "right_hip", "left_shoulder", "right_shoulder", "nose")
    tree = BoneTree(points=names, parents=(-1, 0, 0, 1, 2))
    points = torch.tensor([[[10.0, 20.0], [10.0, 24.0], [40.0, 20.0], [40.0, 24.0], [43.0, 24.0]]])
    known = torch.ones(1, 5, dtype=torch.bool)
    expected = [[1.0, 0.0], [0.0, -1.0], [0.0, -1.0], [0.8, -0.6]]  # down has become right, and right up
    torch.testing.assert_close(bone_directions(points, known, tree), torch.tensor([expected]))
    assert not bone_directions(points, known & torch.tensor([1, 1, 1, 1, 0], dtype=torch.bool), tree)[0, 3].any()
    near = points.clone()
    near[0, 4] = near[0, 2] + torch.tensor([0.1, 0.0])  # below half a percent of a body of 35 px
    assert not bone_directions(near, known, tree)[0, 3].any()
    near[0, 4, 0] += 0.2
    torch.testing.assert_close(bone_directions(near, known, tree)[0, 3], torch.tensor([0.0, -1.0]))


def test_bones_are_left_out_of_a_share_of_the_poses_and_up_to_a_third_of_them():
    directions = torch.ones(4000, 12, 2)
    generator = torch.Generator().manual_seed(0)
    gaps = _with_gaps(directions, 0.5, generator) == 0
    assert torch.equal(gaps[..., 0], gaps[..., 1])
    share = gaps[..., 0].float().mean(dim=1)
    assert 0.55 < (share == 0).float().mean() < 0.65  # half, and those of the others that happen to lose none
    assert share.mean() == pytest.approx(0.5 / 6, abs=0.01)
    assert _with_gaps(directions, 1.0, generator).eq(0).float().mean() == pytest.approx(1 / 6, abs=0.01)
    assert torch.equal(_with_gaps(directions, 0.0, generator), directions)


def test_noise_turns_bones_and_what_hangs_on_them():
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform(0, 50, (30, 5, 2))).float()
    poses = _Poses(SMALL, points)
    real = bone_directions(points, torch.ones(30, 5, dtype=torch.bool), SMALL)
    settings = ManifoldTraining(noisy_poses=400, concentrations=(1e7,))
    noisy, distances = _noisy_poses(poses, real, settings, torch.Generator().manual_seed(0))
    between = (noisy[:, None] - real).norm(dim=-1).mean(dim=-1)
    assert between.amin(dim=1).max() < 0.01, "hardly turned, every one is a real one"
    settings = ManifoldTraining(noisy_poses=400, concentrations=(4.0,))
    noisy, distances = _noisy_poses(poses, real, settings, torch.Generator().manual_seed(0))
    between = (noisy[:, None] - real).norm(dim=-1).mean(dim=-1)
    torch.testing.assert_close(distances, between.topk(5, largest=False).values.mean(dim=1), rtol=1e-5, atol=1e-5)
    assert 0.2 < between.amin(dim=1).mean() < 0.6


def test_a_point_as_sure_as_the_least_counts(manifold):
    keypoints, labelled = bodies(40)
    points = torch.from_numpy(keypoints[labelled[:, BODY].all(axis=1)][:3]).float()
    energy = ManifoldEnergy(manifold, COCO)
    sure, barely, hardly = (torch.full(points.shape[:2], value) for value in (1.0, 0.1, 0.0999))
    assert torch.equal(energy(points, sure), energy(points, barely))
    assert not energy(points, hardly).any()


def test_a_file_says_what_it_was_learned_from(manifold, tmp_path):
    path = save_manifold(tmp_path / "a.safetensors", manifold, dataset="infants/train", digest="ab", num_bodies=150)
    with safe_open(str(path), "pt") as file:
        about = file.metadata()
    assert about["format"] == "posecore-pose-manifold-1"
    assert (about["dataset"], about["digest"], about["num_bodies"]) == ("infants/train", "ab", "150")
    assert json.loads(about["network"]) == {"width": 48, "depth": 2}
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="holds no pose prior; make one with `posecore labels prior`"):
        load_manifold(tmp_path / "other.safetensors")

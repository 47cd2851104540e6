"""A learned distance to plausible poses: what is seen in a population's labels is near, everything else is far.

Source: Pose-NDF (Tiwari et al., ECCV 2022) in two dimensions, as POST (ICCV 2023) and SHIFT (arXiv 2504.05789) use it:
unit vectors of the bones of a tree, a small code per bone that sees its parent's, and a network whose output is the
distance. It learns from real poses (distance 0) and from poses whose bones were turned by von Mises noise, with the
mean distance to the five nearest real ones. What differs, and why:

* The body is turned so that its torso stands upright: infants lie in every direction, and a prior that has seen few of
  them would call the others implausible.
* All noise levels are mixed from the beginning. The published curriculum of three stages and 375,000 steps gains
  nothing that a few thousand steps on this small input do not.
* Bones are left out at random in training, because predictions miss points; a bone of no length has no direction and is
  left out as well.

Only directions are looked at: lengths are the business of :mod:`posecore.labels.proportions`.
"""

import json
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from posecore.config import Config, parse_config
from posecore.counting import counted
from posecore.errors import ConfigError, DatasetError
from posecore.labels.proportions import LEAST_BODIES, NO_LENGTH, bones_of, extents
from posecore.methods.expectation import LEAST_CONFIDENCE, extent
from posecore.skeletons.skeleton import Skeleton
from posecore.storage import AnyPath, as_path, local_copy, write_atomically

_FORMAT = "posecore-pose-manifold-1"
_CODE = 6
_NEIGHBOURS = 5
_CANDIDATES = 50
_LEAST_LENGTH = 1e-6
_TORSO = ("left_hip", "right_hip", "left_shoulder", "right_shoulder")


class ManifoldTraining(Config):
    """How the distance is learned.

    Attributes:
        steps: of Adam.
        batch: poses per step, half of them real.
        lr: learning rate, which falls to 0 along a cosine.
        width: of the hidden layers; published: 512.
        depth: number of hidden layers; published: 5.
        concentrations: κ of the von Mises noise; a pose gets one of them for all its bones.
        noisy_poses: made once, before training.
        left_out: share of the poses in a batch of which up to a third of the bones is left out.
        seed: of everything random.
    """

    steps: int = Field(default=1000, gt=0)
    batch: int = Field(default=256, ge=2)
    lr: float = Field(default=1e-3, gt=0)
    width: int = Field(default=128, gt=0)
    depth: int = Field(default=3, gt=0)
    concentrations: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    noisy_poses: int = Field(default=20000, gt=0)
    left_out: float = Field(default=0.5, ge=0, le=1)
    seed: int = Field(default=0, ge=0)


class BoneTree(Config):
    """Bones as a tree.

    Attributes:
        points: union names; the root first, and a parent before its children.
        parents: index of each point's parent, -1 for the root.
    """

    points: tuple[str, ...]
    parents: tuple[int, ...]

    @property
    def num_bones(self) -> int:
        """One less than points."""
        return len(self.points) - 1

    @property
    def levels(self) -> list[tuple[list[int], list[int]]]:
        """Bones that end equally far from the root, with each one's parent bone, -1 for none; nearest first.

        Bone b ends at point b + 1.
        """
        depth = [0]
        for parent in self.parents[1:]:
            depth.append(depth[parent] + 1)
        levels: list[tuple[list[int], list[int]]] = [([], []) for _ in range(max(depth))]
        for point, parent in enumerate(self.parents[1:], start=1):
            bones, parents = levels[depth[point] - 1]
            bones.append(point - 1)
            parents.append(parent - 1)
        return levels

    @property
    def torso(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Points at the lower and the upper end of the torso; without hips and shoulders, the root and all others."""
        if all(name in self.points for name in _TORSO):
            lower = tuple(self.points.index(name) for name in _TORSO[:2])
            return lower, tuple(self.points.index(name) for name in _TORSO[2:])
        return (0,), tuple(range(1, len(self.points)))

    def columns(self, skeleton: Skeleton) -> list[int]:
        """Native index of each point.

        Raises:
            ConfigError: the skeleton lacks one.
        """
        missing = [name for name in self.points if name not in skeleton.union_names]
        if missing:
            raise ConfigError(
                f"the pose prior was learned with the point {missing[0]}, which {skeleton.name} does not have; learn "
                "it from labels with that skeleton."
            )
        return [skeleton.union_names.index(name) for name in self.points]

    @classmethod
    def of(cls, skeleton: Skeleton, bones: Sequence[tuple[int, int]]) -> "BoneTree":
        """A spanning tree of bones, breadth first from the point with most of them; what hangs apart is left out."""
        degrees = Counter(point for bone in bones for point in bone)
        root = min(degrees, key=lambda point: (-degrees[point], point))
        order, parents = [root], {root: -1}
        queue = deque([root])
        while queue:
            point = queue.popleft()
            for bone in bones:
                for here, there in (bone, bone[::-1]):
                    if here == point and there not in parents:
                        parents[there] = order.index(point)
                        order.append(there)
                        queue.append(there)
        return cls(
            points=tuple(skeleton.union_names[point] for point in order),
            parents=tuple(parents[point] for point in order),
        )


class PoseManifold(nn.Module):
    """Bone directions in, distance to plausible poses out.

    Args:
        tree: the bones.
        width: of the hidden layers.
        depth: number of hidden layers.
    """

    def __init__(self, tree: BoneTree, width: int, depth: int) -> None:
        super().__init__()
        self.tree = tree
        self.width, self.depth = width, depth
        self.inner = nn.Parameter(_uniform(tree.num_bones, 2 + _CODE, _CODE))
        self.inner_bias = nn.Parameter(torch.zeros(tree.num_bones, 1, _CODE))
        self.outer = nn.Parameter(_uniform(tree.num_bones, _CODE, _CODE))
        self.outer_bias = nn.Parameter(torch.zeros(tree.num_bones, 1, _CODE))
        sizes = [tree.num_bones * (_CODE + 2)] + [width] * depth
        layers: list[nn.Module] = []
        for inner, outer in pairwise(sizes):
            layers += [weight_norm(nn.Linear(inner, outer)), nn.ReLU()]
        self.distance = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, directions: Tensor) -> Tensor:
        """(n, bones, 2) unit vectors, zero where unknown, to (n,) distances, not negative."""
        by_bone = directions.transpose(0, 1)
        codes = by_bone.new_zeros((self.tree.num_bones + 1, len(directions), _CODE))  # the last stands for no parent
        for bones, parents in self.tree.levels:
            above = torch.cat([by_bone[bones], codes[parents]], dim=2)
            hidden = torch.baddbmm(self.inner_bias[bones], above, self.inner[bones]).relu()
            codes = codes.index_copy(
                0,
                torch.tensor(bones, device=codes.device),
                torch.baddbmm(self.outer_bias[bones], hidden, self.outer[bones]),
            )
        seen = torch.cat([codes[:-1], by_bone], dim=2).transpose(0, 1).flatten(1)
        return F.softplus(self.distance(seen)[:, 0])


def _uniform(bones: int, inputs: int, outputs: int) -> Tensor:
    """(bones, inputs, outputs) initial weights of one linear layer per bone, as :class:`torch.nn.Linear` draws them."""
    return (torch.rand(bones, inputs, outputs) * 2 - 1) / inputs**0.5


def bone_directions(points: Tensor, known: Tensor, tree: BoneTree) -> Tensor:
    """Unit vectors of the bones of bodies whose torsos are turned upright; zero where a bone is unknown or too short.

    Args:
        points: (n, P, 2) x, y of the tree's points, in any pixels of one length in x and y.
        known: (n, P) which count.
        tree: the bones.
    """
    parents = list(tree.parents[1:])
    bones = points[:, 1:] - points[:, parents]
    squared = bones.square().sum(dim=-1)
    least = (NO_LENGTH * extent(points, known)[:, None]).square() + _LEAST_LENGTH**2
    seen = known[:, 1:] & known[:, parents] & (squared > least)
    units = torch.where(seen[..., None], bones, 0.0) / torch.where(seen, squared, 1.0).sqrt()[..., None]
    lower, upper = (list(side) for side in tree.torso)
    spine = points[:, upper].mean(dim=1) - points[:, lower].mean(dim=1)
    length = spine.square().sum(dim=-1, keepdim=True)
    upright = known[:, lower].all(dim=1) & known[:, upper].all(dim=1) & (length[:, 0] > _LEAST_LENGTH**2)
    up = spine.new_tensor([0.0, -1.0])
    spine = torch.where(upright[:, None], spine, up) / torch.where(upright[:, None], length, 1.0).sqrt()
    sin, cos = spine[:, :1], -spine[:, 1:]  # of the angle the torso is turned by, clockwise as seen
    return torch.stack([cos * units[..., 0] + sin * units[..., 1], cos * units[..., 1] - sin * units[..., 0]], dim=-1)


@dataclass(frozen=True, eq=False)
class _Poses:
    """Complete bodies: the tree's points, in upright frames of their own, mirror images included."""

    tree: BoneTree
    points: Tensor


def learn_manifold(
    keypoints: Float[np.ndarray, "N K 2"],
    labelled: Bool[np.ndarray, "N K"],
    skeleton: Skeleton,
    training: ManifoldTraining | None = None,
) -> PoseManifold:
    """Learns the distance from labelled bodies, on the CPU; equal arguments give equal weights.

    Args:
        keypoints: x, y in image pixels.
        labelled: which points have a place.
        skeleton: names and links of the K points.
        training: how.

    Raises:
        DatasetError: the skeleton has no links, or too few bodies are labelled completely.
    """
    training = training or ManifoldTraining()
    poses = _complete(keypoints, labelled, skeleton)
    generator = torch.Generator().manual_seed(training.seed)
    real = bone_directions(poses.points, torch.ones(poses.points.shape[:2], dtype=torch.bool), poses.tree)
    noisy, distances = _noisy_poses(poses, real, training, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        manifold = PoseManifold(poses.tree, training.width, training.depth)
    optimizer = torch.optim.Adam(manifold.parameters(), lr=training.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    half = training.batch // 2
    for _ in range(training.steps):
        clean = torch.randint(len(real), (half,), generator=generator)
        chosen = torch.randint(len(noisy), (training.batch - half,), generator=generator)
        directions = torch.cat([real[clean], noisy[chosen]])
        wanted = torch.cat([torch.zeros(half), distances[chosen]])
        error = (manifold(_with_gaps(directions, training.left_out, generator)) - wanted).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
    return manifold.eval().requires_grad_(False)


def _complete(keypoints: NDArray[np.floating], labelled: NDArray[np.bool_], skeleton: Skeleton) -> _Poses:
    pairs = np.array(bones_of(skeleton))
    length = np.hypot(*np.moveaxis(keypoints[:, pairs[:, 1]] - keypoints[:, pairs[:, 0]], -1, 0))
    apart = labelled[:, pairs].all(axis=2) & (length > NO_LENGTH * extents(keypoints, labelled)[:, None])
    # Points that a dataset never labels, or fills with another one, are no part of its poses.
    usual = apart.mean(axis=0) > 0.5 * max(apart.mean(axis=0).max(), 1e-9)
    if not usual.any():
        raise DatasetError(f"skeleton {skeleton.name}: no bone is labelled on any body; a pose prior needs labels.")
    tree = BoneTree.of(skeleton, [(int(a), int(b)) for a, b in pairs[usual]])
    columns = tree.columns(skeleton)
    whole = labelled[:, columns].all(axis=1)
    if whole.sum() < LEAST_BODIES:
        raise DatasetError(
            f"{int(whole.sum())} of {counted(len(labelled), 'body')} are labelled at all "
            f"{counted(len(columns), 'point')} of {skeleton.name} that a pose prior looks at, and it needs "
            f"{LEAST_BODIES}; label more, or use bone lengths and angles (`posecore labels learn`), which take bodies "
            "as they are."
        )
    bodies = torch.from_numpy(keypoints[whole].astype(np.float32))
    mirrored = bodies[:, torch.from_numpy(skeleton.flip_indices)] * torch.tensor([-1.0, 1.0])
    return _Poses(tree, torch.cat([bodies, mirrored])[:, columns])


def _noisy_poses(
    poses: _Poses, real: Tensor, training: ManifoldTraining, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Directions of poses with turned bones, and their distances to the real ones."""
    rng = np.random.default_rng(training.seed)
    chosen = torch.randint(len(poses.points), (training.noisy_poses,), generator=generator)
    kappa = rng.choice(training.concentrations, (len(chosen), 1))
    turns = torch.from_numpy(rng.vonmises(0.0, kappa, (len(chosen), poses.tree.num_bones))).float()
    clean = poses.points[chosen]
    parents = list(poses.tree.parents[1:])
    bones = torch.view_as_complex((clean[:, 1:] - clean[:, parents]).contiguous()) * torch.polar(
        torch.ones_like(turns), turns
    )
    turned = torch.zeros_like(clean)
    for bone, parent in enumerate(parents):
        turned[:, bone + 1] = turned[:, parent] + torch.view_as_real(bones[:, bone])
    noisy = bone_directions(turned, torch.ones(turned.shape[:2], dtype=torch.bool), poses.tree)
    distances = torch.cat([nearest_distance(part, real) for part in noisy.split(1000)])
    return noisy, distances


def nearest_distance(directions: Tensor, real: Tensor) -> Tensor:
    """(n,) mean distance to the five nearest of (m, bones, 2) real poses; that of two poses is the mean over bones.

    The nearest are looked for among the fifty whose squared distance is smallest, which one matrix product finds.
    """
    similarity = directions.flatten(1) @ real.flatten(1).T
    candidates = similarity.topk(min(_CANDIDATES, len(real)), dim=1).indices
    between = (directions[:, None] - real[candidates]).square().sum(dim=-1).sqrt().mean(dim=-1)
    return between.topk(min(_NEIGHBOURS, between.shape[1]), dim=1, largest=False).values.mean(dim=1)


def _with_gaps(directions: Tensor, share: float, generator: torch.Generator) -> Tensor:
    count, bones = directions.shape[:2]
    gaps = torch.rand((count, bones), generator=generator) < torch.rand((count, 1), generator=generator) / 3
    gaps &= torch.rand((count, 1), generator=generator) < share
    return directions.masked_fill(gaps[..., None], 0.0)


class ManifoldEnergy:
    """The distance of predicted bodies; differentiable in their points.

    Args:
        manifold: as learned.
        skeleton: names the K points.

    Raises:
        ConfigError: the skeleton lacks a point the manifold was learned with.
    """

    def __init__(self, manifold: PoseManifold, skeleton: Skeleton) -> None:
        self._manifold = manifold.eval().requires_grad_(False)
        self._columns = manifold.tree.columns(skeleton)

    def __call__(self, points: Tensor, confidence: Tensor) -> Tensor:
        """(n, K, 2) points and (n, K) confidences to (n,) distances."""
        if next(self._manifold.parameters()).device != points.device:
            self._manifold.to(points.device)
        known = confidence[:, self._columns] >= LEAST_CONFIDENCE
        distances = self._manifold(bone_directions(points[:, self._columns], known, self._manifold.tree))
        return distances * known.any(dim=1)


def save_manifold(path: str | Path, manifold: PoseManifold, *, dataset: str, digest: str, num_bodies: int) -> Path:
    """Writes weights and description as one .safetensors file.

    Args:
        path: of the file.
        manifold: as learned.
        dataset: name and split of the labels.
        digest: dataset digest of the labels.
        num_bodies: labelled bodies of the split.
    """
    about = {
        "format": _FORMAT,
        "tree": manifold.tree.model_dump_json(),
        "network": json.dumps({"width": manifold.width, "depth": manifold.depth}),
        "dataset": dataset,
        "digest": digest,
        "num_bodies": str(num_bodies),
    }
    write_atomically(
        Path(path), save({name: value.contiguous() for name, value in manifold.state_dict().items()}, about)
    )
    return Path(path)


def load_manifold(path: str | AnyPath) -> PoseManifold:
    """Reads the file of :func:`save_manifold`.

    Raises:
        ConfigError: there is no such file, or it is not one of these.
    """
    try:
        with local_copy(as_path(path)) as local, safe_open(str(local), "pt") as file:
            about = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); make it with `posecore labels prior`.") from None
    if about.get("format") != _FORMAT:
        raise ConfigError(f"{path}: holds no pose prior; make one with `posecore labels prior`.")
    tree = parse_config(json.loads(about["tree"]), BoneTree, origin=str(path))
    manifold = PoseManifold(tree, **json.loads(about["network"]))
    manifold.load_state_dict(weights)
    return manifold.eval().requires_grad_(False)

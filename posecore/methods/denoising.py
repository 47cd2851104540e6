"""Labelled bodies, made wrong by chance, from which queries of their own are to find back, without any matching.

Source: Li et al., DN-DETR (arXiv 2203.01305), with the points of ED-Pose (arXiv 2302.01593). Noise is a function of the
picture's own seed, so it is the same whoever trains on it, and beside what.
"""

import torch
from pydantic import Field
from torch import Tensor

from posecore.config import Config
from posecore.methods.bodies import Bodies
from posecore.methods.crop_draws import random_shares


class DenoisingConfig(Config):
    """How much is hinted at, and how wrong.

    Attributes:
        groups: copies of all bodies, each with noise of its own; 0 for none.
        most: queries of a picture that begin with hints; fuller sets of pictures get fewer groups, and at least one.
        box_noise: a box is moved by up to half of this share of its sides, and these change by up to this share.
        point_noise: points are moved by up to this share of the box's sides.
    """

    groups: int = Field(default=5, ge=0, le=100)
    most: int = Field(default=100, gt=0)
    box_noise: float = Field(default=0.4, ge=0, lt=1)
    point_noise: float = Field(default=0.2, ge=0)


def noised_bodies(bodies: Bodies, seeds: Tensor, config: DenoisingConfig) -> Tensor | None:
    """(n, G, m, 4 + 2K) hints as a head of queries takes them, of the first m rows; None if there is nothing to say.

    Args:
        bodies: labelled.
        seeds: (n,) int64, a random word per picture.
        config: how.
    """
    rows = _rows(bodies)
    if not config.groups or not rows:
        return None
    num_images, num_bodies, num_points = bodies.weights.shape
    num_groups = max(1, min(config.groups, config.most // num_bodies))
    width = 4 + 2 * num_points
    draws = 2 * random_shares(seeds, num_groups * num_bodies * width) - 1
    draws = draws.view(num_images, num_groups, num_bodies, width)[:, :, :rows]
    boxes, points = bodies.boxes[:, None, :rows], bodies.points[:, None, :rows]
    sizes = boxes[..., 2:]
    centres = boxes[..., :2] + config.box_noise / 2 * draws[..., :2] * sizes
    changed = sizes * (1 + config.box_noise * draws[..., 2:4])
    moved = points + config.point_noise * draws[..., 4:].unflatten(-1, (-1, 2)) * sizes[..., None, :]
    unknown = bodies.weights[:, None, :rows, :, None] <= 0
    hints = torch.cat([centres, changed, moved.masked_fill(unknown, torch.nan).flatten(3)], dim=-1)
    return hints.masked_fill(~bodies.there[:, None, :rows, None], torch.nan)


def _rows(bodies: Bodies) -> int:
    """Rows up to the last body of any picture."""
    found = bodies.there.any(dim=0).nonzero()
    return int(found.max()) + 1 if len(found) else 0

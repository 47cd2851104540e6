"""The terms of PoseBH written down a second time (arXiv 2505.17475): pixels, prototypes, points that two ways agree on.

As the paper means them: each dataset's pixels are compared with its own prototypes and its own keypoints, and agreed
points lie where both maps say. Per dataset K points, M prototypes of each, C numbers in an embedding, n pixels.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from tests.parity.recipes.restated import heatmap_targets, joints_mse

CONTRAST, DISTANCE = 1.25e-5 * 0.01, 1.25e-5 * 0.001
HEATMAP, SELF_SUPERVISION = 3.33e-6, 1e-3
MOMENTUM, SHARPNESS, CONFIDENT, NEAR_PX = 0.999, 0.05, 0.25, 2.1


def cosines(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """(n, K, M) absolute cosines of (n, C) embeddings with (K, M, C) prototypes."""
    directions = embeddings.double() / embeddings.double().norm(dim=1, keepdim=True)
    return torch.stack([(directions @ points.double().T).abs() for points in prototypes], dim=1)


def maps_of(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """(N, K, h, w): the nearest prototype's similarity, kept off 0 and 1."""
    count, width, rows, columns = embeddings.shape
    flat = cosines(embeddings.permute(0, 2, 3, 1).reshape(-1, width), prototypes).max(dim=2).values
    return flat.clamp(1e-4, 1 - 1e-4).reshape(count, rows, columns, -1).permute(0, 3, 1, 2)


def pixels_of(embeddings: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, C) embeddings where a target is not zero, (n,) whose it is, and (n,) how high."""
    confidence, labels = targets.max(dim=1)
    chosen = confidence > 0
    return embeddings.permute(0, 2, 3, 1)[chosen], labels[chosen], confidence[chosen]


def shared_out(similarities: Tensor) -> Tensor:
    """(n, M) of one keypoint's pixels: Sinkhorn-Knopp, three rounds."""
    flow = torch.exp(similarities.T / SHARPNESS)
    flow = flow / flow.sum()
    for _ in range(3):
        flow = flow / flow.sum(dim=1, keepdim=True) / flow.shape[0]
        flow = flow / flow.sum(dim=0, keepdim=True) / flow.shape[1]
    return flow.T * flow.shape[1]


def assignment(similarities: Tensor, labels: Tensor) -> Tensor:
    """(n, M) of every pixel's own keypoint."""
    shares = similarities.new_zeros(len(labels), similarities.shape[2])
    for point in labels.unique():
        members = labels == point
        shares[members] = shared_out(similarities.detach()[members, point])
    return shares


def pixel_loss(embeddings: Tensor, labels: Tensor, prototypes: Tensor) -> Tensor:
    """Contrast among all the dataset's prototypes and distance to the own one, means over pixels."""
    if not len(labels):
        return embeddings.sum().double() * 0
    similarities = cosines(embeddings, prototypes)
    own = assignment(similarities, labels).argmax(dim=1)
    each = torch.arange(len(labels))
    chosen = similarities[each, labels, own]
    contrast = (similarities.flatten(1).exp().sum(dim=1).log() - chosen).mean()
    return CONTRAST * contrast + DISTANCE * ((1 - chosen) ** 2).mean()


@torch.no_grad()
def moved_prototypes(embeddings: Tensor, labels: Tensor, confidence: Tensor, prototypes: Tensor) -> Tensor:
    """(K, M, C) after an update by the pixels that look most like their own keypoint."""
    similarities = cosines(embeddings, prototypes)
    shares = assignment(similarities, labels)
    noise = -torch.empty(shares.shape).exponential_().log()
    slots = (shares + noise).argmax(dim=1)
    looks_like = similarities.max(dim=2).values.argmax(dim=1)
    result = prototypes.double().clone()
    directions = embeddings.double() / embeddings.double().norm(dim=1, keepdim=True)
    for point in range(len(prototypes)):
        for slot in range(prototypes.shape[1]):
            chosen = (labels == point) & (slots == slot) & (looks_like == labels)
            if chosen.any():
                old = result[point, slot]
                signs = torch.sign(directions[chosen] @ old)
                pull = (confidence[chosen] ** 2 * signs) @ directions[chosen]
                new = MOMENTUM * old + (1 - MOMENTUM) * pull / pull.norm()
                result[point, slot] = new / new.norm()
    return result


def read_udp(heatmap: np.ndarray, column: int, row: int) -> tuple[float, float]:
    """DARK's Newton step from a maximum on the logarithm of the map blurred by a kernel of 11."""
    blurred = cv2.GaussianBlur(heatmap.astype(np.float64), (11, 11), 0)
    logs = np.pad(np.log(np.clip(blurred, 0.001, 50)), 1, mode="edge")
    x, y = column + 1, row + 1
    slope = np.array([logs[y, x + 1] - logs[y, x - 1], logs[y + 1, x] - logs[y - 1, x]]) / 2
    bend_x = logs[y, x + 1] - 2 * logs[y, x] + logs[y, x - 1]
    bend_y = logs[y + 1, x] - 2 * logs[y, x] + logs[y - 1, x]
    bend_xy = (
        logs[y + 1, x + 1] - logs[y, x + 1] - logs[y + 1, x] + 2 * logs[y, x]
        - logs[y, x - 1] - logs[y - 1, x] + logs[y - 1, x - 1]
    ) / 2  # fmt: skip
    hessian = np.array([[bend_x, bend_xy], [bend_xy, bend_y]]) + np.finfo(np.float32).eps * np.eye(2)
    step = np.linalg.solve(hessian, slope)
    return column - float(step[0]), row - float(step[1])


@torch.no_grad()
def agreed(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K, h, w) targets and (N, K) weights of the points that (N, K, h, w) maps agree on."""
    count, points, height, width = first.shape
    places, keeps = np.zeros((count, points, 2)), np.zeros((count, points), bool)
    trust = np.zeros((count, points))
    for index in np.ndindex(count, points):
        maps = [stack[index].double().numpy() for stack in (first, second)]
        heights = [float(one.max()) for one in maps]
        peaks = [np.unravel_index(one.argmax(), one.shape) for one in maps]
        apart = float(np.hypot(peaks[0][0] - peaks[1][0], peaks[0][1] - peaks[1][1]))
        if min(heights) <= CONFIDENT or apart > NEAR_PX:
            continue
        read = [np.array(read_udp(one, int(c), int(r))) for one, (r, c) in zip(maps, peaks, strict=True)]
        places[index] = (heights[0] * read[0] + heights[1] * read[1]) / sum(heights)
        keeps[index], trust[index] = True, min(heights)
    targets, drawn = heatmap_targets(places, keeps, "udp", (height, width), (height, width), 2.0)
    return targets, drawn * torch.from_numpy(trust)


def self_supervision(head_maps: Tensor, embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """What one dataset's head and prototypes learn from each other on others' images."""
    from_prototypes = maps_of(embeddings, prototypes)
    targets, weights = agreed(head_maps.detach(), from_prototypes.detach())
    used = int((weights > 0).any(dim=1).sum())
    if not used:
        return head_maps.sum().double() * 0
    vectors, labels, _ = pixels_of(embeddings, targets * weights[..., None, None])
    return SELF_SUPERVISION * (
        joints_mse(head_maps, targets, weights, used)
        + HEATMAP * joints_mse(from_prototypes, targets, weights, used)
        + pixel_loss(vectors, labels, prototypes)
    )

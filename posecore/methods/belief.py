"""What a teacher believes of a point, in the terms its student is trained in.

Both look at one crop, cut by the student's conventions. A teacher answers in pixels of the image it is shown, whatever
its own conventions were, so its answer is read by its own codec in those pixels and carried over: no crop of another
convention is needed, and none is mixed up.

A heatmap becomes SimCC labels by adding up its rows and its columns. That marginal is much wider than a SimCC label
(σ 16 bins against 4.9 at 256×192): taught as it is, it would contradict the ground truth. It is narrowed by raising it
to the power that turns one Gaussian into the other. So a certain teacher teaches exactly what a label would, between
the bins as well; one that hesitates between two places teaches both; one with a low maximum teaches a flat line.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from posecore.codecs.associative import AssociativeCodec
from posecore.codecs.codec import Codec
from posecore.codecs.heatmap import HeatmapCodec
from posecore.codecs.queries import QueryCodec
from posecore.codecs.simcc import SHARPNESS, SimccCodec
from posecore.errors import ConfigError

_FLOOR = 1e-4  # of a line's maximum: below it a logarithm would be noise
_NOTHING = 1e-12


def believed(outputs: Tensor, teacher: Codec, student: Codec) -> Tensor:
    """A teacher's outputs as its student's targets; the outputs themselves where both have the same codec.

    Args:
        outputs: (n, K, …) as the teacher's codec decodes them.
        teacher: how the teacher's outputs are read.
        student: how the student's are; its input has the teacher's shape, not necessarily its size.

    Returns:
        (n, K, h, w) float32 heatmaps, (n, K, bins) float32 lines that SimCC's softmax turns into labels, or of whole
        pictures float32 maps or bodies as :class:`~posecore.codecs.associative.AssociativeCodec` and
        :class:`~posecore.codecs.queries.QueryCodec` lay them out.

    Raises:
        ConfigError: no way is known from one's outputs to the other's.
    """
    if outputs_alike(teacher, student):
        return outputs.float()
    with torch.autocast(outputs.device.type, enabled=False):  # in bfloat16 a logarithm would be off by a pixel
        return _carried(outputs.float(), teacher, student)


def _carried(outputs: Tensor, teacher: Codec, student: Codec) -> Tensor:
    match teacher, student:
        case HeatmapCodec(), SimccCodec():
            return heatmap_to_simcc(outputs, teacher, student)
        case SimccCodec(), HeatmapCodec():
            return simcc_to_heatmap(outputs, teacher, student)
        case SimccCodec(), SimccCodec():
            lines = _xy(*teacher.split(outputs))
            return torch.cat([line @ _carry(teacher, student, axis, line.device).mT for axis, line in lines], dim=-1)
        case HeatmapCodec(), HeatmapCodec():
            x, y = (_carry(teacher, student, axis, outputs.device) for axis in (1, 0))
            return y @ outputs @ x.mT
        case AssociativeCodec(), AssociativeCodec():
            parts = zip(teacher.split(outputs), teacher.parts, student.parts, strict=True)
            return torch.cat([_carried(maps, theirs, ours).flatten(2) for maps, theirs, ours in parts], dim=2)
        case QueryCodec(), QueryCodec():
            return student.carried(outputs, teacher)
    raise ConfigError(
        f"no way is known from a teacher's {teacher.kind} outputs to a student's {student.kind}; give the student a "
        "head of the teacher's kind."
    )


def outputs_alike(teacher: Codec, student: Codec) -> bool:
    """Whether one's outputs are the other's targets as they are; how they are decoded does not matter."""
    if isinstance(teacher, HeatmapCodec) and isinstance(student, HeatmapCodec):
        ours, theirs = (codec.model_dump(exclude={"blur_kernel", "blur_border"}) for codec in (student, teacher))
        return ours == theirs
    return teacher == student


def heatmap_to_simcc(heatmaps: Tensor, teacher: HeatmapCodec, student: SimccCodec) -> Tensor:
    """Marginals of heatmaps as lines with the height of the heatmap's peak and the width of SimCC's labels.

    Args:
        heatmaps: (n, K, h, w) float32, Gaussians with peak 1 where the teacher is certain.
        teacher: how they were drawn.
        student: which bins.

    Returns:
        (n, K, bins) float32 in [0, 1]; all zero, which is a uniform label, where a heatmap has no positive value.
    """
    positive = heatmaps.clamp(min=0)
    height = positive.amax(dim=(2, 3))[..., None]
    shapes = []
    for axis, line in _xy(positive.sum(dim=2), positive.sum(dim=3)):
        logs = line.clamp(min=_FLOOR * line.amax(dim=-1, keepdim=True)).clamp(min=_NOTHING).log()
        # Keys' cubic is exact for parabolas, and the logarithm of a Gaussian is one: the peak is found between pixels.
        fine = logs @ _carry(teacher, student, axis, line.device).mT
        peak = fine.amax(dim=-1, keepdim=True)
        height = height * (peak - logs.amax(dim=-1, keepdim=True)).exp()
        shapes.append(((fine - peak) * _narrowing(teacher, student, axis)).exp())
    return torch.cat(shapes, dim=-1) * height.clamp(max=1)


def simcc_to_heatmap(outputs: Tensor, teacher: SimccCodec, student: HeatmapCodec) -> Tensor:
    """The heatmap to expect if the point lies where the teacher's two distributions say.

    Args:
        outputs: (n, K, bins) float32 logits.
        teacher: whose bins.
        student: the map.
    """
    columns, rows = (
        F.softmax(SHARPNESS * line, dim=-1) @ _gaussians(teacher, student, axis, line.device)
        for axis, line in _xy(*teacher.split(outputs))
    )
    return rows[..., :, None] * columns[..., None, :]


def _xy(x: Tensor, y: Tensor) -> tuple[tuple[int, Tensor], tuple[int, Tensor]]:
    """The lines with the index of their axis in (height, width)."""
    return (1, x), (0, y)


def pixels_per_unit(codec: Codec, axis: int) -> float:
    """Crop pixels per heatmap pixel or bin, along axis 0 (y) or 1 (x)."""
    shorten = 1 if codec.crop == "udp" else 0
    return (codec.input_size[axis] - shorten) / (codec.frame_size[axis] - shorten)


def _units_per_unit(teacher: Codec, student: Codec, axis: int) -> float:
    """Teacher's heatmap pixels or bins per one of the student's; both begin at the crop's first pixel centre.

    A teacher with a larger input is shown the crop enlarged such that corner pixels stay corner pixels.
    """
    enlarged = (teacher.input_size[axis] - 1) / (student.input_size[axis] - 1)
    return pixels_per_unit(student, axis) * enlarged / pixels_per_unit(teacher, axis)


def _narrowing(teacher: HeatmapCodec, student: SimccCodec, axis: int) -> float:
    """The power that turns the teacher's Gaussian into the student's."""
    teacher_sigma = teacher.heatmap_sigma / _units_per_unit(teacher, student, axis)
    return (teacher_sigma / student.sigmas[axis]) ** 2


@cache
def _carry(teacher: Codec, student: Codec, axis: int, device: torch.device) -> Tensor:
    """(student's, teacher's length) float32 matrix that interpolates a teacher's line at the student's places.

    Keys' cubic convolution with a = -1/2; beyond the ends a line goes on as it ends.
    """
    ours, theirs = student.frame_size[axis], teacher.frame_size[axis]
    place = torch.arange(ours, dtype=torch.float64) * _units_per_unit(teacher, student, axis)
    place = place.clamp(max=theirs - 1)
    matrix = torch.zeros(ours, theirs, dtype=torch.float64)
    for tap in (-1, 0, 1, 2):
        index = place.floor() + tap
        matrix.scatter_add_(1, index.clamp(0, theirs - 1).long()[:, None], _keys(place - index)[:, None])
    return matrix.float().to(device)


def _keys(distance: Tensor) -> Tensor:
    d = distance.abs()
    near, far = (1.5 * d - 2.5) * d * d + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d <= 1, near, far)


@cache
def _gaussians(teacher: SimccCodec, student: HeatmapCodec, axis: int, device: torch.device) -> Tensor:
    """(bins, student's length) float32: the student's Gaussian around every bin of the teacher."""
    centers = torch.arange(teacher.frame_size[axis], dtype=torch.float64) / _units_per_unit(teacher, student, axis)
    grid = torch.arange(student.frame_size[axis], dtype=torch.float64)
    values = torch.exp(-((grid - centers[:, None]) ** 2) / (2 * student.heatmap_sigma**2))
    return values.float().to(device)

"""What a teacher's answer means to a student of another family, written down a second time, point by point in float64.

From ``docs/distillation.md``: one crop for both, cut by the student's conventions; corner pixels of the crop are corner
pixels of what a larger teacher is shown. A place is carried from the student's units to pixels of its crop, from there
to pixels of the teacher's input, and from there to the teacher's units.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Line: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Terms:
    """What a head's numbers stand for: a map with a Gaussian of so many map pixels, or two lines of half pixels.

    ``size`` is the (height, width) of the input in pixels; a map is four times smaller.
    """

    kind: Literal["udp", "msra", "simcc"]
    size: tuple[int, int]
    sigma: float = 2.0

    def length(self, axis: int) -> int:
        """Of the output along axis 0 (y) or 1 (x)."""
        return self.size[axis] * 2 if self.kind == "simcc" else self.size[axis] // 4

    def pixel(self, unit: float, axis: int) -> float:
        """Pixels of the input at a place of the output."""
        if self.kind == "simcc":
            return unit / 2
        return unit * (self.size[axis] - 1) / (self.length(axis) - 1) if self.kind == "udp" else unit * 4

    def unit(self, pixel: float, axis: int) -> float:
        """The other way round."""
        return pixel / self.pixel(1.0, axis)

    def spread(self, axis: int) -> float:
        """Of a certain answer, in units; a SimCC label's is the root of an eighth of the side."""
        return round((self.size[axis] / 8) ** 0.5, 2) if self.kind == "simcc" else self.sigma


def place(unit: float, axis: int, student: Terms, teacher: Terms) -> float:
    """In the teacher's units, of a place in the student's."""
    enlarged = (teacher.size[axis] - 1) / (student.size[axis] - 1)
    return teacher.unit(student.pixel(unit, axis) * enlarged, axis)


def carried(line: Line, axis: int, student: Terms, teacher: Terms) -> Line:
    """A teacher's line at the student's places: Catmull-Rom splines; beyond the ends it goes on as it ends."""
    last = len(line) - 1
    at = np.minimum([place(unit, axis, student, teacher) for unit in range(student.length(axis))], float(last))
    left = at.astype(int)
    before, here, after, beyond = (line[np.clip(left + tap, 0, last)] for tap in (-1, 0, 1, 2))
    t = at - left
    bend = 2 * before - 5 * here + 4 * after - beyond + t * (3 * (here - after) + beyond - before)
    return here + 0.5 * t * (after - before + t * bend)


def narrowed(heatmap: Line, student: Terms, teacher: Terms) -> Line:
    """(h, w) to the lines of x and y: marginals, narrowed to the width of labels, as high as the map between pixels."""
    positive = np.where(heatmap > 0, heatmap, 0)
    height, lines = positive.max(), []
    for axis in (1, 0):
        marginal = positive.sum(axis=1 - axis)
        logs = np.log(np.maximum(np.maximum(marginal, 1e-4 * marginal.max()), 1e-12))
        fine = carried(logs, axis, student, teacher)
        its_spread = teacher.spread(axis) / place(1.0, axis, student, teacher)
        lines.append(np.exp(fine - fine.max()) ** ((its_spread / student.spread(axis)) ** 2))
        height *= np.exp(fine.max() - logs.max())
    return np.concatenate(lines) * min(height, 1.0)


def softened(line: Line) -> Line:
    """Softmax of ten times the logits."""
    powers = np.exp(10 * (line - line.max()))
    return powers / powers.sum()


def expected_map(lines: Line, student: Terms, teacher: Terms) -> Line:
    """The mean of the student's Gaussians over all bins that the point may lie in, x and y independent."""
    across, down = lines[: teacher.length(1)], lines[teacher.length(1) :]
    profiles = {}
    for axis, line in ((1, across), (0, down)):
        grid, profile = np.arange(student.length(axis)), np.zeros(student.length(axis))
        for bin_, chance in enumerate(softened(line)):
            center = bin_ / place(1.0, axis, student, teacher)
            profile += chance * np.exp(-((grid - center) ** 2) / (2 * student.sigma**2))
        profiles[axis] = profile
    return np.outer(profiles[0], profiles[1])


def both_ways(heatmap: Line, student: Terms, teacher: Terms) -> Line:
    """A map at the pixels of another one."""
    rows = np.array([carried(row, 1, student, teacher) for row in heatmap])
    return np.array([carried(column, 0, student, teacher) for column in rows.T]).T


def other_lines(lines: Line, student: Terms, teacher: Terms) -> Line:
    """Logits at the bins of another input size."""
    across, down = lines[: teacher.length(1)], lines[teacher.length(1) :]
    return np.concatenate([carried(across, 1, student, teacher), carried(down, 0, student, teacher)])


_WAYS: Mapping[tuple[bool, bool], Callable[[Line, Terms, Terms], Line]] = {
    (False, True): narrowed,
    (True, False): expected_map,
    (False, False): both_ways,
    (True, True): other_lines,
}


def belief(outputs: Tensor, student: Terms, teacher: Terms) -> Tensor:
    """(n, K, …) outputs of a teacher as (n, K, …) float64 targets of a student."""
    way = _WAYS[teacher.kind == "simcc", student.kind == "simcc"]
    told = [[way(point, student, teacher) for point in crop] for crop in outputs.detach().double().numpy()]
    shape = (student.length(1) + student.length(0),) if student.kind == "simcc" else student.size
    empty = torch.zeros(0, outputs.shape[1], *(shape if student.kind == "simcc" else [side // 4 for side in shape]))
    return torch.from_numpy(np.array(told)) if told else empty.double()

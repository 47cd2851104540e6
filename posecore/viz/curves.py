"""Lines over one axis, as a page draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, BOTTOM = 420, 260, 64, 36
_TOP = _RIGHT = 12
_COLOURS = ("#3b7dd8", "#d8663b", "#3da35d", "#8a5cd8", "#b08a1e", "#c2477f")
MOST_LINES = len(_COLOURS)
_MOST_POINTS = 400  # of a line: more cannot be told apart at this width


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Lines over one axis.

    Attributes:
        title: heading.
        x_label: of the axis, unit included.
        y_label: likewise.
        series: name → x and y of its points.
        diagonal: whether y = x is drawn for comparison.
        from_zero: whether both axes begin at 0 and a share's ends at 1; otherwise they span what there is.
    """

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    diagonal: bool = False
    from_zero: bool = True


class Chart:
    """A :class:`Curve` in pixels of a picture of :data:`WIDTH` × :data:`HEIGHT`, y downwards.

    Attributes:
        lines: name, colour, points as SVG has them, and the last point.
        diagonal: points of y = x, or "".
        x_ends: text at the ends of the axis.
        y_ends: likewise.
    """

    width, height, left, foot = WIDTH, HEIGHT, LEFT, HEIGHT - BOTTOM

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        series = {name: (x, y) for name, (x, y) in curve.series.items() if len(x)}
        self._x = _span([value for x, _ in series.values() for value in x], curve.from_zero)
        self._y = _span([value for _, y in series.values() for value in y], curve.from_zero)
        if curve.from_zero and self._y[1] < 1:
            self._y = (0.0, 1.0)
        self.x_ends, self.y_ends = (tuple(f"{end:.3g}" for end in axis) for axis in (self._x, self._y))
        self.lines = [
            (name, _COLOURS[number % len(_COLOURS)], *self._line(x, y))
            for number, (name, (x, y)) in enumerate(series.items())
        ]
        end = min(self._x[1], self._y[1])
        self.diagonal = (
            " ".join(f"{x:.1f},{y:.1f}" for x, y in (self._at(0, 0), self._at(end, end))) if curve.diagonal else ""
        )

    def _line(self, x: Sequence[float], y: Sequence[float]) -> tuple[str, tuple[float, float]]:
        step = -(-len(x) // _MOST_POINTS)
        chosen = [*range(0, len(x) - 1, step), len(x) - 1]
        places = [self._at(x[place], y[place]) for place in chosen]
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in places), (round(places[-1][0], 1), round(places[-1][1], 1))

    def _at(self, x: float, y: float) -> tuple[float, float]:
        across, up = WIDTH - LEFT - _RIGHT, HEIGHT - BOTTOM - _TOP
        (left, right), (low, high) = self._x, self._y
        return LEFT + across * (x - left) / (right - left), _TOP + up * (1 - (y - low) / (high - low))


def _span(values: Sequence[float], from_zero: bool) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if from_zero:
        low = 0.0
    return low, high if high > low else low + 1.0

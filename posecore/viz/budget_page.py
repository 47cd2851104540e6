"""The page of a search for a strategy: what was chosen and why, what it costs the old, and what each trial was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posecore.storage import AnyPath, write_atomically
from posecore.viz.curves import Chart, Curve
from posecore.viz.findings import Finding
from posecore.viz.page import render
from posecore.viz.report import ReportTable

PAGE_NAME = "index.html"
"""File of the page."""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 400, 48, 24, 22, 44
_COLOURS = ("#3b7dd8", "#d8663b", "#3da35d", "#8a5cd8", "#b08a1e", "#c2477f", "#4a9aa8", "#7d6a58")
_SHAPES = ("circle", "square", "diamond", "triangle")
_LEAST, _MOST = 5.0, 14.0  # radius in pixels
_LINE = 13.0  # of a name


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A trial between what it gained and what it forgot.

    Attributes:
        name: of the trial.
        family: trials of one family have one shape and colour.
        error: mean distance on the held-out subjects, as a share of the box.
        forgetting: by how much that rose on the parent's sets.
        cost: of the trial; its area on the page.
        chosen: whether it won.
        last: whether it reached the rung that decided.
    """

    name: str
    family: str
    error: float
    forgetting: float
    cost: float
    chosen: bool = False
    last: bool = True


@dataclass(frozen=True)
class PlacedMarker:
    """A marker in pixels, y downwards.

    Attributes:
        marker: which.
        x: of its centre.
        y: likewise.
        label_x: of its name, beside it, and within the picture.
        label_y: likewise, clear of the other names.
        anchor: which end of the name that is.
        radius: of its size.
        colour: of its family.
        path: SVG path of its shape.
    """

    marker: Marker
    x: float
    y: float
    label_x: float
    label_y: float
    anchor: str
    radius: float
    colour: str
    path: str


class TradeOff:
    """Error across, forgetting upwards; both better towards the lower left.

    Attributes:
        markers: placed.
        parent_x: where the parent's error lies.
        x_ends: text at the ends of the axis.
        y_ends: likewise.
    """

    width, height, left, right, top, foot = _WIDTH, _HEIGHT, _LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM

    def __init__(self, markers: Sequence[Marker], parent_error: float) -> None:
        # What a short trial went wrong by is no reason to press all others together: it lies on the edge.
        errors = [parent_error, *(marker.error for marker in markers if marker.last or marker.error < parent_error)]
        margin = 0.08 * max(max(errors) - min(errors), 1e-9)
        self._x = (min(errors) - margin, max(errors) + margin)
        highest = max((marker.forgetting for marker in markers), default=0.0)
        self._y = (0.0, 1.1 * highest if highest > 0 else 0.01)
        self.parent_x = round(self._across(parent_error), 1)
        self.x_ends, self.y_ends = (tuple(f"{100 * end:.1f}" for end in axis) for axis in (self._x, self._y))
        families = list(dict.fromkeys(marker.family for marker in markers))
        dearest = max((marker.cost for marker in markers), default=1.0) or 1.0
        lines: list[float] = []
        self.markers = []
        for marker in sorted(markers, key=lambda marker: (marker.forgetting, marker.error)):
            line = min([self._down(marker.forgetting) + 4, *(line - _LINE for line in lines[-1:])])
            lines.append(line)
            self.markers.append(self._placed(marker, families.index(marker.family), dearest, round(line, 1)))

    def _placed(self, marker: Marker, family: int, dearest: float, label_y: float) -> PlacedMarker:
        radius = round(_LEAST + (_MOST - _LEAST) * (marker.cost / dearest) ** 0.5, 1)
        x, y = round(self._across(marker.error), 1), round(self._down(marker.forgetting), 1)
        shape = _SHAPES[family % len(_SHAPES)]
        on_the_right = x > (_LEFT + self.right) / 2
        label_x = round(x - radius - 4 if on_the_right else x + radius + 4, 1)
        anchor = "end" if on_the_right else "start"
        return PlacedMarker(
            marker, x, y, label_x, label_y, anchor, radius, _COLOURS[family % len(_COLOURS)], _path(shape, x, y, radius)
        )

    def _across(self, error: float) -> float:
        low, high = self._x
        return _LEFT + (self.right - _LEFT) * min((error - low) / (high - low), 1.0)

    def _down(self, forgetting: float) -> float:
        low, high = self._y
        return _TOP + (self.foot - _TOP) * (1 - (forgetting - low) / (high - low))


@dataclass(frozen=True, kw_only=True)
class BudgetPage:
    """Everything the page says.

    Attributes:
        title: heading.
        findings: the answer.
        rule: by what was chosen, in words.
        markers: the trials, each at its last rung.
        parent_error: of the parent on the held-out subjects.
        trials: the table of trials.
        rungs: the table of rungs.
        curve: the error by steps; a line per trial.
        facts: what was searched, and how.
    """

    title: str
    findings: Sequence[Finding]
    rule: str
    markers: Sequence[Marker]
    parent_error: float
    trials: ReportTable
    rungs: ReportTable
    curve: Curve
    facts: Mapping[str, str]


def write_budget_page(path: AnyPath, page: BudgetPage) -> AnyPath:
    """Writes the page and returns its path."""
    drawn = TradeOff(page.markers, page.parent_error)
    write_atomically(path, render("budget_page.html.j2", page=page, trade=drawn, curves=[Chart(page.curve)]))
    return path


def _path(shape: str, x: float, y: float, r: float) -> str:
    if shape == "circle":
        return f"M{x - r:.1f},{y:.1f}a{r},{r} 0 1,0 {2 * r:.1f},0a{r},{r} 0 1,0 {-2 * r:.1f},0Z"
    corners = {
        "square": ((-r, -r), (r, -r), (r, r), (-r, r)),
        "diamond": ((0, -1.2 * r), (1.2 * r, 0), (0, 1.2 * r), (-1.2 * r, 0)),
        "triangle": ((0, -1.2 * r), (1.1 * r, r), (-1.1 * r, r)),
    }[shape]
    return "M" + "L".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners) + "Z"

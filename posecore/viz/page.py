"""Pages: HTML files that need nothing else, read on a phone, on a screen and on paper, made from one layout."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from posecore.viz.estimate_text import signed_figure

_MANY_PLACES = 1.5
"""Figures below are shares."""


def render(template: str, **values: Any) -> bytes:
    """A page as UTF-8.

    Whatever comes from data is escaped, and the page allows no script and fetches nothing.

    Args:
        template: its name in ``templates/``; it extends ``page.html.j2``.
        values: what it shows.
    """
    return _environment().get_template(template).render(**values).encode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": figure,
        "signed_figure": signed_figure,
        "interval_of": _interval_of,
        "data_url": _data_url,
    }
    return environment


def _data_url(image_rgb: NDArray[np.uint8]) -> str:
    from posecore.viz.encoded import data_url  # OpenCV, which a page of numbers does without

    return data_url(image_rgb)


def _interval_of(metrics: Mapping[str, float], name: str) -> str:
    """The ends that stand beside a metric as ``name_low`` and ``name_high``, with as many places as it has."""
    ends = [metrics.get(f"{name}_{end}", np.nan) for end in ("low", "high")]
    places = 4 if abs(metrics[name]) < _MANY_PLACES else 2
    return f"[{ends[0]:.{places}f}, {ends[1]:.{places}f}]" if np.isfinite(ends).all() else ""


def figure(value: float) -> str:
    """Four significant places for shares, one for percents and pixels; -1 is how protocols say "cannot be judged"."""
    if value == -1 or not np.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) > 1:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) < _MANY_PLACES else f"{value:.2f}"

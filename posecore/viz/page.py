"""Pages: HTML files that need nothing else, read on a phone, on a screen and on paper, made from one layout."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray


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
    environment.filters |= {"number": figure, "data_url": _data_url}
    return environment


def _data_url(image_rgb: NDArray[np.uint8]) -> str:
    from posecore.viz.encoded import data_url  # OpenCV, which a page of numbers does without

    return data_url(image_rgb)


def figure(value: float) -> str:
    """Four significant places for shares, one for percents and pixels; -1 is how protocols say "cannot be judged"."""
    if value == -1 or not np.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) > 1:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) < 1.5 else f"{value:.2f}"

"""Estimates as a report writes them: a value that does not exist is a dash, an interval that does not is nothing."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from posecore.evaluation.bootstrap import Estimate

Writer: TypeAlias = Callable[[float], str]


def signed_figure(value: float | None) -> str:
    """Four places and a sign; of what is 0 so far, none."""
    return "–" if value is None else _signed(value, 4)


def number(value: float) -> str:
    """Three places."""
    return f"{value:.3f}" if np.isfinite(value) else "–"


def signed(value: float) -> str:
    """Three places and a sign."""
    return _signed(value, 3)


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f} %" if np.isfinite(value) else "–"


def signed_points(value: float) -> str:
    """A difference of shares in percentage points."""
    return _signed(100 * value, 1)


def _signed(value: float, places: int) -> str:
    if not np.isfinite(value):
        return "–"
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text


def interval(estimate: Estimate, write: Writer) -> str:
    """Both ends in brackets."""
    ends = [write(end).removesuffix(" %") for end in (estimate.low, estimate.high)]
    return f"[{ends[0]}, {ends[1]}]" if np.isfinite(estimate.low) else ""

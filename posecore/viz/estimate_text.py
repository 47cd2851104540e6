"""Estimates as a report writes them: a value that does not exist is a dash, an interval that does not is nothing."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from posecore.evaluation.bootstrap import Estimate

Writer: TypeAlias = Callable[[float], str]


def signed_figure(value: float | None) -> str:
    """Four places and a sign; of what is 0 so far, none."""
    if value is None or not np.isfinite(value):
        return "–"
    text = f"{value:+.4f}"
    return text[1:] if float(text) == 0 else text


def number(value: float) -> str:
    """Three places."""
    return f"{value:.3f}" if np.isfinite(value) else "–"


def signed(value: float) -> str:
    """Three places and a sign."""
    text = f"{value:+.3f}" if np.isfinite(value) else "–"
    return text[1:] if text in ("+0.000", "-0.000") else text


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f} %" if np.isfinite(value) else "–"


def signed_points(value: float) -> str:
    """A difference of shares in percentage points."""
    text = f"{100 * value:+.1f}" if np.isfinite(value) else "–"
    return text[1:] if text in ("+0.0", "-0.0") else text


def interval(estimate: Estimate, write: Writer) -> str:
    """Both ends in brackets."""
    ends = [write(end).removesuffix(" %") for end in (estimate.low, estimate.high)]
    return f"[{ends[0]}, {ends[1]}]" if np.isfinite(estimate.low) else ""


def plural(kind: str, count: int) -> str:
    """Of a word that takes an s."""
    return kind if count == 1 else f"{kind}s"

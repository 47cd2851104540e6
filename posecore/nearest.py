"""The nearest right name, for whoever mistyped one."""

from collections.abc import Iterable
from difflib import get_close_matches

LIKE_FILES = 0.8
"""Likeness of names that share an ending anyway."""


def nearest(name: str, known: Iterable[str], most: int = 1, likeness: float = 0.6) -> list[str]:
    """Of the known names at most so many that somebody may have meant, the nearest first; case does not count.

    Args:
        name: what was given.
        known: what there is.
        most: names to give back.
        likeness: least ratio of :func:`difflib.get_close_matches`.
    """
    by_lower = {each.lower(): each for each in known}
    asked = name.lower()
    begun = sorted((each for each in by_lower if len(asked) > 1 and each.startswith(asked)), key=len)
    close = get_close_matches(asked, by_lower, n=most, cutoff=likeness)
    return [by_lower[each] for each in dict.fromkeys([*begun, *close])][:most]


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A question that goes behind the sentence that refused a name, with its space in front; "" if none is near."""
    close = nearest(str(name), known)
    return f" Did you mean {close[0]}?" if close else ""


def choices(name: object, known: Iterable[str]) -> str:
    """As :func:`did_you_mean`, with all there are behind it."""
    names = list(known)
    return f"{did_you_mean(name, names)} There are {', '.join(names)}."

"""What the names of points say of their mirror partners: left_ear and right_ear, earL and earR, L.Ear and R.Ear."""

import re
from typing import NamedTuple

from posecore.skeletons.skeleton import Skeleton

_SIDE = re.compile(
    r"(?<![A-Za-z])(?:left|right|[lr])(?![a-z])"  # left_ear, ear_left, l_ear, ear.r, leftEar, lEar
    r"|(?<![A-Za-z])(?:Left|Right)(?![a-z])|(?<![A-Za-z])(?:LEFT|RIGHT)(?![A-Za-z])"
    r"|(?<![A-Za-z])[LR](?![a-z])"  # L_Ear, LEar, Ear-R
    r"|(?<=[a-z])(?:Left|Right|[LR])(?![a-z])"  # earLeft, earL
)
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


class WrongPartner(NamedTuple):
    """A point whose name speaks against its mirror partner.

    Attributes:
        name: of the point.
        partner: what it is mirrored to; None for nothing.
        expected: what its name says; None where there is no such point.
    """

    name: str
    partner: str | None
    expected: str | None


def other_side(name: str) -> str | None:
    """The name with its side exchanged, or None where it names no side, or more than one."""
    found = list(_SIDE.finditer(name))
    if len(found) != 1:
        return None
    side = found[0].group()
    other = _OTHER[side.lower()]
    other = other.upper() if side.isupper() else other.capitalize() if side[0].isupper() else other
    return name[: found[0].start()] + other + name[found[0].end() :]


def wrong_partners(skeleton: Skeleton) -> list[WrongPartner]:
    """Points with a side in their name that are mirrored to nothing, or to what is called otherwise."""
    found = []
    for point in skeleton.keypoints:
        expected = other_side(point.name)
        if expected is None or point.flip == expected:
            continue
        known = expected if expected in skeleton.names else None
        if point.flip is None and known is not None:
            found.append(WrongPartner(point.name, None, known))
        elif point.flip is not None and other_side(point.flip) is not None and _part(point.flip) != _part(point.name):
            found.append(WrongPartner(point.name, point.flip, known))
    return found


def _part(name: str) -> str:
    """What a name says beside its side and numbers: points of a face are counted along it, so partners differ there."""
    return re.sub(r"[^a-z]", "", _SIDE.sub("", name).lower())

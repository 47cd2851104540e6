"""Whether the labels of a split allow its protocol to judge at all, as far as counts tell."""

from dataclasses import dataclass

from posecore.counting import counted


@dataclass(slots=True)
class LabelCounts:
    """What protocols ask of labels.

    Attributes:
        images: of the split.
        labelled: bodies with a labelled point that are no crowds.
        with_head: of those, bodies with a head box.
        without_crowd_index: images that do not say how crowded they are.
    """

    images: int = 0
    labelled: int = 0
    with_head: int = 0
    without_crowd_index: int = 0


def labels_problem(protocol: str, counts: LabelCounts) -> str | None:
    """Why nothing can be judged by a protocol; None if something can.

    A sentence without the place, such as ``no body has a labelled point …``.
    """
    if not counts.labelled:
        return "no body has a labelled point, so nothing can be judged by it; label some, or judge on another split."
    if protocol == "pckh" and not counts.with_head:
        return (
            "no labelled body has a head box, which protocol pckh measures by; choose the pck, torso or pixel protocol."
        )
    if protocol == "crowdpose" and counts.without_crowd_index:
        return (
            f"{counts.without_crowd_index} of {counted(counts.images, 'image')} have no crowdIndex, which protocol "
            "crowdpose splits by; use the official annotation files, or set `evaluation: {protocol: oks, scale_rule: "
            "box_053}`."
        )
    return None

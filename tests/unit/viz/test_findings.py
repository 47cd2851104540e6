"""The first sentences of a page, and figures as they write them."""

import numpy as np
import pytest

from posecore.evaluation.bootstrap import Estimate
from posecore.evaluation.paired import Pair
from posecore.viz.estimate_text import signed, signed_figure, signed_points
from posecore.viz.findings import precision_finding
from posecore.viz.page import render


@pytest.mark.parametrize(
    ("first", "second", "low", "high", "said", "tone"),
    [
        (0.5, 0.6, 0.05, 0.15, "coco: AP 0.500 → 0.600, +0.100 [+0.050, +0.150]: better.", "good"),
        (0.6, 0.5, -0.15, -0.05, "coco: AP 0.600 → 0.500, -0.100 [-0.150, -0.050]: worse.", "bad"),
        (
            0.5,
            0.6,
            -0.1,
            0.3,
            "coco: AP 0.500 → 0.600, +0.100 [-0.100, +0.300]: the pictures do not tell them apart.",
            "",
        ),
        (0.5, 0.6, np.nan, np.nan, "coco: AP 0.500 → 0.600, +0.100; there is no interval.", ""),
        (0.5, 0.5, np.nan, np.nan, "coco: AP 0.500, the same for both.", ""),
    ],
)
def test_a_precision_is_better_worse_the_same_or_not_told_apart(
    first: float, second: float, low: float, high: float, said: str, tone: str
) -> None:
    pair = Pair(first=Estimate(first), second=Estimate(second), difference=Estimate(second - first, low=low, high=high))
    found = precision_finding("coco", "AP", pair)
    assert (found.text, found.tone) == (said, tone)


def test_what_is_nothing_has_no_sign() -> None:
    assert [signed_figure(value) for value in (-0.00001, 0.0, 0.5, -0.25, None)] == [
        "0.0000", "0.0000", "+0.5000", "-0.2500", "–",
    ]  # fmt: skip
    assert (signed_points(-0.0001), signed(-0.0001), signed_points(-0.012)) == ("0.0", "0.000", "-1.2")


def test_ends_of_an_interval_stand_beside_their_figure() -> None:
    section = {"error": 1.62, "error_low": 1.4, "error_high": 1.7, "PCK": 0.5}

    class Section:
        protocol, num_images, num_instances, license, digest = "torso", 1, 1, "", "a" * 64
        samples: tuple[str, ...] = ()
        bars: tuple[str, ...] = ()
        subjects: tuple[str, ...] = ()
        name, primary, metrics = "infants", "error", section
        worst: tuple[str, ...] = ()
        bodies = None

        @staticmethod
        def metric_tables() -> list[dict[str, dict[str, float]]]:
            return [{"torso": section}]

    page = render(
        "report.html.j2",
        title="x",
        findings=(),
        sections=[Section],
        curves=(),
        clinical={},
        trusted={},
        tables={},
        facts={},
    ).decode()
    assert '<dt>error</dt><dd>1.62 <span class="interval">[1.40, 1.70]</span></dd>' in page
    assert "error_low" not in page
    assert f'<code title="{"a" * 64}">{"a" * 12}</code></p>' in page

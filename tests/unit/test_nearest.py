"""Names that somebody may have meant."""

import pytest

from posecore.nearest import choices, did_you_mean, nearest


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("vitpose-bas", "vitpose-base"),
        ("Blur", "blur_faces"),
        ("h1000", "h100"),
        ("zzz", None),
        ("", None),
        ("b", None),
    ],
)
def test_the_nearest_name_is_found(given: str, found: str | None) -> None:
    known = ("vitpose-base", "vitpose-small", "h100", "a100-80", "blur_faces")
    assert nearest(given, known) == ([] if found is None else [found])
    assert did_you_mean(given, known) == ("" if found is None else f" Did you mean {found}?")


def test_all_there_are_come_behind_the_nearest() -> None:
    assert choices("val2", ("train", "val")) == " Did you mean val? There are train, val."

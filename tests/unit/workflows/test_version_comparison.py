"""Figures of two versions beside each other."""

from posecore.workflows.version_comparison import _side_by_side


def test_a_figure_of_pycocotools_is_told_of_both_where_one_of_them_differs() -> None:
    """Whether an annotation of id 0 makes another figure depends on what was predicted."""
    one, other = {"AP": 0.5, "AP75": 0.4, "pycocotools/AP75": 0.3}, {"AP": 0.6, "AP75": 0.2}
    assert _side_by_side(one, other) == {"AP": (0.5, 0.6), "AP75": (0.4, 0.2), "pycocotools/AP75": (0.3, 0.2)}
    assert _side_by_side(other, one)["pycocotools/AP75"] == (0.2, 0.3)


def test_a_figure_of_one_alone_is_not_compared() -> None:
    assert _side_by_side({"AP": 0.5, "APL": 0.4}, {"AP": 0.6}) == {"AP": (0.5, 0.6)}

import pytest

from posecore.errors import EvaluationError
from posecore.evaluation.tables import as_markdown, forgetting_table

PROTOCOLS = {"coco": "oks", "infants": "torso", "mice": "pixel"}


def test_gain_is_positive_where_the_child_is_better_whatever_the_metric():
    rows = forgetting_table(
        {"coco": {"AP": 0.75, "AR": 0.8}, "infants": {"torso_error": 0.10}},
        {"coco": {"AP": 0.70}, "infants": {"torso_error": 0.06}, "mice": {"mean_error_px": 3.5}},
        PROTOCOLS,
    )
    assert [(row.eval_set, row.metric) for row in rows] == [
        ("coco", "AP"),
        ("infants", "torso_error"),
        ("mice", "mean_error_px"),
    ]
    assert rows[0].gain == pytest.approx(-0.05)
    assert rows[1].gain == pytest.approx(0.04)
    assert rows[2].parent is None
    assert rows[2].gain is None
    text = as_markdown(rows)
    assert "| coco | AP | 0.7500 | 0.7000 | -0.0500 |" in text
    assert "| mice | mean_error_px | – | 3.5000 | – |" in text


def test_a_set_without_protocol_or_primary_metric_is_refused():
    with pytest.raises(EvaluationError, match="'rats' has no protocol"):
        forgetting_table({"rats": {"AP": 1.0}}, {}, PROTOCOLS)
    with pytest.raises(EvaluationError, match="metrics of 'coco' lack AP; they hold PCKh"):
        forgetting_table({"coco": {"PCKh": 1.0}}, {}, PROTOCOLS)

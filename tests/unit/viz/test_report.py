import re

import numpy as np
import pytest

from posecore.conventions import Conventions
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.inference import predict_store
from posecore.evaluation.keypoint_errors import KeypointError
from posecore.evaluation.protocols import evaluate
from posecore.viz.close_ups import ShownBody
from posecore.viz.curves import Curve
from posecore.viz.findings import Finding
from posecore.viz.report import EvaluationSection, ReportTable, write_report
from tests.support.browser import beyond, cut_off, opened, printed_pages
from tests.support.clinical_cases import clinical_result
from tests.support.dot_worlds import BlobModel, hands_definition, hands_store
from tests.support.random_poses import paired_case


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    definition = hands_definition()
    store = hands_store(tmp_path_factory.mktemp("report"), definition, num_images=4)
    truth = GroundTruth.from_store(store)
    predictions = predict_store(BlobModel(Conventions()), store)
    predictions.keypoints[5, 1] += [20, -30]  # image 2, second body, right hand
    metrics = evaluate(definition.evaluation, definition.skeleton, truth, predictions)
    judged = EvaluationSection.of("hands/val", store, truth, predictions, metrics, worst=3, samples=2)
    return [judged, clinical_section(), nothing_section()]


def clinical_section(**changes):
    """What :func:`clinical_result` gives, as a section of the report."""
    return EvaluationSection(
        name="babies", protocol="torso", metrics={"torso_error": 0.1}, clinical=clinical_result(**changes)
    )


def nothing_section():
    return EvaluationSection(name="empty", protocol="pckh", metrics={"PCKh": -1.0, "PCKh/hip": 50.0})


def test_the_worst_instance_comes_first_with_annotation_and_prediction_side_by_side(sections):
    worst = sections[0].worst
    assert len(worst) == 3
    assert "image 2, instance 201" in worst[0].caption
    assert "furthest: right_hand, 36 px" in worst[0].caption
    height, width, _ = worst[0].picture_rgb.shape
    left, right = worst[0].picture_rgb[:, : (width - 3) // 2], worst[0].picture_rgb[:, (width + 3) // 2 :]
    assert max(height, left.shape[1]) == 288
    difference = np.abs(left.astype(int) - right).max(axis=2) > 100
    assert difference.mean() > 0.005
    assert difference.mean() < 0.3


def test_the_page_begins_with_the_answer_and_ends_with_the_settings(sections, tmp_path):
    finding = Finding("hands/val: better than version 1", "good")
    curve = Curve(title="losses", x_label="step", y_label="loss", series={"loss": ([0, 1], [2, 1])}, from_zero=False)
    tables = {"data": ReportTable(("set", "pictures"), [("hands", "4")])}
    facts = {"learning rate": "3e-4"}
    path = tmp_path / "report.html"
    page = write_report(path, "T", sections, facts, findings=[finding], curves=[curve], tables=tables).read_text()
    order = [
        finding.text, sections[0].finding().text, ">Results<", "<polyline", "Predictions on held-out pictures",
        "Error by keypoint", "Worst pictures", "<h2>data</h2>", "<details>", "learning rate",
    ]  # fmt: skip
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert re.search(r"mean error \d+\.\d % of the box \[\d", sections[0].finding().text)


def test_parts_of_which_something_was_not_judged_stay_in_one_table():
    metrics = {"AP": 0.5, "AR": 0.6, "hand/AP": 0.2, "face/AP": 0.3, "face/APL": 0.4, "foot/AP": 0.1}
    tables = EvaluationSection(name="body", protocol="wholebody", metrics=metrics).metric_tables()
    assert tables[0] == {"overall": {"AP": 0.5, "AR": 0.6}}
    assert [list(row) for row in tables[1].values()] == [["AP", "APL"]] * 3
    assert np.isnan([tables[1][part]["APL"] for part in ("hand", "foot")]).all()


def test_what_any_part_was_judged_by_has_a_column():
    metrics = {"AP": 0.5, "AR": 0.6, "a/AP": 0.2, "a/APM": 0.3, "b/AP": 0.4, "c/AP": 0.1, "c/APL": 0.6}
    rows = EvaluationSection(name="body", protocol="own", metrics=metrics).metric_tables()[1]
    assert [list(row) for row in rows.values()] == [["AP", "APM", "APL"]] * 3
    assert rows["c"]["APL"] == 0.6


def test_every_value_is_on_the_page_and_nothing_is_fetched(sections, tmp_path):
    page = write_report(tmp_path / "report.html", "Evaluation", sections, {"model": "m", "code": "1.0"}).read_text()
    assert sections[0].digest in page
    assert "CC0-1.0" in page
    bodies = sections[0].bodies
    assert bodies is not None
    assert f"{bodies.bodies} bodies, {bodies.answers} answers: <b>{bodies.missed} missed</b>" in page
    assert page.count("redundant</b>") == 1, "where the protocol has no OKS nothing is said"
    assert f"{sections[0].metrics['AP75']:.4f}" in page
    assert re.search(r'class="headline">–<', page), "a value of -1 cannot be judged and is shown as a dash"
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_the_part_for_clinics_says_what_it_knows_and_what_it_does_not(tmp_path):
    section = clinical_section()
    page = write_report(tmp_path / "report.html", "Evaluation", [section]).read_text()
    whole, units = section.clinical.whole, section.clinical.units["subject"]
    assert f"{whole.error.value:.3f}" in page
    assert f"[{100 * whole.pck[0.2].low:.1f}, {100 * whole.pck[0.2].high:.1f}]" in page
    assert f"200 resamples of {units} subjects, seed 0" in page
    assert f"few as {units} subjects" in page
    assert "not broken down: view." in page
    assert f"ends of the torso: {section.clinical.without_torso} labelled bod" in page
    assert "In torso lengths, by posture" in page
    assert "In torso lengths, by view" not in page
    assert "not stated" in page
    assert page.count('class="count"') == sum(one.points > 0 for one in section.clinical.calibration.bins)
    # Boxes were given, so nothing is said of missed bodies but that.
    assert "boxes were given" in page
    assert "redundant" not in page


def test_detected_boxes_have_missed_and_redundant_answers(tmp_path):
    section = clinical_section()
    count = len(paired_case(6, num_instances=80, num_keypoints=17)[1])
    detected = clinical_section(instance_row=np.full(count, -1))
    page = write_report(tmp_path / "report.html", "Evaluation", [detected]).read_text()
    assert f"{100 * detected.clinical.whole.missed.value:.1f} %" in page
    assert "redundant answers" in page
    none = clinical_section(instance_row=np.full(count, -1), scores=np.zeros(count))
    page = write_report(tmp_path / "report.html", "Evaluation", [none]).read_text()
    assert ">100.0 %<" in page
    assert "<svg" not in page, "without an answer there is no confidence to judge"
    assert section.clinical.whole.missed is None


def test_text_from_data_cannot_become_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    section = EvaluationSection(
        name=evil,
        protocol="oks",
        metrics={"AP": 0.5},
        errors=[KeypointError(name=evil, labelled=1, mean_px=1, median_px=1, relative=0.1, missed=0)],
        worst=[ShownBody(picture_rgb=np.zeros((8, 8, 3), np.uint8), caption=f'" onload="{evil}')],
        license=evil,
        digest=evil,
    )
    clinical = clinical_section(subject=evil + "{}")
    page = write_report(tmp_path / "report.html", evil, [section, clinical], {evil: evil}).read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;0" in page
    assert "<script" not in page
    assert '" onload="' not in page


@pytest.mark.browser
def test_a_browser_shows_the_whole_report(sections, tmp_path):
    from selenium.webdriver.common.by import By

    path = write_report(tmp_path / "report.html", "Evaluation of a model", sections, {"model": "m"})
    with opened(path, tmp_path / "profile") as driver:
        assert driver.title == "Evaluation of a model"
        rows = driver.find_elements(By.CSS_SELECTOR, "table.summary tbody tr")
        assert [row.text.split()[0] for row in rows] == ["hands/val", "babies", "empty"]
        widths = driver.execute_script("return [...document.images].map(image => image.naturalWidth)")
        assert len(widths) == 5
        assert min(widths) > 100
        bars = driver.execute_script("return [...document.querySelectorAll('.bar div')].map(bar => bar.offsetWidth)")
        assert bars == sorted(bars, reverse=True)
        assert bars[0] > 200
        dots = driver.execute_script("return [...document.querySelectorAll('.dot')].map(dot => dot.offsetLeft)")
        groups = sections[1].clinical.by
        assert len(dots) == sum(len(rows) + 1 for rows in groups.values())
        spans = driver.execute_script("return [...document.querySelectorAll('.span')].map(span => span.offsetWidth)")
        assert max(spans) > 10
        assert all(width <= 300 for width in spans)
        drawn = driver.find_elements(By.CSS_SELECTOR, "svg.reliability rect.right")
        heights = [float(rect.get_attribute("height")) for rect in drawn]
        assert heights == [240 * one.right for one in sections[1].clinical.calibration.bins]
        assert driver.find_element(By.CSS_SELECTOR, "svg.reliability").size["width"] > 200
        assert driver.find_element(By.CSS_SELECTOR, ".answer").text.startswith("hands/val: AP ")
        assert beyond(driver, 1280) <= 0
        assert beyond(driver, 390) <= 0, "a table that is wider scrolls by itself"
        lines = driver.execute_script("return document.querySelector('table.summary tbody tr').offsetHeight")
        assert lines < 90, "words of a table are not broken into letters on a phone"
        assert cut_off(driver, 1280) == []
        assert cut_off(driver, 390) == [], "a phone"
        assert cut_off(driver, 760, "print") == [], "paper of A4 with margins"
        assert 2 <= printed_pages(driver) <= 8
        assert driver.get_log("browser") == []

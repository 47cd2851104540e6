import re
from dataclasses import replace

import numpy as np
import pytest

from posecore.evaluation.clinical_comparison import compare_clinic
from posecore.evaluation.tables import Change
from posecore.viz.adaptation_report import AdaptationReport, LabelFindings, write_adaptation_report
from posecore.viz.comparison_section import ComparisonSection
from posecore.viz.report import ReportTable
from tests.support.browser import beyond, cut_off, opened
from tests.support.clinical_cases import clinical_result


@pytest.fixture(scope="module")
def comparison():
    return compare_clinic(clinical_result(), clinical_result(nearer=0.4))


@pytest.fixture(scope="module")
def report(comparison):
    picture = np.random.default_rng(0).integers(0, 255, (120, 160, 3)).astype(np.uint8)
    found = LabelFindings(
        title="proportions of bodies",
        told="2 of 350 labels contradict the proportions.",
        worst=ReportTable(
            ("rank", "picture", "point", "energy, nats", "what is odd"),
            [
                (str(rank), f"images/ward/night/{rank:012}.jpg", "left_wrist", "12.3", "twice the median")
                for rank in (1, 2)
            ],
        ),
        pictures=[(picture, "a.png"), (picture, "b.png")],
        page="labels/babies/index.html",
    )
    return AdaptationReport(
        title="babies: models:/little/1",
        facts={"parent": "models:/body/1"},
        verdict="may be promoted",
        checks=[(True, "babies/torso/error is 0.1, required <= 0.2.")],
        changes={"target": [Change(eval_set="babies", metric="AP", parent=0.2, child=0.5, gain=0.3)]},
        warm_start=ReportTable(
            ("part", "from", "copied", "freshly initialised"),
            [("head babies", "head body", "15 of 17 points", "navel, crown")],
        ),
        clinical={"babies (target)": comparison, "ward (independent)": comparison.child},
        labels=[found, LabelFindings(title="losses in training", told="Too few passes.")],
        differences=["babies: shoulder is another point."],
    )


def test_a_difference_is_called_good_or_bad_only_where_the_subjects_tell(comparison):
    lines = {line.name: line.values for line in ComparisonSection(comparison).lines}
    whole = comparison.whole
    assert whole.error.high < 0
    assert lines["mean error"].direction == "good"
    assert lines["mean error"].difference == (
        f"{whole.error.value:+.3f}", f"[{whole.error.low:+.3f}, {whole.error.high:+.3f}]"
    )  # fmt: skip
    assert lines["PCK at 0.1"].direction == "good"
    back = ComparisonSection(compare_clinic(comparison.child, comparison.parent))
    assert {line.name: line.values.direction for line in back.lines}["mean error"] == "bad"
    same = ComparisonSection(compare_clinic(comparison.child, comparison.child))
    assert {line.values.direction for line in same.lines} == {""}


def test_every_group_has_both_models_and_the_worst_child_comes_first(comparison):
    tables = {table.kind: table for table in ComparisonSection(comparison).tables}
    assert list(tables) == ["posture", "subject", "keypoint"]
    assert [row.name for row in tables["posture"].rows] == ["Prone", "Supine", "not stated", "all"]
    errors = [float(row.measures[0].child[0]) for row in tables["keypoint"].rows[:-1]]
    assert errors == sorted(errors, reverse=True)
    assert sum(row.counts[2] for row in tables["posture"].rows[:-1]) == tables["posture"].rows[-1].counts[2]


def test_the_page_has_everything_and_fetches_nothing(report, comparison, tmp_path):
    page = write_adaptation_report(tmp_path / "adaptation.html", report).read_text()
    for text in (
        "may be promoted",
        "in torso lengths: babies (target)",
        "in torso lengths: ward (independent)",
        f"{comparison.whole.child.error.value:.3f}",
        f"[{100 * comparison.whole.pck[0.2].low:+.1f}, {100 * comparison.whole.pck[0.2].high:+.1f}]",
        "2 of 350 labels contradict the proportions.",
        "Too few passes.",
        "not broken down: view.",
    ):
        assert text in page, text
    assert re.findall(r'(?:src|href)="((?!data:)[^"]+)"', page) == ["labels/babies/index.html"]
    assert page.index("may be promoted") < page.index("in torso lengths")


def test_without_gates_there_is_no_verdict_to_be_glad_of(report, tmp_path):
    page = write_adaptation_report(tmp_path / "a.html", replace(report, checks=(), verdict="no verdict")).read_text()
    assert '<p class="verdict ">no verdict</p>' in page


def test_text_from_data_cannot_become_markup(report, tmp_path):
    evil = "<script>alert(1)</script>"
    compared = compare_clinic(*(clinical_result(subject=evil + "{}") for _ in range(2)))
    picture = report.labels[0].pictures[0][0]
    labels = [
        LabelFindings(
            title=evil, told=evil, worst=ReportTable((evil,), [(evil,)]), pictures=[(picture, evil)], page=f'"{evil}'
        )
    ]
    bad = replace(report, title=evil, clinical={evil: compared}, labels=labels, differences=[evil], verdict=evil)
    page = write_adaptation_report(tmp_path / "adaptation.html", bad).read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 12


@pytest.mark.browser
def test_a_browser_shows_the_whole_report(report, comparison, tmp_path):
    from selenium.webdriver.common.by import By

    path = write_adaptation_report(tmp_path / "adaptation.html", report)
    with opened(path, tmp_path / "profile") as driver:
        assert driver.title == "babies: models:/little/1"
        assert len(driver.find_elements(By.CSS_SELECTOR, "svg.reliability")) == 3
        shown = driver.execute_script("return [...document.images].map(image => image.naturalWidth)")
        assert shown == [160, 160]
        dots = driver.execute_script(
            "return [...document.querySelectorAll('.compared .whisker .dot')].map(dot => dot.offsetLeft)"
        )
        assert len(dots) == 2 * sum(len(groups) + 1 for groups in comparison.by.values())
        assert len(set(dots)) > 20
        colours = driver.execute_script(
            "return ['.whisker .dot.before', '.whisker .dot:not(.before)'].map("
            "name => getComputedStyle(document.querySelector(name)).backgroundColor)"
        )
        assert colours[0] != colours[1]
        assert beyond(driver, 1280) <= 0
        assert beyond(driver, 390) <= 0
        assert cut_off(driver, 1280) == []
        assert cut_off(driver, 390) == [], "a phone"
        assert cut_off(driver, 760, "print") == []
        assert driver.get_log("browser") == []

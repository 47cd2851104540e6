import re
import shutil

import numpy as np
import pytest

from posecore.datasets.definition import Conventions
from posecore.evaluation.arrays import GroundTruth
from posecore.evaluation.inference import predict_store
from posecore.evaluation.keypoint_errors import KeypointError, keypoint_errors
from posecore.evaluation.protocols import evaluate
from posecore.viz.report import EvaluationSection, Failure, worst_cases, write_report
from tests.support.dot_worlds import BlobModel, hands_definition, hands_store


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    definition = hands_definition(Conventions())
    store = hands_store(tmp_path_factory.mktemp("report"), definition, num_images=4)
    truth = GroundTruth.from_store(store)
    predictions = predict_store(BlobModel(Conventions()), store)
    predictions.keypoints[5, 1] += [20, -30]  # image 2, second body, right hand
    judged = EvaluationSection(
        name="hands/val",
        protocol="oks",
        metrics=evaluate(definition.evaluation, definition.skeleton, truth, predictions),
        errors=keypoint_errors(truth, predictions, definition.skeleton),
        worst=worst_cases(store, definition.skeleton, truth, predictions, count=3),
        license=definition.license.id,
        digest=store.manifest.digest,
        num_images=4,
        num_instances=8,
    )
    nothing = EvaluationSection(name="empty", protocol="pckh", metrics={"PCKh": -1.0, "PCKh/hip": 50.0})
    return [judged, nothing]


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


def test_every_value_is_on_the_page_and_nothing_is_fetched(sections, tmp_path):
    page = write_report(tmp_path / "report.html", "Evaluation", sections, {"model": "m", "code": "1.0"}).read_text()
    assert sections[0].digest in page
    assert "CC0-1.0" in page
    assert f"{sections[0].metrics['AP75']:.4f}" in page
    assert re.search(r'class="headline">–<', page), "a value of -1 cannot be judged and is shown as a dash"
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_text_from_data_cannot_become_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    section = EvaluationSection(
        name=evil,
        protocol="oks",
        metrics={"AP": 0.5},
        errors=[KeypointError(name=evil, labelled=1, mean_px=1, median_px=1, relative=0.1, missed=0)],
        worst=[Failure(picture_rgb=np.zeros((8, 8, 3), np.uint8), caption=f'" onload="{evil}')],
        license=evil,
        digest=evil,
    )
    page = write_report(tmp_path / "report.html", evil, [section], {evil: evil}).read_text()
    assert "<script" not in page
    assert '" onload="' not in page


@pytest.mark.browser
def test_a_browser_shows_the_whole_report(sections, tmp_path):
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no chromium with chromedriver on this machine: the report was not opened in a browser")
    from selenium import webdriver
    from selenium.webdriver.common.by import By

    path = write_report(tmp_path / "report.html", "Evaluation of a model", sections, {"model": "m"})
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,900",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        driver.get(path.as_uri())
        assert driver.title == "Evaluation of a model"
        rows = driver.find_elements(By.CSS_SELECTOR, "table.summary tbody tr")
        assert [row.text.split()[0] for row in rows] == ["hands/val", "empty"]
        widths = driver.execute_script("return [...document.images].map(image => image.naturalWidth)")
        assert len(widths) == 3
        assert min(widths) > 100
        bars = driver.execute_script("return [...document.querySelectorAll('.bar div')].map(bar => bar.offsetWidth)")
        assert bars == sorted(bars, reverse=True)
        assert bars[0] > 200
        overflow = driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0
        assert driver.get_log("browser") == []
    finally:
        driver.quit()

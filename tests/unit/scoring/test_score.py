import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posecore.cli import main
from posecore.errors import EvaluationError
from posecore.evaluation.bootstrap import BootstrapSettings
from posecore.scoring.comparison import compare
from posecore.scoring.pages import as_html, as_json, as_markdown
from posecore.scoring.tasks import score, task_of_file
from posecore.skeletons.library import load_skeleton
from tests.support.browser import beyond, opened

NAMES = load_skeleton("coco17").names
SETTINGS = BootstrapSettings(resamples=100)


def person(x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """(17, 2) a body with a torso of 40 px from the middle of the shoulders to that of the hips."""
    points = np.array([[20.0 + 3 * i, 10.0 + 2 * i] for i in range(17)])
    for name, place in {
        "left_shoulder": (40, 20), "right_shoulder": (20, 20), "left_hip": (40, 60), "right_hip": (20, 60)
    }.items():  # fmt: skip
        points[NAMES.index(name)] = place
    return points + np.array([x, y])


def truth_of(num_images: int = 4, **changes: Any) -> dict[str, Any]:
    """A body in each image, of two subjects."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 200} for i in range(1, num_images + 1)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(NAMES)}],
        "annotations": [
            {
                "id": 10 + i,
                "image_id": i,
                "category_id": 1,
                "keypoints": np.column_stack([person(), np.full(17, 2)]).ravel().tolist(),
                "num_keypoints": 17,
                "bbox": [15, 5, 60, 60],
                "area": 3600.0,
                "iscrowd": 0,
                "subject_id": f"s{i % 2}",
                **changes,
            }
            for i in range(1, num_images + 1)
        ],
    }


def result(image_id: int, shift: float = 0.0, value: float = 0.9, **changes: Any) -> dict[str, Any]:
    points = np.column_stack([person(shift), np.full(17, value)])
    entry = {"image_id": image_id, "category_id": 1, "keypoints": points.ravel().tolist(), "score": value}
    return entry | changes


def files(folder: Path, truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[Path, Path]:
    paths = folder / "truth.json", folder / "results.json"
    for path, value in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(value))
    return paths


def test_results_on_unknown_pictures_are_counted_and_refused_as_the_official_code_does(tmp_path: Path) -> None:
    truth, results = files(tmp_path, truth_of(), [result(1), result(99), result(98)])
    with pytest.raises(
        EvaluationError, match=r"2 of 3 results are on pictures that .* does not have, the first on '99'"
    ):
        score(task_of_file(truth, "coco"), results, None)


def test_missing_pictures_redundant_and_doubled_results_are_counted(tmp_path: Path) -> None:
    results = [result(1), result(1, 1.0, 0.5), result(2, 400.0, 0.4), result(3), result(3, category_id=7)]
    truth, path = files(tmp_path, truth_of(), results)
    found = score(task_of_file(truth, "coco"), path, None).score
    assert found.counts["pictures without a result"] == 1
    assert found.counts["of those, pictures with bodies"] == 1
    assert found.counts["missed bodies (OKS 0.5)"] == 2
    assert found.counts["redundant results (OKS 0.5)"] == 2
    assert found.counts["of those, on a body that another result found"] == 1
    assert found.counts["results of a category that the annotations do not have"] == 1
    assert found.counts["bodies with an answer (OKS 0.1)"] == 2
    assert [(picture.image_id, picture.missed) for picture in found.worst] == [("2", 1), ("4", 1)]
    by_size = next(table for table in found.tables if table.title == "By size")
    assert {row[0]: row[1] for row in by_size.rows} == {
        "all": 4, "below 32²": 0, "32² to 64²": 4, "64² to 96²": 0, "96² to 192²": 0, "above 192²": 0
    }  # fmt: skip


def test_a_limb_of_another_body_is_counted(tmp_path: Path) -> None:
    document, mixed, right = truth_of(1), result(1), result(1, 100.0)
    other = {"id": 50, "keypoints": np.column_stack([person(100.0), np.full(17, 2)]).ravel().tolist()}
    document["annotations"].append(document["annotations"][0] | other)
    wrist = NAMES.index("left_wrist")
    mixed["keypoints"][3 * wrist : 3 * wrist + 2] = person(100.0)[wrist].tolist()
    for results, swapped in (([mixed, right], 1), ([result(1), right], 0)):
        truth, path = files(tmp_path, document, results)
        counts = score(task_of_file(truth, "coco"), path, None).score.counts
        assert counts["of those, with a point where another body has the same"] == swapped


def test_errors_per_torso_and_reliability_are_those_of_the_answers(tmp_path: Path) -> None:
    """All points are 4 px aside, a tenth of the torso, but those of confidence 0.3, which are 12 px aside."""
    results = [result(1, 4.0), result(2, 4.0), result(3, 4.0), result(4, 12.0, 0.3)]
    truth, path = files(tmp_path, truth_of(), results)
    found = score(task_of_file(truth, "coco"), path, None).score
    assert found.metrics["torso/error"] == pytest.approx((3 * 0.1 + 0.3) / 4)
    assert found.metrics["torso/PCK_0.1"] == pytest.approx(0.75)
    assert found.metrics["torso/ECE"] == pytest.approx(0.75 * abs(1 - 0.9) + 0.25 * abs(0 - 0.3))
    (table,) = (table for table in found.tables if table.title == "Error at stated confidence")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows[0.3] == (1.0, pytest.approx(0.15), pytest.approx(0.3), 0.75)
    assert rows[0.4] == (0.75, pytest.approx(0.1), pytest.approx(0.1), 1.0)
    (reliability,) = (curve for curve in found.curves if curve.title == "Reliability of confidences")
    assert reliability.series["points"] == ([pytest.approx(0.3), pytest.approx(0.9)], [0.0, 1.0])


def test_intervals_come_from_subjects(tmp_path: Path) -> None:
    truth, path = files(tmp_path, truth_of(6), [result(i, 2.0 * i) for i in range(1, 7)])
    found = score(task_of_file(truth, "torso"), path, SETTINGS).score
    assert found.units == {"subject": 2}
    estimate = found.intervals["torso_error"]
    assert estimate.value == pytest.approx(np.mean([2.0 * i for i in range(1, 7)]) / 40)
    by_subject = [np.mean([2.0 * i for i in (2, 4, 6)]) / 40, np.mean([2.0 * i for i in (1, 3, 5)]) / 40]
    assert (estimate.low, estimate.high) == (pytest.approx(min(by_subject)), pytest.approx(max(by_subject)))


def test_pixel_errors_take_the_annotation_that_a_result_names_or_the_nearest_body(tmp_path: Path) -> None:
    truth_values = truth_of(2)
    second = json.loads(json.dumps(truth_values["annotations"][0]))
    second |= {"id": 50, "keypoints": np.column_stack([person(80), np.full(17, 2)]).ravel().tolist()}
    truth_values["annotations"].append(second)
    results = [result(1, 83.0), result(1, 1.0), result(1, 300.0)]
    truth, path = files(tmp_path, truth_values, results)
    found = score(task_of_file(truth, "pixel"), path, None).score
    assert found.metrics["mean_error_px"] == pytest.approx(2.0)
    assert found.counts["missed bodies"] == 1
    assert found.counts["redundant results"] == 1
    named = [result(1, 83.0, annotation_id=11), result(1, 1.0, annotation_id=50), result(2, annotation_id=12)]
    path.write_text(json.dumps(named))
    found = score(task_of_file(truth, "pixel"), path, None).score
    assert found.metrics["mean_error_px"] == pytest.approx((83 + 79 + 0) / 3)
    path.write_text(json.dumps([*named, result(2, annotation_id=12)]))
    with pytest.raises(EvaluationError, match="more than one answer to 1 annotation"):
        score(task_of_file(truth, "pixel"), path, None)
    path.write_text(json.dumps([*named, result(2)]))
    with pytest.raises(EvaluationError, match="3 of 4 results have a field annotation_id"):
        score(task_of_file(truth, "pixel"), path, None)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"keypoints": [1.0] * 50}, "entry 1 does not fit"),
        ({"score": "high"}, "entry 1 does not fit"),
        ({"score": None}, "entry 1 has a coordinate or a score that is not a finite number"),
        ({"keypoints": ["a"] * 51}, "entry 1 does not fit"),
    ],
)
def test_the_entry_that_does_not_fit_is_named(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    truth, path = files(tmp_path, truth_of(), [result(1), result(2) | entry, result(3)])
    with pytest.raises(EvaluationError, match=message):
        score(task_of_file(truth, "coco"), path, None)


@pytest.mark.parametrize(
    ("changes", "protocol", "message"),
    [
        ({"keypoints": [1.0] * 12}, "coco", r"annotations\[0\] does not fit .*12 numbers for 17 points"),
        ({"area": None}, "coco", r"does not fit|no area"),
        ({}, "crowdpose", "category 'person' has 17 points, skeleton crowdpose14 has 14"),
        ({}, "posetrack-like", r"annotations\[0\] does not fit .*bbox_head"),
    ],
)
def test_annotations_of_another_protocol_are_refused(
    tmp_path: Path, changes: dict[str, Any], protocol: str, message: str
) -> None:
    truth, path = files(tmp_path, truth_of(**changes), [result(1)])
    with pytest.raises(EvaluationError, match=message):
        score(task_of_file(truth, protocol), path, None)


def test_a_comparison_is_paired_and_says_what_the_resamples_tell(tmp_path: Path) -> None:
    truth, first = files(tmp_path, truth_of(6), [result(i, 4.0 + i) for i in range(1, 7)])
    second = tmp_path / "second.json"
    second.write_text(json.dumps([result(i, 2.0 + i) for i in range(1, 7)]))
    task = task_of_file(truth, "torso")
    scored = [score(task, path, SETTINGS) for path in (first, second, first)]
    comparison = compare(scored[0], scored[1], SETTINGS)
    assert comparison.differences["torso_error"] == pytest.approx(-2 / 40)
    # Every subject gains the same, so there is no interval, whose width would be 0.
    assert "torso_error" not in comparison.intervals
    second.write_text(json.dumps([result(i, 2.0 + 0.5 * i) for i in range(1, 7)]))
    changed = compare(scored[0], score(task, second, SETTINGS), SETTINGS)
    assert changed.intervals["torso_error"].high < 0
    assert "the second is better" in changed.verdict("torso_error", higher_is_better=False)
    assert "no interval" in compare(scored[0], scored[2], SETTINGS).verdict("torso_error", higher_is_better=False)


def test_pages_say_the_same_and_escape_names(tmp_path: Path) -> None:
    values = truth_of()
    values["images"][3]["file_name"] = "<script>|.png"
    truth, path = files(tmp_path, values, [result(1), result(2, 3.0)])
    scored = score(task_of_file(truth, "coco"), path, SETTINGS)
    document = json.loads(as_json(scored.score))["score"]
    assert document["metrics"]["AP"] == scored.score.metrics["AP"]
    assert document["counts"]["missed bodies (OKS 0.5)"] == 2
    text, page = as_markdown(scored.score), as_html(scored.score).decode()
    for shown in (text, page):
        assert "<script>" not in shown
        assert "By keypoint" in shown
        assert f"{scored.score.metrics['AP']:.4f}" in shown
    assert "&lt;script>\\|.png" in text
    assert page.count("<polyline") >= 4


def test_the_command_writes_three_files_and_draws_the_worst_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    truth, path = files(tmp_path, truth_of(), [result(1), result(2, 9.0), result(3)])
    for number in (2, 4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((200, 200, 3), np.uint8))
    out = tmp_path / "out"
    command = ["score", str(path), "--truth", str(truth), "--protocol", "coco", "--out", str(out), "--resamples", "0"]
    assert main([*command, "--images", str(tmp_path), "--compare", str(path)]) == 0
    told = capsys.readouterr().out
    assert "| AP |" in told
    assert "| APL | – |" in told, "no body is large"
    assert (out / "score.html").read_text().count("<img src=") == 2
    written = json.loads((out / "score.json").read_text())
    assert written["comparison"]["differences"]["AP"] == 0
    assert "APL" not in written["comparison"]["differences"]
    assert written["score"]["metrics"]["APL"] is None
    assert (out / "score.md").read_text().startswith("# ")


def test_a_dry_run_reads_both_files_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, path = files(tmp_path, truth_of(), [result(1), result(2, 9.0)])
    out = tmp_path / "out"
    command = ["score", str(path), "--truth", str(truth), "--out", str(out), "--dry-run"]
    for protocol in ("coco", "torso", "pixel"):
        assert main([*command, "--protocol", protocol]) == 0
        told = capsys.readouterr().out
        assert f"truth     {truth}: 4 annotations of 4 pictures\nresults   {path}: 2\n" in told
        assert f"protocol  {protocol}, 200 resamples" in told
    assert not out.exists()
    path.write_text(json.dumps([result(1), result(9)]))
    assert main([*command, "--protocol", "coco"]) == 1
    assert "1 of 2 results are on pictures that" in capsys.readouterr().err
    assert main([*command, "--protocol", "coco", "--images", str(out)]) == 1
    assert f"--images {out}: no such folder." in capsys.readouterr().err
    assert main([*command[:-3], "--out", str(path), "--protocol", "coco"]) == 2
    assert f"--out {path} is a file; name a folder." in capsys.readouterr().err


@pytest.mark.browser
def test_a_browser_shows_the_page_at_both_widths(tmp_path: Path) -> None:
    folder = tmp_path / "a_folder_of_a_long_name" / ("of_a_run" * 12)
    folder.mkdir(parents=True)
    truth, path = files(folder, truth_of(), [result(1), result(2, 3.0), result(3, 6.0)])
    scored = score(task_of_file(truth, "coco"), path, SETTINGS)
    page = tmp_path / "score.html"
    page.write_bytes(as_html(scored.score, compare(scored, scored, SETTINGS)))
    with opened(page, tmp_path / "profile") as driver:
        for width in (1280, 390):
            assert beyond(driver, width) <= 0, "nothing but a table is wider than the screen"
        assert driver.title == path.name
        answer = driver.find_element("class name", "answer").text
        assert answer.startswith(f"AP {scored.score.metrics['AP']:.4f}")
        assert "AP: no interval" in answer, "of a file with itself"
        legend = driver.find_element("tag name", "figcaption").text
        assert all(name in legend for name in ("OKS 0.50", "OKS 0.75", "OKS 0.90"))
        counted = driver.find_element("xpath", "//td[starts-with(., 'results beyond')]/following-sibling::td")
        assert counted.rect["x"] + counted.rect["width"] <= 390, "numbers of long names are seen on a phone"
        assert driver.get_log("browser") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "coco"], "name the annotations and how they are judged"),
        (["--dataset", "coco"], "needs the folder of the download"),
        (["--dataset", "coco", "--protocol", "coco"], "leave out --truth"),
        (["--truth", "nowhere.json", "--protocol", "coco"], "no such file"),
        (["--truth", "nowhere.mat", "--protocol", "mpii"], "no such file"),
        (["--truth", "x", "--protocol", "coco", "--resamples", "5"], "no such file|needs 100 and more"),
    ],
)
def test_the_command_says_what_is_missing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert main(["score", "results.json", *arguments]) in (1, 2)
    assert re.search(message, capsys.readouterr().err)


def test_a_definition_stands_for_annotations_and_protocol(
    tmp_path: Path, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(next((samples / "coco" / "annotations").glob("person_keypoints_val2017*.json")).read_text())
    results = [
        {
            "image_id": annotation["image_id"],
            "category_id": 1,
            "keypoints": annotation["keypoints"],
            "score": 0.5,
        }
        for annotation in document["annotations"]
        if annotation["num_keypoints"]
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    command = ["score", str(path), "--dataset", "coco", "--root", str(samples / "coco"), "--resamples", "0"]
    assert main(command) == 0
    assert "| AP | 1.0000 |" in capsys.readouterr().out

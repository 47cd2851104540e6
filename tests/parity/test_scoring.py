"""Published files in, official numbers out: each protocol of ``posecore score`` against an independent computation."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from posecore.datasets.definition import EvaluationDefinition
from posecore.errors import EvaluationError
from posecore.evaluation.arrays import GroundTruth, Predictions
from posecore.evaluation.protocols import evaluate
from posecore.formats.coco_wholebody import PARTS
from posecore.scoring.tasks import score, task_of_file
from posecore.skeletons.library import load_skeleton
from tests.support import coco_reference
from tests.support import posetrack_case as posetrack_case_files
from tests.support.random_poses import COCO_SIGMAS, random_case

CLOSE = {"abs": 1e-9, "rel": 0}


def written(folder: Path, truth: dict | list, results: list) -> tuple[Path, Path]:
    paths = folder / "truth.json", folder / "results.json"
    for path, value in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(value))
    return paths


def metrics_of(truth: Path, results: Path, protocol: str, **options) -> dict[str, float]:
    return dict(score(task_of_file(truth, protocol, **options), results, None).score.metrics)


@pytest.mark.parametrize("seed", range(4))
def test_coco_equals_pycocotools(tmp_path, seed):
    truth, predictions = random_case(seed, num_images=30, noise=0.03, num_categories=1 + seed % 2)
    document, results = coco_reference.to_coco(truth), coco_reference.to_results(predictions)
    metrics = metrics_of(*written(tmp_path, document, results), "coco")
    reference = coco_reference.run(document, results, COCO_SIGMAS)
    assert [metrics[name] for name in coco_reference.NAMES] == pytest.approx(reference.stats.tolist(), **CLOSE)


def test_ap10k_equals_pycocotools_per_category(tmp_path):
    truth, predictions = random_case(5, num_images=40, noise=0.03, num_categories=4)
    document, results = coco_reference.to_coco(truth), coco_reference.to_results(predictions)
    metrics = metrics_of(*written(tmp_path, document, results), "ap10k")
    reference = coco_reference.run(document, results, load_skeleton("ap10k17").oks_sigmas)
    assert [metrics[name] for name in coco_reference.NAMES] == pytest.approx(reference.stats.tolist(), **CLOSE)


def test_an_annotation_of_id_0_has_pycocotools_figure_beside_ours(tmp_path):
    truth, predictions = random_case(1, num_images=30, noise=0.01)
    document, results = coco_reference.to_coco(truth), coco_reference.to_results(predictions)
    found = [a for a in document["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    answered = {result["image_id"] for result in results}
    zero = next(a for a in found if a["image_id"] in answered)
    zero["id"] = 0
    flat = np.array(zero["keypoints"], float).reshape(-1, 3)
    own = next(result for result in results if result["image_id"] == zero["image_id"])
    own |= {"keypoints": np.column_stack([flat[:, :2], np.ones(len(flat))]).ravel().tolist(), "score": 2.0}
    scored = score(task_of_file(*written(tmp_path, document, results)[:1], "coco"), tmp_path / "results.json", None)
    metrics = scored.score.metrics
    reference = coco_reference.run(document, results, COCO_SIGMAS)
    theirs = [metrics.get(f"pycocotools/{name}", metrics[name]) for name in coco_reference.NAMES]
    assert theirs == pytest.approx(reference.stats.tolist(), **CLOSE)
    assert metrics["pycocotools/AR"] < metrics["AR"]
    assert any("id 0" in remark for remark in scored.score.remarks)


@pytest.mark.parametrize("by_part", [True, False])
def test_wholebody_equals_the_protocol_on_arrays_from_the_published_fields(tmp_path, by_part):
    truth, predictions = random_case(3, num_keypoints=133, num_images=12, noise=0.01)
    document, results = coco_reference.to_coco(truth), coco_reference.to_results(predictions)
    for annotation in document["annotations"]:
        split_into_parts(annotation)
    if by_part:
        for number, result in enumerate(results):
            split_into_parts(result)
            result |= {f"{part}_score": ((number * 7 + place) % 11) / 11 for place, part in enumerate(PART_NAMES)}
        predictions = replace(
            predictions,
            part_scores={part: np.array([result[f"{part}_score"] for result in results]) for part in PART_NAMES},
        )
    metrics = metrics_of(*written(tmp_path, document, results), "wholebody")
    expected = evaluate(
        EvaluationDefinition(protocol="wholebody"), load_skeleton("coco_wholebody133"), truth, predictions
    )
    assert len(expected) == 70
    assert {name: metrics[name] for name in expected} == expected


PART_NAMES = ("wholebody", "foot", "face", "lefthand", "righthand")


def split_into_parts(entry: dict) -> None:
    flat, start = entry["keypoints"], 17 * 3
    entry["keypoints"] = flat[:start]
    for field, count in PARTS.items():
        entry[field] = flat[start : start + 3 * count]
        start += 3 * count


def test_crowdpose_equals_the_protocol_on_arrays(tmp_path):
    truth, predictions = random_case(2, num_keypoints=14, num_images=40, noise=0.02)
    truth = replace(truth, num_keypoints=(truth.visibility[:, :12] > 0).sum(axis=1))
    document, results = coco_reference.to_coco(truth), coco_reference.to_results(predictions)
    for image, value in zip(document["images"], truth.crowd_index.tolist(), strict=True):
        image["crowdIndex"] = value
    for annotation in document["annotations"]:
        del annotation["area"]  # CrowdPose has none
    metrics = metrics_of(*written(tmp_path, document, results), "crowdpose")
    expected = evaluate(EvaluationDefinition(protocol="crowdpose"), load_skeleton("crowdpose14"), truth, predictions)
    assert {name: metrics[name] for name in expected} == expected
    assert 0 < expected["AP_easy"] < 1


def test_aic_equals_the_protocol_on_arrays_and_passes_over_unknown_pictures(tmp_path):
    truth, predictions = random_case(4, num_keypoints=14, num_images=20, noise=0.005)
    native = [{"image_id": name, "keypoint_annotations": {}, "human_annotations": {}} for name in truth.image_ids]
    for row, image in enumerate(truth.image_row.tolist()):
        flags = np.array([3, 2, 1])[truth.visibility[row]]
        x, y, w, h = truth.bbox_xywh[row].tolist()
        native[image]["keypoint_annotations"][f"human{row}"] = (
            np.column_stack([truth.keypoints[row], flags]).ravel().tolist()
        )
        native[image]["human_annotations"][f"human{row}"] = [x, y, x + w, y + h]
    results = [{"image_id": name, "keypoint_annotations": {}} for name in truth.image_ids]
    for row, image in enumerate(predictions.image_row.tolist()):
        flat = np.column_stack([predictions.keypoints[row], np.ones(14)]).ravel().tolist()
        results[image]["keypoint_annotations"][f"human{row}"] = flat
    results.append({"image_id": "nowhere", "keypoint_annotations": {"human1": [1.0] * 42}})
    scored = score(task_of_file(*written(tmp_path, native, results)[:1], "aic"), tmp_path / "results.json", None)
    expected = evaluate(EvaluationDefinition(protocol="aic"), load_skeleton("aic14"), truth, predictions)
    assert {name: scored.score.metrics[name] for name in expected} == pytest.approx(expected, **CLOSE)
    assert scored.score.counts["results on nothing that is annotated"] == 1


# --- MPII -----------------------------------------------------------------------------------------------------------


def mpii_files(folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    points = rng.uniform(1, 900, (16, 2, 60))
    corner = rng.uniform(1, 900, (2, 60))
    values = {
        "pos_gt_src": points,
        "jnt_missing": (rng.random((16, 60)) < 0.2).astype(np.uint8),
        "headboxes_src": np.stack([corner, corner + rng.uniform(20, 90, (2, 60))]),
    }
    scipy.io.savemat(folder / "gt.mat", values)
    preds = points.transpose(2, 0, 1) + rng.normal(0, 15, (60, 16, 2))
    preds[7, 3] = np.nan
    return values, preds


def official_pckh(values: dict[str, np.ndarray], preds: np.ndarray) -> float:
    """The joint-weighted mean without pelvis and thorax, in percent, written from the rule and not from the code."""
    hits = total = 0
    for person in range(preds.shape[0]):
        (x1, y1), (x2, y2) = values["headboxes_src"][:, :, person]
        limit = 0.5 * 0.6 * np.sqrt((x2 - x1) ** 2 + (y2 - y1) ** 2)
        for joint in set(range(16)) - {6, 7}:
            if not values["jnt_missing"][joint, person]:
                dx, dy = preds[person, joint] - values["pos_gt_src"][joint, :, person]
                hits += np.sqrt(dx**2 + dy**2) <= limit
                total += 1
    return 100 * hits / total


@pytest.mark.parametrize("form", ["mat", "h5", "json", "transposed"])
def test_mpii_equals_the_official_rule_from_every_form_of_results(tmp_path, form):
    values, preds = mpii_files(tmp_path)
    path = tmp_path / f"preds.{'mat' if form == 'transposed' else form}"
    if form == "mat":
        scipy.io.savemat(path, {"preds": preds})
    elif form == "transposed":
        scipy.io.savemat(path, {"pos_pred_src": preds.transpose(1, 2, 0)})
    elif form == "h5":
        with h5py.File(path, "w") as file:
            file["preds"] = preds
    else:
        preds[7, 3] = -900.0  # JSON has no NaN
        path.write_text(json.dumps(preds.tolist()))
    metrics = metrics_of(tmp_path / "gt.mat", path, "mpii")
    assert metrics["PCKh"] == pytest.approx(official_pckh(values, preds), **CLOSE)
    assert 60 < metrics["PCKh"] < 99


# --- PoseTrack ------------------------------------------------------------------------------------------------------


def posetrack_case(seed: int) -> tuple[GroundTruth, Predictions]:
    truth, predictions = random_case(seed, num_images=12, noise=0.03)
    boxes = truth.bbox_xywh
    heads = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] / 3])
    return replace(truth, head_bbox_xyxy=heads, is_crowd=np.zeros(len(truth), bool)), predictions


def precision_of_joint(truth: GroundTruth, predictions: Predictions, joint: int) -> float:
    """PoseTrack's rule for one joint, a frame and a pose at a time."""
    ranked, total = [], 0
    for image in range(len(truth.image_ids)):
        annotated = np.flatnonzero(truth.image_row == image)
        poses = [p for p in annotated if (truth.visibility[p] > 0).any()]
        total += sum(truth.visibility[pose, joint] > 0 for pose in poses)
        answers = np.flatnonzero(predictions.image_row == image)
        if not len(annotated):
            continue
        share = np.zeros((len(answers), len(poses)))
        near = np.zeros((len(answers), len(poses), 17), bool)
        for a, answer in enumerate(answers):
            for p, pose in enumerate(poses):
                x1, y1, x2, y2 = truth.head_bbox_xyxy[pose]
                distance = np.linalg.norm(predictions.keypoints[answer] - truth.keypoints[pose], axis=1)
                labelled = truth.visibility[pose] > 0
                near[a, p] = (distance <= 0.5 * 0.6 * np.hypot(x2 - x1, y2 - y1)) & labelled
                share[a, p] = near[a, p].sum() / labelled.sum()
        owner = {}
        for p in range(len(poses)):
            chose = [a for a in range(len(answers)) if share[a].argmax() == p and share[a, p] > 0]
            if chose:
                owner[max(chose, key=lambda a: (share[a, p], -a))] = p
        for a, answer in enumerate(answers):
            right = bool(poses) and a in owner and near[a, owner[a], joint]
            ranked.append((predictions.keypoint_scores[answer, joint], right))
    ranked.sort(key=lambda item: -item[0])
    precision, recall, hits = [], [], 0
    for number, (_, right) in enumerate(ranked, start=1):
        hits += right
        precision.append(hits / number)
        recall.append(hits / total)
    return 100 * sum(
        max(precision[place:]) * (recall[place] - (recall[place - 1] if place else 0)) for place in range(len(ranked))
    )


def test_posetrack_equals_poseval(tmp_path):
    """leonid-pishchulin/poseval @ 4258a15, evaluateAP of the same files; 15 joints, as ears are never labelled."""
    truth, submitted = posetrack_case_files.write(tmp_path)
    official = json.loads((Path(__file__).parent / "references" / "poseval.json").read_text())
    scored = score(task_of_file(truth, "posetrack-like"), submitted, None).score
    ours = {name.removeprefix("AP/"): value for name, value in scored.metrics.items()}
    ours = {{"head_bottom": "neck", "mAP": "total"}.get(name, name): value for name, value in ours.items()}
    assert ours == pytest.approx(official, abs=1e-9)
    assert len(official) == 16
    assert scored.counts["results"] > scored.counts["results on nothing that is annotated"] > 0


def test_posetrack_s_files_may_be_one(tmp_path):
    """Sequences merged into one file, and the submission as a COCO results list: the same to the last digit."""
    truth, submitted = posetrack_case_files.write(tmp_path)
    whole, results = {"images": [], "annotations": [], "categories": []}, []
    for path in sorted(truth.glob("*.json")):
        document = json.loads(path.read_text())
        whole["images"] += document["images"]
        whole["annotations"] += document["annotations"]
        whole["categories"] = document["categories"]
        for body in json.loads((submitted / path.name).read_text())["annotations"]:
            points = np.array(body["keypoints"]).reshape(-1, 3)
            points[:, 2] = body["scores"]
            results.append({"image_id": body["image_id"], "keypoints": points.ravel().tolist(), "score": 0.5})
    metrics = metrics_of(*written(tmp_path, whole, results), "posetrack-like")
    assert metrics == metrics_of(truth, submitted, "posetrack-like")


@pytest.mark.parametrize("change", [{"scores": None}, {"keypoints": [1, 2]}, {"image_id": None}])
def test_what_is_no_submission_of_posetrack_is_refused(tmp_path, change):
    truth, submitted = posetrack_case_files.write(tmp_path)
    path = submitted / "000342_mpii_test.json"
    document = json.loads(path.read_text())
    document["annotations"][0] = {k: v for k, v in (document["annotations"][0] | change).items() if v is not None}
    path.write_text(json.dumps(document))
    with pytest.raises(EvaluationError, match=r"000342_mpii_test\.json is no submission of PoseTrack"):
        metrics_of(truth, submitted, "posetrack-like")


@pytest.mark.parametrize("seed", range(3))
def test_posetrack_equals_its_rule_pose_by_pose(tmp_path, seed):
    truth, predictions = posetrack_case(seed)
    document, results = coco_reference.to_coco(truth), coco_reference.to_results(predictions)
    names = load_skeleton("coco17").names
    document["categories"] = [{"id": 1, "name": "person", "keypoints": list(names)}]
    for annotation, (x1, y1, x2, y2) in zip(document["annotations"], truth.head_bbox_xyxy.tolist(), strict=True):
        annotation["bbox_head"] = [x1, y1, x2 - x1, y2 - y1]
    metrics = metrics_of(*written(tmp_path, document, results), "posetrack-like")
    expected = [precision_of_joint(truth, predictions, joint) for joint in range(17)]
    assert [metrics[f"AP/{name}"] for name in names] == pytest.approx(expected, abs=1e-7)
    assert metrics["mAP"] == pytest.approx(np.mean(expected), abs=1e-7)
    assert 5 < metrics["mAP"] < 99

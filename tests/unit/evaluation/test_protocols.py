from dataclasses import fields, replace

import numpy as np
import pytest

from posecore.datasets.definition import EvaluationDefinition
from posecore.errors import ConfigError, EvaluationError
from posecore.evaluation.protocols import BUILT_IN, GUESSED, evaluate, of_resamples
from posecore.skeletons.library import load_skeleton
from tests.support.random_poses import paired_case, random_case

SKELETONS = {
    "oks": "coco17",
    "oks_per_category": "ap10k17",
    "wholebody": "coco_wholebody133",
    "crowdpose": "crowdpose14",
    "aic": "aic14",
    "pckh": "mpii16",
    "torso": "coco17",
    "pck": "animalpose20",
    "pixel": "coco17",
}


@pytest.mark.parametrize("protocol", BUILT_IN)
def test_every_protocol_returns_its_primary_metric_under_names_mlflow_takes(protocol):
    skeleton = load_skeleton(SKELETONS[protocol])
    truth, predictions = paired_case(1, num_keypoints=skeleton.num_keypoints)
    metrics = evaluate(EvaluationDefinition(protocol=protocol), skeleton, truth, predictions)
    assert BUILT_IN[protocol].primary in metrics
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./ ")
    assert all(set(name) <= allowed for name in metrics)
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("protocol", BUILT_IN)
def test_better_predictions_score_better(protocol):
    skeleton = load_skeleton(SKELETONS[protocol])
    truth, predictions = paired_case(1, num_keypoints=skeleton.num_keypoints)
    exact = truth.keypoints[predictions.instance_row]
    nearer = replace(predictions, keypoints=exact + (predictions.keypoints - exact) * 0.3)
    definition, primary = EvaluationDefinition(protocol=protocol), BUILT_IN[protocol].primary
    before, after = (evaluate(definition, skeleton, truth, p)[primary] for p in (predictions, nearer))
    assert (after > before) == BUILT_IN[protocol].higher_is_better
    assert after != before


@pytest.mark.parametrize("protocol", [name for name, spec in BUILT_IN.items() if spec.divides_by_oks])
def test_a_resample_is_judged_as_a_set_that_has_its_pictures_as_often(protocol):
    skeleton = load_skeleton(SKELETONS[protocol])
    truth, predictions = random_case(3, num_images=8, num_keypoints=skeleton.num_keypoints, noise=0.04)
    definition = EvaluationDefinition(protocol=protocol)
    measure = of_resamples(definition, skeleton, truth, predictions)
    order = np.argsort(truth.image_rank)  # by which equal scores are ranked
    # A detection's copies have one score: one step of the ranking here, several where they are on other pictures.
    for counts, near in (((1, 0, 1, 1, 1, 0, 1, 1), 1e-9), ((1, 0, 3, 1, 2, 0, 1, 1), 5e-3)):
        times = np.array(counts)
        drawn, seen = _drawn(truth, predictions, np.repeat(order, times[order]))
        expected = evaluate(definition, skeleton, drawn, seen)
        of_draw = measure(times.astype(np.float64))
        assert of_draw == pytest.approx({name: expected[name] for name in of_draw}, abs=near)
        assert 0 < of_draw[BUILT_IN[protocol].primary] < 1


def _drawn(truth, predictions, copies):
    """The set of some images, some more than once, each copy an image of its own."""
    rows = [np.flatnonzero(truth.image_row == image) for image in copies]
    answers = [np.flatnonzero(predictions.image_row == image) for image in copies]
    ids = tuple(f"{number}" for number in range(len(copies)))
    numbers, whole, of_image = np.arange(len(copies)), np.concatenate(rows), ("image_size", "crowd_index")
    arrays = [field.name for field in fields(truth) if isinstance(getattr(truth, field.name), np.ndarray)]
    columns = {name: getattr(truth, name)[copies if name in of_image else whole] for name in arrays}
    columns |= {"image_row": np.repeat(numbers, [len(each) for each in rows])}
    drawn = replace(truth, image_ids=ids, instance_ids=tuple(f"b{number}" for number in range(len(whole))), **columns)
    of_answers = np.repeat(numbers, [len(each) for each in answers])
    seen = replace(predictions.take(np.concatenate(answers)), image_ids=ids, image_row=of_answers)
    return drawn, seen


def test_per_category_means_over_species_and_the_collapsed_class_differs():
    skeleton = load_skeleton("ap10k17")
    truth, predictions = random_case(4, num_images=60, num_categories=5, noise=0.03)
    apart = evaluate(EvaluationDefinition(protocol="oks_per_category"), skeleton, truth, predictions)
    together = evaluate(EvaluationDefinition(protocol="oks"), skeleton, truth, predictions)
    species = [value for name, value in apart.items() if name.startswith("AP/category_")]
    assert len(species) == 5
    assert apart["AP"] == pytest.approx(np.mean(species))
    assert apart["AP"] != together["AP"]


def test_what_nothing_of_a_split_is_judged_by_is_left_out():
    skeleton, definition = load_skeleton("coco17"), EvaluationDefinition(protocol="oks")
    truth, predictions = paired_case(1, num_keypoints=17)
    small = evaluate(definition, skeleton, replace(truth, area=np.full(len(truth), 40.0**2)), predictions)
    assert {"AP", "APM"} < set(small)
    assert not {"APL", "ARL"} & set(small)
    nobody = replace(truth, num_keypoints=np.zeros_like(truth.num_keypoints))
    assert evaluate(definition, skeleton, nobody, predictions) == {"AP": -1.0}


def test_a_score_made_with_guessed_constants_says_so():
    skeleton = load_skeleton("coco17")
    first, *others = skeleton.keypoints
    guessed = skeleton.model_copy(update={"keypoints": (first.model_copy(update={"oks_guessed": True}), *others)})
    truth, predictions = paired_case(1, num_keypoints=17)
    known = evaluate(EvaluationDefinition(protocol="oks"), skeleton, truth, predictions)
    assert evaluate(EvaluationDefinition(protocol="oks"), guessed, truth, predictions) == {**known, GUESSED: 1.0}
    assert GUESSED not in evaluate(EvaluationDefinition(protocol="pck"), guessed, truth, predictions)
    assert guessed.model_dump()["keypoints"][0].pop("oks_guessed")
    assert "oks_guessed" not in skeleton.model_dump()["keypoints"][0]  # digests of older definitions stay


def test_the_scale_rule_of_the_definition_decides_what_oks_divides_by():
    skeleton = load_skeleton("coco17")
    truth, predictions = paired_case(2, num_keypoints=17)
    truth = replace(truth, area=np.full(len(truth), 2443298.4756))  # SyRIP validate500's constant
    inflated = evaluate(EvaluationDefinition(), skeleton, truth, predictions)["AP"]
    sane = evaluate(EvaluationDefinition(scale_rule="box"), skeleton, truth, predictions)["AP"]
    assert inflated > 0.8
    assert sane < inflated - 0.2


def test_unknown_options_are_named():
    truth, predictions = paired_case(2, num_keypoints=17)
    definition = EvaluationDefinition(protocol="pck", options={"threshold": 0.1})
    with pytest.raises(ConfigError, match="protocol pck has no option threshold; it has thresholds, normalise_by"):
        evaluate(definition, load_skeleton("coco17"), truth, predictions)


def test_data_that_lacks_what_a_protocol_needs_is_refused():
    truth, predictions = paired_case(2, num_keypoints=17)
    coco = load_skeleton("coco17")

    def judge(protocol, skeleton=coco, truth=truth, predictions=predictions, **options):
        evaluate(EvaluationDefinition(protocol=protocol, options=options), skeleton, truth, predictions)

    with pytest.raises(EvaluationError, match="no labelled instance has a head box"):
        judge("pckh", truth=replace(truth, head_bbox_xyxy=np.full((len(truth), 4), np.nan)))
    with pytest.raises(EvaluationError, match="has no crowdIndex"):
        judge("crowdpose", truth=replace(truth, crowd_index=np.full(len(truth.image_ids), np.nan)))
    first = coco.keypoints[0].model_copy(update={"oks_sigma": None})
    bare = type(coco)(name="bare", keypoints=(first, *coco.keypoints[1:]))
    with pytest.raises(EvaluationError, match="points without an OKS constant"):
        judge("oks", skeleton=bare)
    with pytest.raises(EvaluationError, match="has no keypoint throat"):
        judge("torso", neck=["throat"])
    with pytest.raises(EvaluationError, match="no torso length is known"):
        judge("torso", truth=replace(truth, visibility=np.where(np.arange(17) == 5, 0, truth.visibility)))
    with pytest.raises(EvaluationError, match="image size, which"):
        judge("pck", truth=replace(truth, image_size=truth.image_size * 0), normalise_by="image")
    with pytest.raises(EvaluationError, match="no point is labelled"):
        judge("pixel", truth=replace(truth, visibility=truth.visibility * 0))
    with pytest.raises(EvaluationError, match="not exactly one: 3 of 49 labelled instances"):
        judge("pixel", predictions=predictions.take(np.arange(len(predictions)) > 3))

"""Augmentation: distributions of the published pipeline, and when half body applies."""

import numpy as np
import pytest
from scipy.stats import kstest, truncnorm, uniform

from posecore.config import parse_config
from posecore.errors import ConfigError
from posecore.loading.augment import (
    AugmentConfig,
    Region,
    RegionDraws,
    augment_regions,
    center_jitter,
    mirrored_only,
)
from posecore.skeletons.library import load_skeleton

COCO = load_skeleton("coco17")
PADDED = np.array([75.0, 40.0])
REGION = Region(np.array([50.0, 60.0]), np.array([75.0, 100.0]))
OFF = {"flip_probability": 0, "half_body_probability": 0, "scale_factor": 0, "rotation_probability": 0}
RECORDED = np.array(
    [
        [56.68718201463873, 37.855002625422046, 147.86996403190153, 197.1599520425354, 52.16000180520549, 0],
        [50.0, 60.0, 91.73904646365042, 122.31872861820057, -21.478129414411406, 0],
        [63.2050773302714, 62.87619082132975, 193.97552132606506, 258.6340284347534, 0, 1],
        [56.68718201463873, 37.855002625422046, 111.72939355703917, 148.97252474271892, 0, 1],
    ]
)
"""Center, scale, rotation and flip under seeds 0 to 3."""
POINTS = np.random.default_rng(0).uniform(0, 100, (17, 2)).astype(np.float32)


def augmented(config, seed=0, labelled=None, minimum=8, points=POINTS, skeleton=COCO, shift=None):
    labelled = np.ones(len(points), bool) if labelled is None else labelled
    config = AugmentConfig(**config)
    draws = RegionDraws.of([np.random.default_rng(seed)], 1)
    batch = Region(REGION.center[None], REGION.scale[None])
    shift = None if shift is None else shift[None]
    region = augment_regions(
        batch, PADDED[None], points[None], labelled[None], skeleton, minimum, 0.75, config, draws, shift
    )
    return Region(region.center[0], region.scale[0], float(region.rotation[0]), bool(region.flipped[0]))


def test_everything_off_changes_nothing():
    region = augmented(OFF)
    np.testing.assert_array_equal(region.center, REGION.center)
    np.testing.assert_array_equal(region.scale, REGION.scale)
    assert (region.rotation, region.flipped) == (0.0, False)


def test_the_published_distributions():
    regions = [augmented({"half_body_probability": 0}, seed) for seed in range(4000)]
    factors = np.array([region.scale[0] / 75 for region in regions])
    angles = np.array([region.rotation for region in regions])
    assert np.mean([region.flipped for region in regions]) == pytest.approx(0.5, abs=0.03)
    assert (factors.min(), factors.max()) == (0.5, 1.5)
    assert np.mean(factors == 0.5) == pytest.approx(0.159, abs=0.02)  # P(N < -1): clipped, not drawn again
    assert np.mean(angles == 0) == pytest.approx(0.4, abs=0.03)
    assert np.abs(angles).max() == 80.0
    assert np.std(angles[angles != 0]) == pytest.approx(38.4, abs=1.5)  # N(0, 40) clipped at two sigmas


def test_truncated_distributions_as_rtmpose_and_sapiens_have_them():
    """``scipy.stats.truncnorm(-1, 1)`` times 80 degrees in 60 % of the crops, and times 0.4 around 1."""
    config = {"half_body_probability": 0, "scale_factor": 0.4, "scale_distribution": "truncated"}
    config |= {"rotation_distribution": "truncated", "rotation_degrees": 80}
    regions = [augmented(config, seed) for seed in range(4000)]
    factors = (np.array([region.scale[0] / 75 for region in regions]) - 1) / 0.4
    angles = np.array([region.rotation / 80 for region in regions])
    assert np.mean(angles == 0) == pytest.approx(0.4, abs=0.03)
    for values in (factors, angles[angles != 0]):
        assert kstest(values, truncnorm(-1, 1).cdf).pvalue > 0.01


def test_infants_turn_in_every_direction():
    config = {"rotation_distribution": "uniform", "rotation_degrees": 180, "rotation_probability": 1}
    angles = np.array([augmented(config, seed).rotation for seed in range(2000)])
    counts, _ = np.histogram(angles, bins=8, range=(-180, 180))
    assert counts.sum() == 2000
    assert counts.min() > 200


def test_half_body_takes_the_extent_of_one_half_with_its_own_padding():
    config = OFF | {"half_body_probability": 1}
    upper = list(range(11))
    lower = [i for i in range(17) if i not in upper]
    expected = {}
    for name, half in (("upper", upper), ("lower", lower)):
        extent = np.ptp(POINTS[half].astype(float), axis=0)
        width = max(extent[0], 0.75 * extent[1]) * 1.5
        expected[name] = (*POINTS[half].mean(axis=0, dtype=float), width, width / 0.75)
    seen = [
        next(name for name, value in expected.items() if np.allclose((*region.center, *region.scale), value, rtol=1e-6))
        for region in (augmented(config, seed) for seed in range(1000))
    ]
    assert seen.count("upper") / 1000 == pytest.approx(0.691, abs=0.04)


@pytest.mark.parametrize(("count", "applies"), [(8, False), (9, True)])
def test_half_body_needs_more_labelled_points_than_the_threshold(count, applies):
    labelled = np.arange(17) < count
    region = augmented(OFF | {"half_body_probability": 1}, labelled=labelled)
    assert np.array_equal(region.center, REGION.center) != applies


def test_half_body_is_off_for_datasets_without_a_threshold():
    region = augmented(OFF | {"half_body_probability": 1}, minimum=None)
    np.testing.assert_array_equal(region.center, REGION.center)


@pytest.mark.parametrize("seed", range(5))
def test_half_body_takes_the_upper_half_when_the_lower_has_two_points(seed):
    upper = list(range(11))
    labelled = np.isin(np.arange(17), [*upper, 13, 14])
    region = augmented(OFF | {"half_body_probability": 1}, seed, labelled=labelled)
    np.testing.assert_allclose(region.center, POINTS[upper].mean(axis=0, dtype=float))


def test_half_body_ignores_points_in_one_place():
    region = augmented(OFF | {"half_body_probability": 1}, points=np.full((17, 2), 5, np.float32))
    np.testing.assert_array_equal(region.scale, REGION.scale)


WHOLEBODY = load_skeleton("coco_wholebody133")


def mmpose_halves(labelled, upper, lower):
    """mmpose 1's ``RandomHalfBody`` restated: the points of either half by choice, or of the only one."""
    upper, lower = [i for i in upper if labelled[i]], [i for i in lower if labelled[i]]
    if labelled.sum() < 9 or (len(upper) < 2 and len(lower) < 3):
        return []
    if len(lower) < 3:
        return [upper]
    return [lower] if len(upper) < 2 else [upper, lower]


@pytest.mark.parametrize("name", ["coco17", "coco_wholebody133", "goliath308"])
def test_half_bodies_of_mmpose_leave_out_what_is_of_no_half(name):
    skeleton = load_skeleton(name)
    legs = range(11, 23) if name != "goliath308" else range(9, 21)
    lower = [i for i in legs if i < skeleton.num_keypoints]
    upper = [*range(11)] if name != "goliath308" else [*range(9), *range(21, 63)]
    random = np.random.default_rng(1)
    points = random.uniform(0, 100, (skeleton.num_keypoints, 2)).astype(np.float32)
    chosen = []
    for seed in range(400):
        labelled = random.random(skeleton.num_keypoints) < random.choice([0.15, 0.5, 1.0])
        config = OFF | {"half_body_probability": 1, "half_body_rule": "mmpose"}
        region = augmented(config, seed, labelled, points=points, skeleton=skeleton)
        halves = mmpose_halves(labelled, upper, lower)
        if not halves:
            np.testing.assert_array_equal(region.center, REGION.center)
            continue
        centers = [points[half].mean(axis=0, dtype=np.float64) for half in halves]
        (which,) = (i for i, center in enumerate(centers) if np.allclose(center, region.center))
        extent = np.ptp(points[halves[which]].astype(np.float64), axis=0) * 1.5
        np.testing.assert_allclose(region.scale[0], max(extent[0], 0.75 * extent[1]))
        if len(halves) == 2:
            chosen.append(which == 0)
    assert len(chosen) > 150
    assert np.mean(chosen) == pytest.approx(0.7, abs=0.08)


def test_half_bodies_of_vitpose_count_face_and_hands_as_lower():
    """So that a lower half may be as tall as the body; mmpose's is legs and feet."""
    points = np.random.default_rng(2).uniform(0, 60, (133, 2)).astype(np.float32)
    points[11:23] += 100  # legs and feet
    halves = {"vitpose": [*range(11, 133)], "mmpose": [*range(11, 23)]}
    for rule, lower in halves.items():
        config = OFF | {"half_body_probability": 1, "half_body_rule": rule}
        regions = [augmented(config, seed, points=points, skeleton=WHOLEBODY) for seed in range(40)]
        centers = [points[half].mean(axis=0, dtype=np.float64) for half in (range(11), lower)]
        for region in regions:
            assert any(np.allclose(region.center, center) for center in centers)
        assert any(np.allclose(region.center, centers[1]) for region in regions)


@pytest.mark.parametrize(("rule", "moves"), [("vitpose", False), ("mmpose", True)])
def test_two_upper_points_are_a_half_by_choice_for_mmpose_alone(rule, moves):
    labelled = np.isin(np.arange(17), [0, 1, *range(11, 17)])
    config = OFF | {"half_body_probability": 1, "half_body_rule": rule}
    regions = [augmented(config, seed, labelled, minimum=7) for seed in range(60)]
    upper = POINTS[:2].mean(axis=0, dtype=np.float64)
    assert any(np.allclose(region.center, upper) for region in regions) == moves


def test_center_jitter_moves_a_share_of_the_centres_within_a_fifth_of_the_box():
    moves = center_jitter(np.random.default_rng(0).random((3000, 3)), AugmentConfig())
    moved = moves.any(axis=1)
    assert moved.mean() == pytest.approx(0.3, abs=0.03)
    assert np.abs(moves).max(axis=0) == pytest.approx(0.2, abs=0.005)
    assert kstest(moves[moved].ravel(), uniform(-0.2, 0.4).cdf).pvalue > 0.01


def test_mmpose_moves_what_is_cropped_by_a_truncated_normal_share_of_its_padded_size():
    """``scipy.stats.truncnorm(-1, 1)`` times 0.16 of the width and of the height, in 30 % of the samples."""
    config = AugmentConfig.model_validate("mmpose")
    moves = center_jitter(np.random.default_rng(0).random((4000, 3)), config)
    moved = moves.any(axis=1)
    assert moved.mean() == pytest.approx(0.3, abs=0.03)
    for axis in (0, 1):
        assert kstest(moves[moved, axis] / 0.16, truncnorm(-1, 1).cdf).pvalue > 0.01
    assert abs(np.corrcoef(moves[moved].T)[0, 1]) < 0.1

    shift = np.array([0.1, -0.05])
    np.testing.assert_allclose(augmented(OFF, shift=shift).center, REGION.center + np.array([7.5, -2.0]))
    half = augmented(OFF | {"half_body_probability": 1}, shift=shift)
    extent = np.ptp(POINTS[:11].astype(np.float64), axis=0) * 1.5
    np.testing.assert_allclose(half.center, POINTS[:11].mean(axis=0, dtype=np.float64) + shift * extent)


def test_changing_one_probability_leaves_the_other_changes_alone():
    for seed in range(20):
        plain, mirrored = augmented({}, seed), augmented({"flip_probability": 1}, seed)
        assert mirrored.flipped
        assert (plain.rotation, plain.scale.tolist()) == (mirrored.rotation, mirrored.scale.tolist())


def test_the_draws_are_those_of_earlier_runs():
    """Regions as they were drawn before blankets and cameras existed: a recorded run must stay what it was."""
    regions = [augmented({}, seed) for seed in range(4)]
    found = [(*region.center, *region.scale, region.rotation, region.flipped) for region in regions]
    np.testing.assert_allclose(np.array(found, float), RECORDED, rtol=1e-12)


def test_infants_lie_as_the_data_say():
    """Of upright bodies at least 54 % must end up more than 45° from upright and 20 % more than 90°, as in SyRIP."""
    angles = np.abs([augmented({"preset": "infant"}, seed).rotation for seed in range(4000)])
    assert (angles > 45).mean() == pytest.approx(0.5625, abs=0.02)
    assert (angles > 90).mean() == pytest.approx(0.375, abs=0.02)


def test_a_preset_is_named_alone_or_with_changes():
    infant = AugmentConfig.model_validate("infant")
    assert infant == AugmentConfig.model_validate({"preset": "infant"})
    assert (infant.rotation_degrees, infant.rotation_distribution, infant.blanket_probability) == (180, "uniform", 0.5)
    changed = AugmentConfig.model_validate({"preset": "infant", "flip_probability": 0})
    assert changed == infant.model_copy(update={"flip_probability": 0})
    assert AugmentConfig.model_validate("published") == AugmentConfig()
    assert AugmentConfig.model_validate(infant.model_dump()) == infant


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "infants"}, r"augment: .*is called 'infants'\. Did you mean infant\? There are published, mmpose"),
        ({"preset": "infant", "blanket": 1}, "augment: blanket: Extra inputs"),
        (
            {"preset": "mmpose", "center_jitter": "per_run"},
            "augment: .*truncated is drawn after the half body .* set center_jitter to per_sample",
        ),
        ({"blanket_least_cover": 0.8}, "augment: .*blanket_least_cover 0.8 is more than blanket_most_cover 0.7"),
    ],
)
def test_wrong_augmentations_are_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(values, AugmentConfig, "augment")


@pytest.mark.parametrize("preset", [{}, {"preset": "mmpose"}, {"preset": "infant"}])
def test_a_region_is_the_same_to_the_last_bit_in_any_batch(preset):
    config = AugmentConfig.model_validate(preset | {"half_body_probability": 0.8})
    random = np.random.default_rng(4)
    count = 200
    points = random.uniform(0, 100, (count, 17, 2)).astype(np.float32)
    labelled = random.random((count, 17)) < random.random((count, 1))
    box = random.uniform(10, 90, (count, 2))
    shift = random.uniform(-0.1, 0.1, (count, 2))

    def regions(some):
        draws = RegionDraws.of([np.random.default_rng(seed) for seed in range(count)[some]], len(box[some]))
        batch = Region(box[some], box[some] * 1.25)
        return augment_regions(
            batch, box[some] * 1.2, points[some], labelled[some], COCO, 5, 0.75, config, draws, shift[some]
        )

    together = regions(slice(None))
    for place in range(count):
        alone = regions(slice(place, place + 1))
        for name in ("center", "scale", "rotation", "flipped"):
            assert getattr(alone, name).tobytes() == getattr(together, name)[place : place + 1].tobytes()
    assert len(regions(slice(0, 0)).center) == 0


def test_a_setting_displaces_or_paints_as_soon_as_it_is_more_than_none():
    still = mirrored_only(0.5)
    assert (still.displacing, still.paints) == ((), False)
    jitter = {"center_jitter": "per_sample", "center_jitter_probability": 0.1, "center_jitter_extent": 0.1}
    turning = {"rotation_probability": 0.1, "rotation_degrees": 5}
    alone = {
        "half_body_probability": ({"half_body_probability": 0.01}, False),
        "scale_factor": ({"scale_factor": 0.01}, False),
        "rotation_probability": (turning, False),
        "center_jitter": (jitter, False),
        "appearance": ({"appearance": {}}, True),
        "blanket_probability": ({"blanket_probability": 0.01}, True),
        "infrared_probability": ({"infrared_probability": 0.01}, True),
        "grey_probability": ({"grey_probability": 0.01}, True),
    }
    for name, (changes, paints) in alone.items():
        config = AugmentConfig.model_validate(still.model_dump() | changes)
        assert (config.displacing, config.paints) == ((name,), paints)
    together = {key: value for changes, _ in alone.values() for key, value in changes.items()}
    assert AugmentConfig.model_validate(still.model_dump() | together).displacing == tuple(alone)
    for changes, off in ((turning, "rotation_probability"), (turning, "rotation_degrees"),
                         (jitter, "center_jitter_probability"), (jitter, "center_jitter_extent")):  # fmt: skip
        assert AugmentConfig.model_validate(still.model_dump() | changes | {off: 0}).displacing == ()

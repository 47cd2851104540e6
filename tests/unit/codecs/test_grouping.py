"""Bodies from maps: against a slow reading of the published procedure, and pictures whose answer is known."""

import itertools

import numpy as np
import pytest
import torch

from posecore.codecs.grouping import GroupingConfig, find_peaks, from_the_trunk, group_bodies, match_peaks
from posecore.skeletons.library import load_skeleton
from posecore.skeletons.skeleton import Keypoint, Skeleton
from tests.support.tiny_training import tiny_skeleton

EVERY = np.arange(3)
PLAIN = GroupingConfig(refine=False)


def _peak(maps, point, x, y, height=1.0, sigma=1.0):
    """A Gaussian whose middle is at (x, y), the larger value where it meets another."""
    rows, columns = np.mgrid[: maps.shape[1], : maps.shape[2]]
    drawn = height * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    maps[point] = np.maximum(maps[point], drawn)


def _grouped(heatmaps, tags, config=None, order=EVERY):
    as_tensor = torch.from_numpy(np.asarray(heatmaps, np.float32))[None]
    of_pixels = torch.from_numpy(np.asarray(tags, np.float32))
    return group_bodies(as_tensor, of_pixels.reshape(1, -1, *as_tensor.shape[1:]), order, config)[0]


def _scene(bodies, tag_of, size=(40, 60)):
    """Maps of bodies, each K points (x, y) or None, whose tag lies around each point."""
    heatmaps = np.zeros((len(bodies[0]), *size))
    tags = np.zeros_like(heatmaps)
    for body, tag in zip(bodies, tag_of, strict=True):
        for point, place in enumerate(body):
            if place is not None:
                x, y = place
                _peak(heatmaps, point, x, y)
                tags[point, max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = tag
    return heatmaps, tags


def slow(heatmap, tags, order, config):
    """The procedure in loops: local maxima, then point by point the cheapest of all ways to give peaks to bodies.

    Returns:
        Per body, by point the place (x, y) and the height of its peak.
    """
    count, height, width = heatmap.shape
    reach = config.peak_kernel // 2
    peaks = []
    for point in range(count):
        found = []
        for y, x in itertools.product(range(height), range(width)):
            near = heatmap[point, max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            if heatmap[point, y, x] == near.max() and heatmap[point, y, x] > config.peak_threshold:
                found.append((heatmap[point, y, x], x, y, tags[point, y, x]))
        peaks.append(sorted(found, key=lambda peak: -peak[0])[: config.max_bodies])
    bodies = []
    for point in order:
        new = peaks[point]
        means = [np.mean([float(peak[3]) for peak in body.values()]) for body in bodies]
        size = max(len(new), len(bodies))
        best, cheapest = (), np.inf
        for choice in itertools.permutations(range(size), len(new)):
            cost = 0.0
            for peak, body in zip(new, choice, strict=True):
                if body >= len(bodies):
                    cost += 1e7
                    continue
                apart = abs(float(peak[3]) - means[body])
                cost += 100 * round(apart) - float(peak[0]) + 1e-3 * apart
            if cost < cheapest:
                best, cheapest = choice, cost
        known = len(bodies)
        for peak, body in zip(new, best, strict=True):
            if body < known and abs(peak[3] - means[body]) < config.tag_threshold:
                bodies[body][point] = peak
            else:
                bodies.append({point: peak})
    return bodies


@pytest.mark.parametrize("seed", range(12))
def test_bodies_are_those_of_the_slow_procedure(seed):
    """Up to four bodies of three points, tags that overlap now and then, peaks of different heights, some missing."""
    random = np.random.default_rng(seed)
    heatmaps, tags = np.zeros((3, 24, 30)), random.normal(0, 0.05, (3, 24, 30))
    for body in range(random.integers(1, 5)):
        for point in range(3):
            if random.random() < 0.85:
                x, y = int(random.integers(0, 30)), int(random.integers(0, 24))
                _peak(heatmaps, point, x, y, random.uniform(0.3, 1.0))
                tags[point, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] += body * random.uniform(0.7, 1.8)
    heatmaps, tags = heatmaps.astype(np.float32), tags.astype(np.float32)
    order = random.permutation(3)
    expected = slow(heatmaps, tags, order, PLAIN)
    found = _grouped(heatmaps, tags, PLAIN, order)
    assert len(found.scores) == len(expected)
    theirs = sorted(
        (
            tuple((point, int(x), int(y)) for point, (_, x, y, _) in sorted(body.items())),
            sum(p[0] for p in body.values()),
        )
        for body in expected
    )
    rounded = np.trunc(found.keypoints + 0.5).astype(int)  # a quarter pixel away from the peak
    ours = sorted(
        (
            tuple((point, *rounded[row, point]) for point in range(3) if found.keypoint_scores[row, point] > 0),
            float(found.keypoint_scores[row].sum()),
        )
        for row in range(len(found.scores))
    )
    for mine, its in zip(ours, theirs, strict=True):
        assert mine[0] == its[0]
        assert mine[1] == pytest.approx(its[1], rel=1e-5)
    assert (np.diff(found.scores) <= 0).all()


def test_two_bodies_are_told_apart_by_their_tags_alone():
    """The points of one are nearer to the other's than to its own."""
    bodies = [[(10, 10), (40, 10), (10, 30)], [(40, 20), (10, 20), (45, 32)]]
    found = _grouped(*_scene(bodies, (0.0, 5.0)), PLAIN)
    rows = sorted(found.keypoints.round().astype(int).tolist())
    assert rows == sorted([[list(place) for place in body] for body in bodies])
    np.testing.assert_allclose(found.keypoint_scores, 1.0, atol=1e-6)


@pytest.mark.parametrize("refine", [True, False])
def test_a_picture_of_nobody_has_no_bodies(refine):
    found = _grouped(np.full((3, 20, 20), 0.05), np.zeros((3, 20, 20)), GroupingConfig(refine=refine))
    assert found.keypoints.shape == (0, 3, 2)
    assert found.keypoint_scores.shape == (0, 3)
    assert found.scores.shape == (0,)


def test_a_body_of_one_point_is_one():
    found = _grouped(*_scene([[None, (17, 9), None]], (2.0,)), PLAIN)
    assert found.keypoint_scores.tolist() == [[0.0, 1.0, 0.0]]
    assert found.keypoints[0].tolist() == [[0, 0], [17, 9], [0, 0]]
    assert found.scores.tolist() == [pytest.approx(1 / 3)]


def test_a_point_moves_a_quarter_pixel_towards_the_larger_neighbour():
    heatmaps = np.zeros((1, 20, 30))
    _peak(heatmaps, 0, 12.3, 8.6, sigma=1.5)
    found = _grouped(heatmaps, np.zeros_like(heatmaps), order=np.arange(1))
    assert found.keypoints[0, 0].tolist() == [12.25, 8.75]
    heatmaps = np.zeros((1, 20, 30))
    _peak(heatmaps, 0, 0.0, 19.0)  # a corner has no two neighbours
    assert _grouped(heatmaps, np.zeros_like(heatmaps), order=np.arange(1)).keypoints[0, 0].tolist() == [0.0, 19.0]


def test_a_point_below_the_threshold_is_found_by_the_bodys_tag():
    """Two weak places of the third point: the nearer in tag is taken, though it is the lower one."""
    heatmaps, tags = _scene([[(10, 10), (20, 10), None], [(40, 30), (50, 30), (45, 20)]], (0.0, 6.0))
    _peak(heatmaps, 2, 12, 30, height=0.06)
    _peak(heatmaps, 2, 30, 5, height=0.09)
    tags[2] = 6.0
    tags[2, 27:34, 9:16] = 0.2
    found = _grouped(heatmaps, tags)
    rows = sorted(found.keypoints.round().astype(int).tolist())
    assert rows[0] == [[10, 10], [20, 10], [12, 30]]
    assert rows[1][2] == [45, 20]
    assert sorted(found.keypoint_scores[:, 2].tolist()) == pytest.approx([0.06, 1.0])
    # What is found so does not make the body surer.
    assert sorted(found.scores.tolist()) == pytest.approx([2 / 3, 1.0])
    without = _grouped(heatmaps, tags, PLAIN)
    assert sorted(without.keypoint_scores[:, 2].tolist()) == [0.0, 1.0]


def test_the_surest_bodies_stay():
    heatmaps, tags = np.zeros((1, 40, 60)), np.zeros((1, 40, 60))
    for number, height in enumerate((0.5, 0.9, 0.7)):
        _peak(heatmaps, 0, 10 + 20 * number, 20, height)
        tags[0, :, 5 + 20 * number : 15 + 20 * number] = 3.0 * number
    found = _grouped(heatmaps, tags, GroupingConfig(max_bodies=2), np.arange(1))
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])


def test_tags_of_the_mirrored_picture_count_as_well():
    """By the first tag alone both points would be of one body; the second tells them apart."""
    scores = np.ones((2, 1), np.float32)
    tags = np.array([[[0.0, 0.0]], [[0.0, 4.0]]], np.float32)
    assert len(match_peaks(scores, tags[..., :1], np.arange(2), PLAIN)) == 1
    assert len(match_peaks(scores, tags, np.arange(2), PLAIN)) == 2


def test_of_a_plateau_every_pixel_is_a_peak_and_no_more_than_asked_for():
    peaks = find_peaks(torch.ones(1, 1, 5, 5), torch.zeros(1, 1, 1, 5, 5), GroupingConfig(max_bodies=7))
    assert peaks.scores.tolist() == [[[1.0] * 7]]


def test_the_trunk_comes_first():
    skeleton = load_skeleton("coco17")
    order = [skeleton.union_names[point] for point in from_the_trunk(skeleton)]
    assert {name.split("_")[1] for name in order[:4]} <= {"hip", "shoulder"}
    assert {name.split("_")[-1] for name in order[-2:]} <= {"ankle", "wrist"}
    assert from_the_trunk(tiny_skeleton("x", 4)).tolist() == [0, 1, 2, 3]
    line = Skeleton(
        name="line",
        keypoints=tuple(Keypoint(name=name, union=name) for name in "abc"),
        links=(("a", "c"), ("c", "b")),
    )
    assert from_the_trunk(line).tolist() == [2, 0, 1]

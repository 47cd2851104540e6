"""Blankets: where they lie, what they do to states and pixels, and that they move nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posecore.loading.augment import AugmentConfig
from posecore.loading.blanket import _cloth, _outline, draw_blanket
from posecore.schema import KeypointState
from posecore.skeletons.library import load_skeleton

COCO = load_skeleton("coco17")
UNKNOWN, UNLABELLED, OCCLUDED, VISIBLE, ABSENT = (np.uint8(state) for state in KeypointState)
# Standing in a 128x128 crop, head up: face, shoulders, elbows, wrists, hips, knees, ankles.
HEIGHTS = np.array([15, 12, 12, 14, 14, 30, 30, 45, 45, 58, 58, 62, 62, 85, 85, 110, 110])
SIDES = np.array([0, 2, -2, 4, -4, 12, -12, 18, -18, 20, -20, 8, -8, 9, -9, 10, -10])
STANDING = np.stack([64.0 + SIDES, HEIGHTS], axis=1).astype(np.float32)


def covered(points=STANDING, state=None, seed=0, skeleton=COCO, size=(128, 128), **fields):
    """The painted crop (first all 7) and the states after."""
    crop = np.full((*size, 3), 7, np.uint8)  # no cloth is that dark
    state = np.full(len(points), VISIBLE) if state is None else state
    config = AugmentConfig(**{"blanket_probability": 1, **fields})
    return crop, draw_blanket(crop, points, state, skeleton, config, np.random.default_rng(seed))


def turned(points, degrees):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ((points - 64) @ turn.T + 64).astype(np.float32)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 33])
def test_it_lies_over_the_legs_and_not_over_the_head_however_the_body_lies(degrees):
    for seed in range(30):
        crop, state = covered(turned(STANDING, degrees), seed=seed, blanket_least_cover=0.5, blanket_most_cover=0.5)
        assert (state[13:] == OCCLUDED).all()  # knees and ankles
        assert (state[:7] == VISIBLE).all()  # face and shoulders
        assert (crop != 7).any(axis=2).mean() > 0.1


def test_a_point_is_hidden_exactly_where_the_crop_is_painted():
    for seed in range(50):
        crop, state = covered(seed=seed)
        column, row = np.rint(STANDING).astype(int).T
        painted = (crop[row, column] != 7).any(axis=1)
        np.testing.assert_array_equal(state == OCCLUDED, painted)


def test_only_seen_points_change_and_the_given_states_do_not():
    before = np.full(17, VISIBLE)
    before[[11, 13, 14, 15]] = [OCCLUDED, UNKNOWN, ABSENT, UNLABELLED]
    given_states = before.copy()
    _, after = covered(state=before, blanket_least_cover=0.7)
    np.testing.assert_array_equal(before, given_states)
    np.testing.assert_array_equal(after[[11, 13, 14, 15]], [OCCLUDED, UNKNOWN, ABSENT, UNLABELLED])
    assert after[16] == OCCLUDED


@pytest.mark.parametrize("seed", range(12))
def test_its_sides_are_straight_and_run_along_the_body(seed):
    draws = np.random.default_rng(seed).random(200)
    outline = _outline(STANDING, np.ones(17, bool), COCO, AugmentConfig(blanket_probability=1), draws).astype(float)
    foot_right, foot_left = outline[-2:]
    right, left = foot_right - outline[-3], foot_left - outline[0]
    assert min(np.linalg.norm(right), np.linalg.norm(left)) > 20
    turned_by = np.arctan2(right[0] * left[1] - right[1] * left[0], right @ left)
    assert abs(np.rad2deg(turned_by)) < 3  # corners are whole pixels
    along = left / np.linalg.norm(left)
    length = np.ptp(STANDING @ along)
    reach, body = outline @ np.array([-along[1], along[0]]), STANDING @ np.array([-along[1], along[0]])
    for beyond in (body.min() - reach.min(), reach.max() - body.max()):  # 0.1 to 0.5 of the body's length
        assert 0.1 * length - 2 < beyond < 0.5 * length + 2
    assert abs(np.rad2deg(np.arctan2(along[0], along[1]))) < 22  # 20 degrees either way, and the body's own lean
    across = foot_right - foot_left
    assert abs(across @ left) < 0.05 * np.linalg.norm(across) * np.linalg.norm(left)


def shares(**told):
    """Every draw a half, which tilts nothing and waves nothing, but for those told by their place."""
    draws = np.full(16 + 9 + 25, 0.5)
    for place, value in told.items():
        draws[int(place[1:])] = value
    return draws


BOX = {"blanket_probability": 1, "blanket_least_cover": 0.25, "blanket_most_cover": 0.75}
LENGTH = 110 - 12  # from the eyes to the ankles; STANDING leans to no side, and is 40 px wide


@pytest.mark.parametrize(
    ("told", "edge", "foot", "sides"),
    [
        ({}, 110 - 0.5 * LENGTH, 110 + 0.3 * LENGTH, (44 - 0.3 * LENGTH, 84 + 0.3 * LENGTH)),
        ({"d1": 0.0}, 110 - 0.25 * LENGTH, 110 + 0.3 * LENGTH, (44 - 0.3 * LENGTH, 84 + 0.3 * LENGTH)),
        ({"d1": 1.0}, 110 - 0.75 * LENGTH, 110 + 0.3 * LENGTH, (44 - 0.3 * LENGTH, 84 + 0.3 * LENGTH)),
        ({"d3": 0.0}, 110 - 0.5 * LENGTH, 110 + 0.1 * LENGTH, (44 - 0.3 * LENGTH, 84 + 0.3 * LENGTH)),
        ({"d3": 1.0}, 110 - 0.5 * LENGTH, 110 + 0.5 * LENGTH, (44 - 0.3 * LENGTH, 84 + 0.3 * LENGTH)),
        ({"d4": 0.0, "d5": 1.0}, 110 - 0.5 * LENGTH, 110 + 0.3 * LENGTH, (44 - 0.5 * LENGTH, 84 + 0.1 * LENGTH)),
        ({"d4": 1.0, "d5": 0.0}, 110 - 0.5 * LENGTH, 110 + 0.3 * LENGTH, (44 - 0.1 * LENGTH, 84 + 0.5 * LENGTH)),
    ],
)
def test_how_far_it_reaches(told, edge, foot, sides):
    """A straight edge over the share of the body that is drawn, and 0.1 to 0.5 of its length beyond it elsewhere."""
    labelled = np.ones(17, bool)
    outline = _outline(STANDING, labelled, COCO, AugmentConfig(**BOX), shares(**told))
    assert outline.shape == (11, 2)
    np.testing.assert_allclose(outline[:9, 1], edge, atol=0.51)
    np.testing.assert_allclose(outline[9:, 1], foot, atol=0.51)
    np.testing.assert_allclose(outline[:9, 0], np.linspace(*sides[::-1], 9), atol=0.51)
    np.testing.assert_allclose(outline[9:, 0], sides, atol=0.51)


def test_its_edge_swings_by_a_twentieth_of_the_body_either_way():
    told = {f"d{16 + i}": float(i % 2) for i in range(9)}
    outline = _outline(STANDING, np.ones(17, bool), COCO, AugmentConfig(**BOX), shares(**told))
    swing = np.where(np.arange(9) % 2, 0.05, -0.05) * LENGTH
    np.testing.assert_allclose(outline[:9, 1], 110 - 0.5 * LENGTH + swing, atol=0.51)


@pytest.mark.parametrize(("tilt", "degrees"), [(0.0, -20), (0.5, 0), (1.0, 20)])
def test_it_is_turned_by_up_to_twenty_degrees_against_the_body(tilt, degrees):
    outline = _outline(STANDING, np.ones(17, bool), COCO, AugmentConfig(**BOX), shares(d2=tilt)).astype(float)
    across = outline[10] - outline[9]
    assert np.rad2deg(np.arctan2(across[1], across[0])) == pytest.approx(degrees, abs=0.5)


def test_there_is_no_direction_to_lie_across_where_the_body_is_shorter_than_four_pixels():
    config, labelled = AugmentConfig(**BOX), np.ones(17, bool)
    for length, lies in ((3.9, False), (4.1, True)):
        small = ((STANDING - 64) * length / LENGTH + 64).astype(np.float32)
        assert (_outline(small, labelled, COCO, config, shares()) is not None) == lies
    for apart, lies in ((0.9, False), (1.1, True)):  # of the middles of both halves
        folded = np.full((17, 2), 50, np.float32)
        folded[COCO.lower_body_mask, 1] += apart + 20 * (-1.0) ** np.arange(6)
        assert (_outline(folded, labelled, COCO, config, shares()) is not None) == lies


FIRST, SECOND = (0.1, 0.5, 0.9), (0.8, 0.2, 0.4)
COLOURS = np.floor(40 + 200 * np.array([FIRST, SECOND]))
SHADE = 115 / 128  # folds of one depth: 128 * (0.65 + 0.5 * 0.5), cut


def cloth(width=64, height=32, **told):
    colours = {f"d{9 + i}": value for i, value in enumerate((*FIRST, *SECOND))}
    return _cloth(width, height, shares(**colours, **told)).astype(float)


def test_a_plain_cloth_is_its_first_colour_in_shade():
    for pattern in (0.0, 0.33):
        np.testing.assert_allclose(cloth(d6=pattern), np.broadcast_to(COLOURS[0] * SHADE, (32, 64, 3)), atol=0.6)


@pytest.mark.parametrize(("spacing", "period"), [(0.0, 4), (1.0, 32)])
def test_stripes_have_a_period_of_four_to_thirty_two_pixels(spacing, period):
    stripes = np.where(np.arange(64)[:, None] % period < period / 2, *COLOURS) * SHADE
    np.testing.assert_allclose(cloth(d6=0.34, d7=spacing, d8=0.0), np.broadcast_to(stripes, (32, 64, 3)), atol=0.6)
    upright = cloth(d6=0.66, d7=spacing, d8=0.5)
    np.testing.assert_allclose(upright, np.broadcast_to(stripes[:32, None], (32, 64, 3)), atol=0.6)


def test_slanting_stripes_advance_as_their_normal_says():
    slant, period = 0.2, 4 + 28 * 0.5
    x, y = np.meshgrid(np.arange(64), np.arange(32))
    phase = (x * np.cos(np.pi * slant) + y * np.sin(np.pi * slant)) / period % 1
    expected = np.where(phase[..., None] < 0.5, *COLOURS) * SHADE
    wrong = np.abs(cloth(d6=0.5, d8=slant) - expected).max(axis=2) > 0.6
    assert wrong.mean() < 0.05  # phases are cut to 256ths


def test_a_chequered_cloth_is_the_mean_of_two_striped_ones_at_right_angles():
    x, y = np.meshgrid(np.arange(64), np.arange(32))
    first, second = (np.where((place % 32 < 16)[..., None], *COLOURS) for place in (x, -y))
    np.testing.assert_allclose(cloth(d6=0.67, d7=1.0, d8=0.0), (first + second) / 2 * SHADE, atol=1.1)
    slant, period = 0.2, 32
    along, across = np.array([np.cos(np.pi * slant), np.sin(np.pi * slant)]), np.array([1, -1])
    phases = [(x * a + y * b) / period % 1 for a, b in (along, along[::-1] * across)]
    expected = sum(np.where(phase[..., None] < 0.5, *COLOURS) for phase in phases) / 2 * SHADE
    wrong = np.abs(cloth(d6=0.9, d7=1.0, d8=slant) - expected).max(axis=2) > 1.1
    assert wrong.mean() < 0.06


def test_folds_darken_to_two_thirds_and_brighten_to_more_than_the_colour():
    white = {f"d{place}": 1.0 for place in range(9, 12)}
    for depth, shade in ((0.0, 83 / 128), (1.0, 147 / 128)):
        folds = {f"d{25 + i}": depth for i in range(25)}
        painted = _cloth(20, 20, shares(d6=0.0, **white, **folds))
        np.testing.assert_allclose(painted.astype(float), np.minimum(240 * shade, 255), atol=0.6)
    one = _cloth(50, 50, shares(d6=0.0, **white, **{f"d{25 + i}": float(i == 7) for i in range(25)}))
    assert np.unravel_index(one[..., 0].argmax(), (50, 50)) == pytest.approx((15, 25), abs=3)  # row 1, column 2 of 5x5


def test_more_cover_hides_more():
    hidden = [
        np.mean([(covered(seed=seed, blanket_least_cover=c, blanket_most_cover=c)[1] == 2).sum() for seed in range(40)])
        for c in (0.1, 0.3, 0.5, 0.7)
    ]
    assert hidden == sorted(hidden)
    assert hidden[0] < 3
    assert hidden[-1] > 8


def test_the_probability_is_the_share_of_blankets_and_says_nothing_of_how_much_one_hides():
    random = np.random.default_rng(1)
    state = np.full(17, VISIBLE)
    crop = np.zeros((128, 128, 3), np.uint8)

    def hidden(probability, number):
        config = AugmentConfig(blanket_probability=probability)
        drawn = [draw_blanket(crop, STANDING, state, COCO, config, random) for _ in range(number)]
        return np.array([(states != VISIBLE).sum() for states in drawn if states is not state])

    seldom, always = hidden(0.3, 1500), hidden(1, 500)
    assert len(seldom) / 1500 == pytest.approx(0.3, abs=0.04)
    assert len(always) == 500
    assert seldom.mean() == pytest.approx(always.mean(), rel=0.1)


@pytest.mark.parametrize("half", ["upper", "lower"])
def test_no_blanket_where_a_half_has_no_labelled_point(half):
    state = np.where((np.arange(17) < 11) == (half == "upper"), UNLABELLED, VISIBLE)
    crop, after = covered(state=state)
    assert (crop == 7).all()
    np.testing.assert_array_equal(after, state)


def test_no_blanket_on_a_body_that_is_a_dot():
    crop, after = covered(np.full((17, 2), 60, np.float32))
    assert (crop == 7).all()
    assert (after == VISIBLE).all()


def test_face_and_hands_do_not_turn_the_body():
    """WholeBody's 133 points count as lower but for eleven; only those of the body say where it lies."""
    skeleton = load_skeleton("coco_wholebody133")
    points = np.tile(STANDING[:1], (133, 1))  # feet, face and hands all at the nose
    points[:17] = STANDING
    _, state = covered(points, skeleton=skeleton, blanket_least_cover=0.5, blanket_most_cover=0.5)
    assert (state[13:17] == OCCLUDED).all()
    assert (state[23:] == VISIBLE).all()


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(
        st.tuples(*[st.floats(-1e7, 1e7, width=32)] * 2) | st.tuples(*[st.floats(-50, 200, width=32)] * 2),
        min_size=17,
        max_size=17,
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_wild_points_break_nothing(points, seed):
    points = np.array(points, np.float32)
    before = points.copy()
    _, state = covered(points, seed=seed, size=(40, 70))
    np.testing.assert_array_equal(points, before)
    assert set(state.tolist()) <= {OCCLUDED, VISIBLE}

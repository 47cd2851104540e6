"""Whole pictures as training samples: where bodies come to lie, what is ignored, and the same whoever asks."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from posecore.errors import ConfigError, IntegrityError
from posecore.loading.augment import AugmentConfig
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.mixture import MixtureConfig, MixtureEntry
from posecore.loading.scene import SceneConfig, scene_regions, whole_regions
from posecore.schema import CropBatch, CropGroup, KeypointState, Record
from posecore.shards.store import ShardStore
from posecore.skeletons.skeleton import Keypoint, Skeleton
from tests.support.tiny_store import instance, record, with_damaged_picture, write_store

INPUT = (96, 128)
STILL = {"fit": "long", "least_zoom": 1, "most_zoom": 1, "rotation_degrees": 0, "shift": 0, "flip_probability": 0}
PAIR = Skeleton(
    name="pair",
    keypoints=(
        Keypoint(name="left", union="left_wrist", flip="right"),
        Keypoint(name="right", union="right_wrist", flip="left"),
        Keypoint(name="nose", union="nose"),
    ),
)


def _points(*points: tuple[float, float, int]) -> np.ndarray:
    return np.array(points, np.float32)


def _records() -> list[Record]:
    """Two bodies, one of them with one point; one body; nobody; a body without labels beside a crowd."""
    body = _points((20, 30, 2), (60, 30, 1), (40, 10, 2))
    single = _points((100, 90, 2), (0, 0, 0), (0, 0, 0))
    nothing = np.zeros((3, 3), np.float32)
    return [
        record("pairs", 0, [_body("a", body, (10, 5, 60, 40)), _body("b", single, (90, 60, 40, 50))]),
        record("pairs", 1, [_body("c", body, (10, 5, 60, 40))]),
        record("pairs", 2, []),
        record("pairs", 3, [_body("d", nothing, (0, 0, 40, 60)), _body("e", nothing, (80, 20, 60, 80), is_crowd=True)]),
    ]


def _body(name: str, keypoints: np.ndarray, box: Sequence[float], **fields: object):
    return instance(name, 3, box, keypoints=keypoints, **fields)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return write_store(tmp_path_factory.mktemp("pairs"), "pairs", [], skeleton=PAIR, records=_records())


def _loader(store: ShardStore, scenes: dict[str, object], **options: object) -> Loader:
    told = {name: options.pop(name) for name in ("augment", "on_bad_sample", "max_bad_share") if name in options}
    loading = LoadingConfig(
        mixture=MixtureConfig(entries=(MixtureEntry(name="pairs"),)),
        scenes=SceneConfig.model_validate(scenes),
        **told,
    )
    values = {"input_size": INPUT, "seed": 0, "global_batch": 4} | options
    return Loader({"pairs": store}, loading, **values)


def _first(loader: Loader) -> tuple[CropBatch, CropGroup]:
    batch = next(iter(loader))
    return batch, batch.groups[0]


def _of_image(group: CropGroup, row: int) -> int:
    return int(np.flatnonzero(group.rows == row)[0])


def test_every_picture_is_drawn_with_all_its_bodies(store: ShardStore) -> None:
    batch, group = _first(_loader(store, STILL))
    assert sorted(group.rows.tolist()) == [0, 1, 2, 3]
    assert batch.images.shape == (4, *INPUT, 3)
    assert group.keypoints_crop.shape == (4, 3, 3, 2)  # two bodies at most, and a row for the set
    counts = (group.state >= KeypointState.OCCLUDED).any(axis=2).sum(axis=1)
    assert counts[np.argsort(group.rows)].tolist() == [2, 1, 0, 0]


def test_points_are_where_the_picture_shows_them(store: ShardStore) -> None:
    """120 × 160 px pictures in 96 × 128: the corners' centres lie on each other."""
    _, group = _first(_loader(store, STILL))
    place = _of_image(group, 0)
    ratio = np.array([127 / 159, 95 / 119]).min()
    offset = (np.array([127, 95]) - ratio * np.array([159, 119])) / 2
    np.testing.assert_allclose(group.keypoints_crop[place, 0, 0], ratio * np.array([20, 30]) + offset, atol=1e-4)
    np.testing.assert_allclose(
        group.bbox_crop[place, 1], np.tile(offset, 2) + ratio * np.array([90, 60, 130, 110]), atol=1e-4
    )
    assert (group.keypoints_crop[place, 1, 1:] == 0).all()
    assert (group.bbox_crop[_of_image(group, 2)] == [0, 0, -1, -1]).all()


def test_points_follow_the_pixels_however_they_are_turned(tmp_path: Path) -> None:
    """A bright dot on black at the only point of every body is found where the point is said to be."""
    dots = Skeleton(name="dot", keypoints=(Keypoint(name="nose", union="nose"),))
    spots = [[(30.0, 40.0), (120.0, 80.0)], [(80.0, 60.0)]]
    records = [
        record(
            "dots", row, [_body(f"{row}{i}", _points((x, y, 2)), (x - 5, y - 5, 10, 10)) for i, (x, y) in enumerate(s)]
        )
        for row, s in enumerate(spots)
    ]
    root = tmp_path / "raw"
    for each, places in zip(records, spots, strict=True):
        image = np.zeros((each.height, each.width, 3), np.float64)
        rows, columns = np.mgrid[: each.height, : each.width]
        for x, y in places:
            image += 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)[..., None]
        (root / each.image).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / each.image), image.clip(0, 255).astype(np.uint8))
    store = write_store(tmp_path, "pairs", [], skeleton=dots, records=records)
    loader = _loader(store, {"fit": "long", "rotation_degrees": 40, "least_zoom": 0.8, "most_zoom": 1.0, "shift": 0.05})
    turned = set()
    for _, batch in zip(range(6), loader, strict=False):
        group = batch.groups[0]
        for place in range(4):
            turned.add((bool(group.flipped[place]), group.rotation[place] > 0))
            brightness = batch.images[place].astype(np.float64).sum(axis=2)
            for body in np.flatnonzero(group.state[place, :, 0] == KeypointState.VISIBLE):
                x, y = group.keypoints_crop[place, body, 0]
                if not (6 < x < INPUT[1] - 6 and 6 < y < INPUT[0] - 6):
                    continue
                left, top = round(x) - 5, round(y) - 5
                patch = brightness[top : top + 11, left : left + 11]
                rows, columns = np.mgrid[top : top + 11, left : left + 11]
                middle = np.array([(patch * columns).sum(), (patch * rows).sum()]) / patch.sum()
                np.testing.assert_allclose(middle, (x, y), atol=0.35)
    assert len(turned) == 4


def test_mirroring_swaps_sides_of_every_body(store: ShardStore) -> None:
    _, plain = _first(_loader(store, STILL))
    _, mirrored = _first(_loader(store, STILL | {"flip_probability": 1}))
    here, there = _of_image(plain, 0), _of_image(mirrored, 0)
    expected = plain.keypoints_crop[here][:, [1, 0, 2]].copy()
    labelled = plain.state[here][:, [1, 0, 2]] >= KeypointState.OCCLUDED
    expected[..., 0] = np.where(labelled, 127 - expected[..., 0], 0)
    np.testing.assert_allclose(mirrored.keypoints_crop[there], expected, atol=1e-4)
    np.testing.assert_array_equal(mirrored.state[there], plain.state[here][:, [1, 0, 2]])
    assert mirrored.flipped.all()


def test_crowds_and_bodies_without_labels_are_ignored_at_half_the_size(store: ShardStore) -> None:
    _, group = _first(_loader(store, STILL))
    ignored = group.ignored[_of_image(group, 3)]
    assert ignored.shape == (48, 64)
    assert not group.ignored[[_of_image(group, row) for row in range(3)]].any()
    ratio = 127 / 159 * 63 / 127
    offset = (np.array([63, 47]) - ratio * np.array([159, 119])) / 2
    rows, columns = np.mgrid[:48, :64]
    x, y = (columns - offset[0]) / ratio, (rows - offset[1]) / ratio
    inside = ((x >= -0.5) & (x < 39.5) & (y >= -0.5) & (y < 59.5)) | (
        (x > 79.5) & (x < 139.5) & (y > 19.5) & (y < 99.5)
    )
    assert (ignored.astype(bool) != inside).mean() < 0.03  # but for the nearest pixels at the borders
    assert ignored.any()


def test_a_point_that_no_body_of_the_set_has_is_not_trained(tmp_path: Path) -> None:
    """A last row says so, all over every picture, those of nobody included; of other points it says nothing."""
    body = _points((20, 30, 2), (60, 30, 2), (0, 0, 0))
    records = [record("pairs", 0, [_body("a", body, (10, 5, 60, 40))]), record("pairs", 1, [])]
    store = write_store(tmp_path, "pairs", [], skeleton=PAIR, records=records)
    _, group = _first(_loader(store, {"flip_probability": 0.5}))
    for place in range(4):
        assert group.state[place, -1].tolist() == [KeypointState.ABSENT] * 2 + [KeypointState.UNLABELLED]
        assert group.bbox_crop[place, -1].tolist() == [0, 0, 127, 95]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_batches_are_the_same_on_any_number_of_ranks_and_after_a_stop(store: ShardStore, world_size: int) -> None:
    augment = AugmentConfig(grey_probability=0.5)
    whole = _loader(store, {"shift": 0.1}, augment=augment)
    third = [batch for _, batch in zip(range(3), whole, strict=False)][2]
    parts = [
        next(iter(_loader(store, {"shift": 0.1}, augment=augment, start_step=2, world_size=world_size, rank=rank)))
        for rank in range(world_size)
    ]
    mine = {int(row): place for place, row in enumerate(third.groups[0].rows)}
    assert len(mine) == 4
    for batch in parts:
        group = batch.groups[0]
        for place, row in enumerate(group.rows.tolist()):
            np.testing.assert_array_equal(batch.images[place], third.images[mine[row]])
            for name in ("keypoints_crop", "state", "bbox_crop", "ignored", "center", "scale", "rotation", "seeds"):
                np.testing.assert_array_equal(
                    getattr(group, name)[place], getattr(third.groups[0], name)[mine[row]], err_msg=name
                )


def test_another_picture_stands_in_for_a_damaged_one_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    """The picture of nobody is damaged; that of a crowd, which comes next, is shown in its place."""
    whole = write_store(tmp_path, "pairs", [], skeleton=PAIR, records=_records())
    damaged = with_damaged_picture(whole, 2)
    with pytest.raises(IntegrityError):
        _first(_loader(damaged, STILL))
    batch, group = _first(_loader(damaged, STILL, on_bad_sample="skip", max_bad_share=0.5))
    assert [sample.row for sample in batch.bad] == [2]
    assert sorted(group.rows.tolist()) == [0, 1, 3, 3]
    places = np.flatnonzero(group.rows == 3)
    assert group.ignored[places[0]].any()
    np.testing.assert_array_equal(group.ignored[places[0]], group.ignored[places[1]])


def test_every_pass_is_turned_anew(store: ShardStore) -> None:
    rotations = {
        round(float(batch.groups[0].rotation[_of_image(batch.groups[0], 0)]), 3)
        for _, batch in zip(range(5), _loader(store, {}), strict=False)
    }
    assert len(rotations) == 5


def test_regions_are_the_picture_times_what_is_drawn() -> None:
    sizes = np.array([[120, 160], [300, 100]])
    config = SceneConfig(fit="long", least_zoom=0.5, most_zoom=2.0, rotation_degrees=20, shift=0.25)
    region = scene_regions(sizes, (64, 64), config, np.array([[0, 0, 0, 0.5, 0.4], [1, 1, 1, 0.5, 0.6]]))
    np.testing.assert_allclose(region.scale, [[318, 318], [149.5, 149.5]])
    np.testing.assert_allclose(region.center, [[79.5 - 0.25 * 318, 59.5], [49.5 + 0.25 * 149.5, 149.5]])
    assert region.rotation.tolist() == [-20, 20]
    assert region.flipped.tolist() == [True, False]
    short = whole_regions(sizes, (64, 64), "short")
    np.testing.assert_allclose(short.scale, [[119, 119], [99, 99]])
    wide = whole_regions(sizes, (64, 127))
    np.testing.assert_allclose(wide.scale[0], (238, 119))  # 2 : 1 between the centres of the outermost pixels
    assert (whole_regions(np.array([[1, 1]]), (64, 64)).scale == 1).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"depth": True}, "leave out depth"),
        ({"pictures": "precut"}, "leave out depth, precut pictures"),
        ({"bodies": "all"}, "unlabelled and bodies"),
        ({"augment": {"blanket_probability": 0.5}}, "a blanket lies on one body"),
        ({"scenes": {"least_zoom": 2, "most_zoom": 1}}, "least_zoom 2 is more than most_zoom 1"),
        ({"mixture": {"entries": [{"name": "a", "unlabelled": "images"}]}}, "a hides its labels"),
    ],
)
def test_what_whole_pictures_have_not_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LoadingConfig.model_validate({"mixture": {"entries": [{"name": "a"}]}, "scenes": {}} | changes)


def test_heads_of_crops_and_of_pictures_are_told_apart() -> None:
    loading = LoadingConfig.model_validate({"mixture": {"entries": [{"name": "a"}]}})
    assert loading.of_heads(whole_scenes=False) is loading
    assert loading.of_heads(whole_scenes=True).scenes == SceneConfig()
    mine = loading.model_copy(update={"scenes": SceneConfig(shift=0.2)})
    assert mine.of_heads(whole_scenes=True) is mine
    with pytest.raises(ConfigError, match=r"loading.scenes: the model's head reads crops"):
        mine.of_heads(whole_scenes=False)

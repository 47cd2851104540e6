"""Pictures of single bodies cut beforehand: the same crops, labels and order, and nothing beyond what they hold."""

import shutil
from itertools import islice

import cv2
import numpy as np
import pytest

from posecore.config import parse_config
from posecore.errors import ConfigError, IntegrityError
from posecore.loading.augment import AugmentConfig, LateAugmentConfig
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.precut import PrecutSettings, reach_of, write_precut
from posecore.shards.store import open_store
from tests.support.tiny_store import instance, record, write_store

LARGE, SMALL = (384, 288), (64, 48)
NUM_IMAGES = 12


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Smooth images of 240x320 pixels of up to three bodies, some at the border; each point is marked by a disc."""
    boxes = [
        [(-10.0 + 70 * i, 8.0 + 11 * row, 60.0 + 9 * row, 90.0 + 8 * i) for i in range(row % 4)]
        for row in range(NUM_IMAGES)
    ]
    return write_split(tmp_path_factory.mktemp("split"), boxes, 320, 240)


def write_split(folder, boxes, width, height):
    """Its folder; an image for each list of boxes."""
    records = []
    for row, of_image in enumerate(boxes):
        bodies = [instance(f"{row}-{i}", 17, box) for i, box in enumerate(of_image)]
        records.append(record("people", row, bodies, width=width, height=height))
        y, x = np.mgrid[:height, :width]
        image = np.stack([x * 0.3, y * 0.4, (x + y) * 0.2], axis=-1).astype(np.uint8)
        for body in bodies:
            for point in body.keypoints:
                centre = np.rint(point[:2] * 16).astype(int).tolist()
                cv2.circle(image, centre, 6 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
        image = cv2.GaussianBlur(image, (0, 0), 3)
        path = folder / "raw" / "people" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return write_store(folder, "people", (), records=records).location


def cut(split, folder, input_size, preset="published"):
    """A copy of the split with pictures."""
    shutil.copytree(split, folder)
    store = open_store(folder)
    settings = PrecutSettings(input_size=input_size, augment=AugmentConfig.model_validate(preset))
    write_precut(folder, settings.terms(store))
    return store


def batches(store, input_size, pictures, count=6, **fields):
    values = {"mixture": {"entries": [{"name": "people"}]}, "pictures": pictures, **fields}
    config = parse_config(values, LoadingConfig, "test")
    iterator = iter(Loader({"people": store}, config, input_size=input_size, seed=3, global_batch=8))
    found = list(islice(iterator, count))
    iterator.close()
    return found


def same_but_for_pixels(one, other):
    for ours, theirs in zip(one.groups, other.groups, strict=True):
        for name in ("rows", "keypoints_crop", "state", "center", "scale", "rotation", "flipped", "seeds"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    return True


@pytest.mark.parametrize("preset", ["published", "mmpose", "infant"])
def test_pictures_at_the_images_own_scale_give_the_same_crops(split, tmp_path, preset):
    store = cut(split, tmp_path / "cut", LARGE, preset)  # every body is smaller than a crop
    for whole, precut in zip(
        *(batches(store, LARGE, pictures, augment=preset) for pictures in ("whole", "precut")), strict=True
    ):
        assert same_but_for_pixels(whole, precut)
        assert np.abs(whole.images.astype(int) - precut.images).max() <= 1


def test_smaller_pictures_give_the_same_crops_to_their_resampling(split, tmp_path):
    store = cut(split, tmp_path / "cut", SMALL)
    assert (store.precut.sizes.max(axis=0) < [320, 240]).all()
    differences = []
    for whole, precut in zip(*(batches(store, SMALL, pictures) for pictures in ("whole", "precut")), strict=True):
        assert same_but_for_pixels(whole, precut)
        differences.append(np.abs(whole.images.astype(int) - precut.images))
    assert np.mean(differences) < 4  # of 255


def test_a_small_body_in_a_large_image_is_cut_where_it_is(tmp_path):
    folder = write_split(tmp_path, [[(330.0, 170.0, 40.0, 55.0)]] * 8, 640, 480)
    store = cut(folder, tmp_path / "cut", LARGE)
    assert (store.precut.sizes < [320, 240]).all()
    for whole, precut in zip(*(batches(store, LARGE, pictures, 2) for pictures in ("whole", "precut")), strict=True):
        assert same_but_for_pixels(whole, precut)
        assert np.abs(whole.images.astype(int) - precut.images).max() <= 1


def test_points_lie_where_the_pictures_show_them(split, tmp_path):
    store = cut(split, tmp_path / "cut", SMALL)
    augment = {"half_body_probability": 0, "rotation_probability": 1, "scale_factor": 0.1}
    errors = []
    for batch in batches(store, SMALL, "precut", 8, augment=augment):
        for image, points in zip(batch.images, batch.groups[0].keypoints_crop, strict=True):
            for x, y in points.tolist():
                inside = 6 < x < SMALL[1] - 6 and 6 < y < SMALL[0] - 6
                if inside and np.sort(np.hypot(*(points - (x, y)).T))[1] > 10:  # no other disc within the window
                    left, top = round(x) - 3, round(y) - 3
                    window = image[top : top + 7, left : left + 7].min(axis=-1).astype(float)
                    weight = np.clip(window - np.percentile(window, 60), 0, None)
                    at = (weight.sum(axis=0) @ np.arange(7), weight.sum(axis=1) @ np.arange(7)) / weight.sum()
                    errors.append(at + np.array([left, top]) - (x, y))
    assert len(errors) > 40
    np.testing.assert_allclose(np.median(errors, axis=0), 0, atol=0.1)
    assert np.median(np.abs(errors)) < 0.2  # another body's discs cover some


def test_pictures_hold_all_that_any_draw_can_show(split, tmp_path):
    """No crop is black where the image is not: over many passes, with every draw at its ends."""
    store = cut(split, tmp_path / "cut", LARGE)
    whole, precut = (batches(store, LARGE, pictures, 40) for pictures in ("whole", "precut"))
    lost = [((ours.images > 8) & (theirs.images == 0)).sum() for ours, theirs in zip(whole, precut, strict=True)]
    assert sum(lost) == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"augment": {"scale_factor": 0.6}}, r"scale 1.6 \(cut for 1.5\)"),
        ({"augment": "mmpose"}, r"padded_jitter 0.16 .* half_bodies mmpose \(cut for vitpose\)"),
        ({"augment": {"center_jitter_extent": 0.9}}, r"jitter 0.45 \(cut for 0.2\)"),
        ({"augment": {"half_body_padding": 2}}, r"half_body_padding 2.0"),
        ({"bodies": "images"}, "bodies images"),
        ({"late": {"from_pass": 1, "augment": {"scale_factor": 0.7}}}, "scale 1.7"),
    ],
)
def test_augmentation_beyond_the_pictures_is_refused(split, tmp_path, fields, said):
    store = cut(split, tmp_path / "cut", SMALL)
    with pytest.raises(ConfigError, match=rf"crops: the crops that are wanted are beyond .*{said}"):
        batches(store, SMALL, "precut", 1, **fields)


def test_other_crops_than_the_pictures_were_cut_for_are_refused(split, tmp_path):
    store = cut(split, tmp_path / "cut", SMALL, "mmpose")
    with pytest.raises(ConfigError, match=r"input_size \(384, 288\) \(cut for \(64, 48\)\)"):
        batches(store, LARGE, "precut", 1, augment="mmpose")
    with pytest.raises(ConfigError, match=r"turns|half_bodies"):
        batches(store, SMALL, "precut", 1)
    gentle = {"preset": "mmpose", "scale_factor": 0.2, "rotation_probability": 0, "half_body_probability": 0}
    assert batches(store, SMALL, "precut", 1, augment=gentle)
    with pytest.raises(ConfigError, match="precut ones are of labelled bodies"):
        parse_config({"mixture": {"entries": [{"name": "a"}]}, "pictures": "precut", "depth": True}, LoadingConfig, "x")


def test_without_pictures_and_with_those_of_another_edition_one_sentence_says_so(split, tmp_path):
    with pytest.raises(IntegrityError, match="no finished crops are here; ingest the split again with --precut"):
        batches(open_store(split), SMALL, "precut", 1)
    store = cut(split, tmp_path / "cut", SMALL)
    manifest = store.location / "crops" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"resolution": 1.0', '"resolution": 2.0'))
    with pytest.raises(IntegrityError, match="does not have the digest it states"):
        batches(open_store(store.location), SMALL, "precut", 1)


def test_damage_is_found_by_verify_and_by_whoever_reads_it(split, tmp_path):
    store = cut(split, tmp_path / "cut", SMALL)
    store.verify()
    shard = store.location / "crops" / "crops-000000.tar"
    data = bytearray(shard.read_bytes())
    row = int(np.flatnonzero(store.precut.sizes[:, 0])[0])
    data[int(store.precut._offset[row]) + 7] ^= 1
    shard.write_bytes(data)
    damaged = open_store(store.location)
    with pytest.raises(IntegrityError, match=r"crops-000000.tar: the shard's bytes"):
        damaged.verify()
    with pytest.raises(IntegrityError, match=rf"crops-000000.tar: the picture of body {row} at byte \d+"):
        batches(damaged, SMALL, "precut", 6)
    bad = [sample.row for batch in batches(damaged, SMALL, "precut", 6, on_bad_sample="skip") for sample in batch.bad]
    assert set(bad) == {row}


def test_equal_splits_give_equal_pictures(split, tmp_path):
    folders = [cut(split, tmp_path / name, SMALL).location / "crops" for name in ("one", "two")]
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


def test_late_augmentation_counts_for_the_reach():
    late = LateAugmentConfig(from_pass=1, augment=AugmentConfig(scale_factor=0.9, rotation_probability=0))
    first = reach_of(AugmentConfig())
    both = reach_of(AugmentConfig(), late)
    assert (first.scale, both.scale, both.turns) == (1.5, 1.9, True)
    assert not both.lacks(first)
    assert first.lacks(both) == ["scale 1.9 (cut for 1.5)"]
    other = LateAugmentConfig(from_pass=1, augment=AugmentConfig(half_body_rule="mmpose"))
    with pytest.raises(ConfigError, match=r"late\.augment: another half_body_rule than before"):
        reach_of(AugmentConfig(), other)
    assert reach_of(AugmentConfig(half_body_probability=0), other).half_bodies == "mmpose"

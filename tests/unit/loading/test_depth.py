"""Depth in batches: the pixels that belong to the picture's, nothing invented, zero where nothing is known."""

from itertools import islice

import numpy as np
import pytest

from posecore.config import parse_config
from posecore.errors import ConfigError, IntegrityError
from posecore.geometry import apply_affine, invert_affine
from posecore.loading.augment import Region
from posecore.loading.crop import decode_depth, region_matrix
from posecore.loading.evaluation import EvalCrops
from posecore.loading.loader import Loader, LoadingConfig
from posecore.loading.samples import SampleCache
from posecore.methods.batch import split_batch
from posecore.shards.store import ShardStore
from tests.support.depth_store import HEIGHT, METRES_PER_UNIT, WIDTH, depth_pixels, depth_store
from tests.support.tiny_store import write_store

SIZE = (64, 48)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardStore]:
    folder = tmp_path_factory.mktemp("stores")
    return {"infants": depth_store(folder / "a", 4), "people": write_store(folder / "b", "people", [2, 1])}


def batches(stores: dict[str, ShardStore], names: list[str], count: int, **fields: object):
    values = {"mixture": {"entries": [{"name": name} for name in names]}, "depth": True, **fields}
    config = parse_config(values, LoadingConfig, "test")
    iterator = iter(Loader(stores, config, input_size=SIZE, seed=2, global_batch=6))
    result = list(islice(iterator, count))
    iterator.close()
    return result


def expected(region: Region, number: int):
    """The nearest source pixel of every crop pixel, by inverting the map, and which of them are clearly nearest."""
    inverse = invert_affine(region_matrix(region, WIDTH, SIZE, "udp"))
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    at = apply_affine(np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float), inverse)
    nearest = np.rint(at)
    clear = (np.abs(np.abs(at - nearest) - 0.5) > 0.05).all(axis=1)  # OpenCV rounds places to 1/1024 px
    x, y = nearest.astype(int).T
    inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    values = np.where(inside, depth_pixels(number)[y.clip(0, HEIGHT - 1), x.clip(0, WIDTH - 1)], 0)
    return values.reshape(SIZE), clear.reshape(SIZE)


def test_depth_follows_the_crop_through_turns_and_mirrors(stores: dict[str, ShardStore]) -> None:
    turned = mirrored = 0
    for batch in batches(stores, ["infants"], 6, augment="infant"):
        (group,) = batch.groups
        assert batch.depth is not None
        assert (batch.depth.shape, batch.depth.dtype) == ((6, *SIZE), np.float32)
        for place, row in enumerate(group.rows.tolist()):
            if row % 2:
                assert not batch.depth[place].any()
                continue
            region = Region(
                group.center[place].astype(float),
                group.scale[place].astype(float),
                float(group.rotation[place]),
                bool(group.flipped[place]),
            )
            values, clear = expected(region, row)
            units = batch.depth[place] / np.float32(METRES_PER_UNIT)
            same = np.abs(units - values) < 0.5
            assert same[clear].mean() > 0.99  # the rest is next to a pixel's rim: the region here is rounded
            known = set(depth_pixels(row).ravel().tolist()) | {0}
            assert set(np.rint(units).astype(int).ravel().tolist()) <= known  # nothing in between
            turned += abs(region.rotation) > 60
            mirrored += region.flipped
    assert turned > 3
    assert mirrored > 3


def test_some_crops_are_shown_without_the_depth_they_have(stores: dict[str, ShardStore]) -> None:
    everything, some = (batches(stores, ["infants"], 12, augment={"depth_dropout": share}) for share in (0.0, 0.4))
    shown = []
    for one, other in zip(everything, some, strict=True):
        assert one.depth is not None
        assert other.depth is not None
        np.testing.assert_array_equal(one.images, other.images)
        for depth, perhaps in zip(one.depth, other.depth, strict=True):
            shown.append(bool(perhaps.any()))
            assert not perhaps.any() or np.array_equal(depth, perhaps)
    assert 0.4 < np.mean(shown) / np.mean([depth.any() for batch in everything for depth in batch.depth]) < 0.8
    assert not any(batch.depth.any() for batch in batches(stores, ["infants"], 3, augment={"depth_dropout": 1.0}))


def test_images_without_depth_are_zero_and_nothing_else_changes(stores: dict[str, ShardStore]) -> None:
    with_depth = batches(stores, ["infants", "people"], 3)
    without = batches(stores, ["infants", "people"], 3, depth=False)
    for one, other in zip(with_depth, without, strict=True):
        assert other.depth is None
        assert one.images.tobytes() == other.images.tobytes()
        assert one.depth is not None
        people = one.groups[1]
        assert not one.depth[people.start : people.stop].any()
    parts = split_batch(with_depth[0], 2)
    assert with_depth[0].depth is not None
    for first, part in enumerate(parts):
        np.testing.assert_array_equal(part.depth, with_depth[0].depth[first::2])
    assert split_batch(without[0], 2)[0].depth is None


def test_threads_change_nothing(stores: dict[str, ShardStore]) -> None:
    one, three = (batches(stores, ["infants", "people"], 4, num_threads=n, cache_bytes=1) for n in (1, 3))
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a.depth, b.depth)


def test_evaluation_cuts_depth_if_asked_to(stores: dict[str, ShardStore]) -> None:
    (batch,) = EvalCrops(stores["infants"], "infants", SIZE, depth=True)
    (group,) = batch.groups
    assert batch.depth is not None
    values, clear = expected(Region(group.center[2].astype(float), group.scale[2].astype(float)), 2)
    units = batch.depth[2] / np.float32(METRES_PER_UNIT)
    assert (np.abs(units - values) < 0.5)[clear].mean() > 0.99
    assert not batch.depth[1].any()
    (plain,) = EvalCrops(stores["infants"], "infants", SIZE)
    assert plain.depth is None


def test_decoded_depth_counts_against_the_cache(stores: dict[str, ShardStore]) -> None:
    cache = SampleCache(stores, 1 << 20, 10**6, depth=True)
    assert cache.get(("infants", 0)).nbytes == HEIGHT * WIDTH * (3 + 2)
    assert cache.get(("infants", 1)).nbytes == HEIGHT * WIDTH * 3


def test_depth_that_nobody_has_is_refused(stores: dict[str, ShardStore]) -> None:
    with pytest.raises(ConfigError, match="depth is wanted, but the images of people have none"):
        batches(stores, ["people"], 1)
    with pytest.raises(ConfigError, match="depth is cut for crops of labelled bodies only"):
        batches(stores, ["infants"], 1, unlabelled={})


def test_what_is_no_depth_picture_is_named() -> None:
    with pytest.raises(IntegrityError, match="sample 7: the depth picture is not a PNG"):
        decode_depth(b"nothing", "sample 7")


def test_a_blanket_leaves_depth(stores: dict[str, ShardStore]) -> None:
    covered = batches(stores, ["infants"], 2, augment={"blanket_probability": 1})
    plain = batches(stores, ["infants"], 2)
    for one, other in zip(covered, plain, strict=True):
        np.testing.assert_array_equal(one.depth, other.depth)

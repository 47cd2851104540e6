"""Batches: layout, decode economy, determinism of pixels, errors and clean-up."""

import threading
from contextlib import nullcontext
from itertools import islice
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from scipy.stats import truncnorm

from posecore.config import parse_config
from posecore.conventions import Conventions
from posecore.errors import ConfigError, IntegrityError
from posecore.geometry import bbox_to_center_scale
from posecore.loading.appearance import AppearanceConfig, change_appearance
from posecore.loading.augment import AugmentConfig, Region, RegionDraws, augment_regions
from posecore.loading.blanket import draw_blanket
from posecore.loading.camera import change_camera
from posecore.loading.crop import crop_images, decode_image, plan_crops
from posecore.loading.loader import Loader, LoadingConfig, blocks_of, check_cache
from posecore.loading.mixture import MixtureConfig
from posecore.loading.randomness import Purpose, generator
from posecore.loading.samples import UsableInstances
from posecore.schema import KeypointState
from posecore.skeletons.skeleton import Keypoint, Skeleton
from tests.support.tiny_store import instance, record, write_store

SIZE = (64, 48)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return {
        "people": write_store(folder / "a", "people", [1, 3, 2, 4, 1, 5, 2, 2]),
        "animals": write_store(folder / "b", "animals", [1, 2], skeleton="ap10k17"),
    }


def loading(**fields):
    return parse_config(
        {"mixture": {"entries": [{"name": "people"}, {"name": "animals"}], "shuffle_window": 2}, **fields},
        LoadingConfig,
        "test",
    )


def batches(stores, count, config=None, **fields):
    settings = {"input_size": SIZE, "seed": 3, "global_batch": 8} | fields
    iterator = iter(Loader(stores, config or loading(), **settings))
    result = list(islice(iterator, count))
    iterator.close()
    return result


def pixels(batch):
    return [batch.images.tobytes(), *(group.keypoints_crop.tobytes() for group in batch.groups)]


def test_groups_are_contiguous_in_mixture_order_and_may_be_empty(stores):
    sizes = []
    for batch in batches(stores, 12, global_batch=4):
        people, animals = batch.groups
        assert (people.dataset, animals.dataset) == ("people", "animals")
        assert (people.start, people.stop, animals.stop) == (0, animals.start, 4)
        assert animals.keypoints_crop.shape == (animals.stop - animals.start, 17, 2)
        assert animals.state.shape == (animals.stop - animals.start, 17)
        assert batch.images.shape == (4, *SIZE, 3)
        sizes.append(animals.stop - animals.start)
    assert 0 in sizes


def test_rows_name_the_instances_and_every_one_comes_in_each_epoch(stores):
    seen = {"people": set(), "animals": set()}
    for batch in batches(stores, 3):
        assert batch.epoch == 0
        for group in batch.groups:
            seen[group.dataset].update(group.rows.tolist())
    for name, store in stores.items():
        assert seen[name] == set(UsableInstances.of(store).rows.tolist())
    assert batches(stores, 1, start_step=3)[0].epoch == 1


def test_an_image_is_decoded_once_for_its_instances(tmp_path):
    store = write_store(tmp_path, "people", [5] * 40)
    # Room for one image per slot and one more per thread, far less than the 40 images.
    config = parse_config(
        {"mixture": {"entries": [{"name": "people"}], "shuffle_window": 2}, "cache_bytes": 6 * 120 * 160 * 3},
        LoadingConfig,
        "test",
    )
    loader = Loader({"people": store}, config, input_size=SIZE, seed=1, global_batch=4)
    iterator = iter(loader)
    list(islice(iterator, loader.sampler.steps_per_epoch - 2 * config.prefetch))
    iterator.close()
    assert loader.num_decoded <= 40 + 3 + 2 * 4  # one more at every cut between slots, and what was prefetched
    assert sum(len(cache._kept) for cache in loader._caches) <= 4  # the one each slot goes on with


def test_images_that_all_fit_are_decoded_once_in_a_run(stores):
    loader = Loader(stores, loading(num_threads=1), input_size=SIZE, seed=3, global_batch=8)
    iterator = iter(loader)
    list(islice(iterator, 4 * loader.sampler.steps_per_epoch))
    iterator.close()
    assert loader.num_decoded == 8 + 2


@pytest.mark.parametrize("prefetch", [1, 3])
def test_blocks_are_begun_ahead_and_no_further(stores, monkeypatch, prefetch):
    begun, begin = [], Loader._start

    def watched(self, steps, workers):
        begun.append(steps)
        return begin(self, steps, workers)

    monkeypatch.setattr(Loader, "_start", watched)
    iterator = iter(Loader(stores, loading(prefetch=prefetch), input_size=SIZE, seed=3, global_batch=8))
    for _ in range(2):  # a window of two steps is one block
        next(iterator)
        assert len(begun) == 1 + prefetch
    next(iterator)
    assert len(begun) == 2 + prefetch
    iterator.close()


@pytest.mark.parametrize("num_threads", [1, 3, 16])
def test_the_number_of_threads_changes_nothing(stores, num_threads):
    expected = [pixels(batch) for batch in batches(stores, 5)]
    ours = batches(stores, 5, loading(num_threads=num_threads, prefetch=4, cache_bytes=1))
    assert [pixels(batch) for batch in ours] == expected


def test_a_later_pass_has_an_augmentation_of_its_own(stores):
    """Passes before it are what they were without it; 20 people are 5 batches of 4."""
    entries = {"mixture": {"entries": [{"name": "people"}], "sampling": "natural"}}
    gentle = {"flip_probability": 0, "scale_factor": 0, "rotation_probability": 0, "half_body_probability": 0}
    gentle |= {"center_jitter": "off"}
    people = {"people": stores["people"]}
    plain = batches(people, 12, loading(**entries), global_batch=4)
    late = batches(people, 12, loading(**entries, late={"from_pass": 1, "augment": gentle}), global_batch=4)
    still = batches(people, 12, loading(**entries, augment=gentle), global_batch=4)
    assert [pixels(batch) for batch in late[:5]] == [pixels(batch) for batch in plain[:5]]
    assert [pixels(batch) for batch in late[5:]] == [pixels(batch) for batch in still[5:]]
    assert pixels(plain[5]) != pixels(still[5])


def test_appearance_changes_pixels_and_nothing_else(stores):
    (plain,), (changed,) = batches(stores, 1), batches(stores, 1, loading(augment={"appearance": {}}))
    assert plain.images.tobytes() != changed.images.tobytes()
    assert pixels(plain)[1:] == pixels(changed)[1:]
    black = (changed.images == 0).all(axis=-1).mean(axis=(1, 2))
    assert (black > 0.03).all(), "every crop has a hole"
    again = batches(stores, 1, loading(augment={"appearance": {}}, num_threads=7))[0]
    assert again.images.tobytes() == changed.images.tobytes()


def test_every_pass_is_augmented_anew_and_the_same_under_the_same_seed(stores):
    def crops_of_row_0(epoch, seed=3):
        for batch in batches(stores, 3, start_step=3 * epoch, seed=seed):
            group = batch.groups[0]
            for position in np.flatnonzero(group.rows == 0):
                return batch.images[group.start + position].tobytes()

    assert crops_of_row_0(0) == crops_of_row_0(0)
    assert len({crops_of_row_0(0), crops_of_row_0(1), crops_of_row_0(0, seed=4)}) == 3


def test_center_jitter_is_fixed_for_the_run_or_drawn_anew(stores):
    def centers(mode):
        only_jitter = {
            "flip_probability": 0,
            "half_body_probability": 0,
            "scale_factor": 0,
            "rotation_probability": 0,
            "center_jitter": mode,
            "center_jitter_probability": 1,
        }
        found = [{}, {}]
        for batch in batches(stores, 6, loading(augment=only_jitter)):
            group = batch.groups[0]
            for row, center in zip(group.rows.tolist(), group.center.tolist(), strict=True):
                found[batch.epoch].setdefault(row, center)
        return found

    def differing(one, other):
        both = one.keys() & other.keys()
        assert len(both) >= 15
        return sum(one[row] != other[row] for row in both) / len(both)

    first, second = centers("per_run")
    assert differing(first, second) == 0
    assert differing(first, centers("off")[0]) == 1
    assert differing(*centers("per_sample")) == 1


def test_mmpose_moves_centres_by_a_share_of_the_padded_box(stores):
    """Closed form of every shift: the quantiles of ``scipy.stats.truncnorm`` at the sample's own draws."""
    only_shifts = {"preset": "mmpose", "flip_probability": 0, "half_body_probability": 0, "scale_factor": 0}
    only_shifts |= {"rotation_probability": 0, "center_jitter_probability": 0.5}
    config = loading(augment=only_shifts)
    table = Loader(stores, config, input_size=SIZE, seed=3, global_batch=8).sampler.table(0)
    moved = []
    for step, batch in enumerate(batches(stores, 3, config)):
        passes = table.number_of_pass[step][np.argsort(table.dataset[step], kind="stable")].tolist()
        for group in batch.groups:
            usable = UsableInstances.of(stores[group.dataset])
            for place, (row, center) in enumerate(zip(group.rows.tolist(), group.center.tolist(), strict=True)):
                x, y, w, h = usable.bbox_xywh[usable.rows.tolist().index(row)]
                random = generator(Purpose.CENTER_JITTER, 3, group.dataset, passes[group.start + place], row)
                draws = random.random(3)
                shift = 0.16 * truncnorm(-1, 1).ppf(draws[1:]) if draws[0] < 0.5 else np.zeros(2)
                np.testing.assert_allclose(center, [x + w / 2, y + h / 2] + shift * [1.25 * w, 1.25 * h], rtol=1e-5)
                moved.append(bool(shift.any()))
    assert 0 < sum(moved) < len(moved)


def test_an_entry_may_have_its_own_augmentation(stores):
    off = {"flip_probability": 0, "half_body_probability": 0, "scale_factor": 0, "rotation_probability": 0}
    turn = off | {"rotation_probability": 1, "rotation_distribution": "uniform", "rotation_degrees": 180}
    config = loading(mixture={"entries": [{"name": "people"}, {"name": "animals", "augment": turn}]}, augment=off)
    for batch in batches(stores, 3, config):
        people, animals = batch.groups
        assert not people.rotation.any()
        assert animals.rotation.all()


def test_an_entry_may_name_a_preset(stores):
    config = loading(mixture={"entries": [{"name": "people", "augment": "infant"}, {"name": "animals"}]})
    people, animals = config.mixture.entries
    assert people.augment.rotation_distribution == "uniform"
    assert animals.augment is None
    assert config.augment.blanket_probability == 0


@pytest.mark.parametrize("camera", [("infrared",), ("grey",), ("infrared", "grey")])
def test_blanket_camera_and_appearance_have_streams_of_their_own_in_every_pass(stores, camera):
    """Painted here on the crops of a loader that paints nothing; 20 people are one pass of 5 batches of 4."""
    of_camera = {f"{kind}_probability": 0.5 for kind in camera}
    painted = AugmentConfig(blanket_probability=0.8, appearance=AppearanceConfig(), **of_camera)
    people = {"mixture": {"entries": [{"name": "people"}]}}
    store, skeleton = {"people": stores["people"]}, stores["people"].manifest.definition.skeleton
    plain = batches(store, 10, loading(**people), global_batch=4)
    ours = batches(store, 10, loading(**people, augment=painted.model_dump()), global_batch=4)
    for index, (before, after) in enumerate(zip(plain, ours, strict=True)):
        (group,), (changed,) = before.groups, after.groups
        for place, row in enumerate(group.rows.tolist()):

            def random(purpose, number_of_pass=index // 5, row=row):
                return generator(purpose, 3, "people", number_of_pass, row)

            crop, points, state = before.images[place], group.keypoints_crop[place], group.state[place]
            state = draw_blanket(crop, points, state, skeleton, painted, random(Purpose.BLANKET))
            change_camera(crop, painted, random(Purpose.CAMERA))
            change_appearance(crop, painted.appearance, random(Purpose.APPEARANCE))
            np.testing.assert_array_equal(after.images[place], crop)
            np.testing.assert_array_equal(changed.state[place], state)


POINTS_AND_REGIONS = ("keypoints_crop", "center", "scale", "rotation", "flipped", "rows", "seeds")


def test_blankets_and_cameras_change_pixels_and_states_alone(stores):
    """Each leaves the geometry of every crop, and what the other does, as it was."""
    painted = {"blanket_probability": 1.0, "infrared_probability": 0.5, "grey_probability": 0.5}
    plain, blanket, camera, both = (
        batches(stores, 3, loading(augment={name: painted[name] for name in names}))
        for names in ([], list(painted)[:1], list(painted)[1:], list(painted))
    )
    hidden = 0
    for one, two, three, four in zip(plain, blanket, camera, both, strict=True):
        for groups in zip(one.groups, two.groups, three.groups, four.groups, strict=True):
            for name in POINTS_AND_REGIONS:
                assert len({getattr(group, name).tobytes() for group in groups}) == 1
            assert groups[0].state.tobytes() == groups[2].state.tobytes()
            assert groups[1].state.tobytes() == groups[3].state.tobytes()
            fewer = groups[0].state != groups[1].state
            assert (groups[0].state[fewer] == KeypointState.VISIBLE).all()
            assert (groups[1].state[fewer] == KeypointState.OCCLUDED).all()
            hidden += int(fewer.sum())
        grey = [(images == images[..., :1]).all(axis=(1, 2, 3)) for images in (one.images, three.images, four.images)]
        assert not grey[0].any()
        np.testing.assert_array_equal(grey[1], grey[2])
        assert (two.images != one.images).any()
    assert hidden > 20


def test_off_is_a_plain_crop_byte_for_byte(stores):
    """With nothing to paint, pixels and points are those of the region drawn by the published augmentation alone."""
    augment = AugmentConfig(center_jitter="off")
    config = loading(augment=augment.model_dump())
    table = Loader(stores, config, input_size=SIZE, seed=3, global_batch=8).sampler.table(0)
    for step, batch in enumerate(batches(stores, 3, config)):
        passes = table.number_of_pass[step][np.argsort(table.dataset[step], kind="stable")].tolist()
        for group in batch.groups:
            store = stores[group.dataset]
            usable, skeleton = UsableInstances.of(store), store.manifest.definition.skeleton
            centers, scales = bbox_to_center_scale(usable.bbox_xywh, SIZE[1] / SIZE[0], 1.25)
            for place, row in enumerate(group.rows.tolist()):
                index = usable.rows.tolist().index(row)
                sample = store.read_sample(int(usable.image_rows[index]))
                body = sample.record.instances[store.instances["instance_index"][row].as_py()]
                state = np.where(body.keypoints[:, 2] == 2, 3, 2).astype(np.uint8)
                random = generator(Purpose.AUGMENTATION, 3, group.dataset, passes[group.start + place], row)
                region = augment_regions(
                    Region(centers[index : index + 1], scales[index : index + 1]),
                    usable.bbox_xywh[index : index + 1, 2:] * 1.25,
                    body.keypoints[None, :, :2],
                    np.ones((1, len(state)), bool),
                    skeleton,
                    8,
                    SIZE[1] / SIZE[0],
                    augment,
                    RegionDraws.of([random], 1),
                )
                pixels = np.empty((*SIZE, 3), np.uint8)
                image = decode_image(sample.image_bytes, 1 << 20, "test")
                points, one, width = body.keypoints[None, :, :2], np.array([row]), np.array([image.shape[1]])
                plan = plan_crops(one, one, region, width, points, state[None], skeleton, "udp", SIZE)
                crop_images(image, plan.matrix, [pixels])
                assert batch.images[group.start + place].tobytes() == pixels.tobytes()
                assert group.keypoints_crop[place].tobytes() == plan.keypoints_crop[0].tobytes()
                assert group.state[place].tobytes() == plan.state[0].tobytes()


def test_a_skeleton_without_an_upper_body_gets_no_blanket(tmp_path):
    points = tuple(Keypoint(name=f"p{i}", union=f"p{i}") for i in range(4))
    store = write_store(tmp_path, "mouse", [1], skeleton=Skeleton(name="mouse4", keypoints=points))
    config = loading(mixture={"entries": [{"name": "mouse", "augment": "infant"}]})
    with pytest.raises(
        ConfigError, match=r"mixture entry mouse: a blanket .* mouse4 .* set augment.blanket_probability"
    ):
        Loader({"mouse": store}, config, input_size=SIZE, seed=1, global_batch=1)


def test_points_of_landscape_crops_follow_any_turn(tmp_path):
    """Full-circle turns of wide crops: a point sits on the mark that was drawn at its place in the image."""
    places = np.array([[40, 50], [100, 40], [70, 80], [110, 90]], np.float32)
    keypoints = np.zeros((17, 3), np.float32)
    keypoints[:4, :2], keypoints[:4, 2] = places, 2
    image = np.zeros((120, 160, 3), np.uint8)
    for channel, (x, y) in enumerate(places[:3].astype(int)):
        cv2.circle(image, (int(x), int(y)), 4, tuple(255 * int(i == channel) for i in range(3)), -1)
    path = tmp_path / "raw" / "people" / "0.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    body = instance("0", 17, (30.0, 30.0, 95.0, 70.0), keypoints=keypoints)
    store = write_store(tmp_path, "people", [], records=[record("people", 0, [body])])
    fields = {"preset": "infant", "half_body_probability": 0, "scale_factor": 0, "center_jitter": "off"}
    fields |= {"blanket_probability": 0, "infrared_probability": 0, "grey_probability": 0, "rotation_probability": 1}
    config = loading(mixture={"entries": [{"name": "people"}]}, augment=fields)
    turns = []
    for batch in batches({"people": store}, 40, config, global_batch=1, input_size=(96, 160)):
        (group,) = batch.groups
        assert batch.images.shape == (1, 96, 160, 3)
        at = group.keypoints_crop[0]
        # coco17's eyes are mirror partners: where mirrored, point 1 carries what point 2 was.
        order = [0, 2, 1] if group.flipped[0] else [0, 1, 2]
        for channel, point in enumerate(order):
            x, y = at[point]
            if 6 < x < 153 and 6 < y < 89:
                weights = batch.images[0, ..., channel].astype(float)
                row, column = np.indices(weights.shape)
                mean = np.array([(weights * column).sum(), (weights * row).sum()]) / weights.sum()
                assert np.abs(mean - (x, y)).max() < 0.6
        turns.append(float(group.rotation[0]))
    assert max(turns) > 135
    assert min(turns) < -135


def test_crops_follow_the_conventions_of_the_model(stores):
    changed = {name: Conventions(codec="msra") for name in stores}
    own, others = batches(stores, 1)[0], batches(stores, 1, conventions=changed)[0]
    moved = []
    for mine, theirs in zip(own.groups, others.groups, strict=True):
        np.testing.assert_array_equal(mine.rows, theirs.rows)
        upright = mine.rotation == 0  # the two conventions turn in opposite directions
        moved.extend(np.abs(mine.keypoints_crop - theirs.keypoints_crop)[upright].max(axis=(1, 2)))
    assert np.min(moved) > 0.1
    assert np.max(moved) < 2
    assert own.images.tobytes() != others.images.tobytes()


def test_bodies_without_a_label_come_only_if_asked_for(tmp_path):
    """They are cut and augmented like any other, and no point of them counts as labelled."""
    box = (10.0, 10.0, 40.0, 60.0)
    bodies = [instance("labelled", 17, box), instance("bare", 17, box, keypoints=np.zeros((17, 3), np.float32))]
    store = {"people": write_store(tmp_path, "people", [], records=[record("people", 0, bodies)])}
    alone = {"mixture": {"entries": [{"name": "people"}]}}
    seen = {}
    for wanted in ("labelled", "all"):
        (batch,) = batches(store, 1, loading(bodies=wanted, **alone), global_batch=4)
        (group,) = batch.groups
        seen[wanted] = dict(zip(group.rows.tolist(), (group.state > KeypointState.UNLABELLED).any(1), strict=True))
        assert np.isfinite(group.keypoints_crop).all()
    assert seen == {"labelled": {0: True}, "all": {0: True, 1: False}}


def test_labels_of_an_unlabelled_entry_decide_nothing(tmp_path):
    """Not what is cropped, not where (half body), not what is delivered: as if the file had none."""
    box = (10.0, 10.0, 40.0, 60.0)
    bare = np.zeros((17, 3), np.float32)
    seen = {}
    for name, points in (("with", None), ("without", bare)):
        fields = {} if points is None else {"keypoints": points}
        bodies = [instance("a", 17, box, absent=(3,) if points is None else (), **fields)]
        bodies.append(instance("b", 17, box, keypoints=bare))
        store = {"people": write_store(tmp_path / name, "people", [], records=[record("people", 0, bodies)])}
        augment = {"half_body_probability": 1.0, "rotation_probability": 1.0}
        config = loading(mixture={"entries": [{"name": "people", "unlabelled": "boxes"}]}, augment=augment)
        (batch,) = batches(store, 1, config, global_batch=4)
        (group,) = batch.groups
        assert set(group.rows.tolist()) == {0, 1}
        assert (group.state == KeypointState.UNLABELLED).all()
        assert not group.keypoints_crop.any()
        seen[name] = batch.images.tobytes(), group.scale.tobytes(), group.seeds.tobytes()
    assert seen["with"] == seen["without"]


def test_unlabelled_images_stand_beside_labelled_bodies(stores):
    entries = [{"name": "people"}, {"name": "animals", "unlabelled": "images"}]
    (batch,) = batches(stores, 1, loading(mixture={"entries": entries}), global_batch=22)
    people, animals = batch.groups
    assert (people.state > KeypointState.UNLABELLED).any()
    assert sorted(animals.rows.tolist()) == [0, 1]
    assert (animals.state == KeypointState.UNLABELLED).all()


def test_whole_images_are_bodies_of_which_nothing_is_known(tmp_path):
    """One crop per image, with boxes or without; un-augmented it is the image, padded to the crop's shape."""
    bodies = [instance(name, 17, (10.0, 10.0, 40.0, 60.0)) for name in "ab"]
    records = [record("people", 0, bodies), record("people", 1, []), record("people", 2, [])]
    store = {"people": write_store(tmp_path, "people", [], records=records)}
    still = {"flip_probability": 0, "scale_factor": 0, "rotation_probability": 0, "center_jitter": "off"}
    config = loading(mixture={"entries": [{"name": "people"}]}, bodies="images", augment=still)
    (batch,) = batches(store, 1, config, global_batch=3)
    (group,) = batch.groups
    assert sorted(group.rows.tolist()) == [0, 1, 2]
    assert (group.state == KeypointState.UNLABELLED).all()
    assert group.state.shape == (3, 17)
    np.testing.assert_allclose(group.center, [[80, 60]] * 3, atol=0.5)
    padding = 1.25
    np.testing.assert_allclose(group.scale, [[160 * padding, 160 * padding * 64 / 48]] * 3, rtol=1e-2)


def test_state_is_the_seed_and_the_next_step(stores):
    loader = Loader(stores, loading(), input_size=SIZE, seed=3, global_batch=8, start_step=5)
    assert loader.state() == {"seed": 3, "step": 5}
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    assert loader.state() == {"seed": 3, "step": 7}  # what was prefetched does not count
    iterator.close()


def test_a_batch_that_cannot_be_divided_is_refused(stores):
    with pytest.raises(ConfigError, match="8 crops cannot be divided evenly among 3 ranks"):
        Loader(stores, loading(), input_size=SIZE, seed=1, global_batch=8, world_size=3)


def test_a_missing_store_is_named(stores):
    with pytest.raises(ConfigError, match="mixture entry animals: no store"):
        Loader({"people": stores["people"]}, loading(), input_size=SIZE, seed=1, global_batch=8)


def test_an_unreadable_image_stops_the_run_with_its_name(tmp_path):
    store = write_store(tmp_path, "people", [1] * 6)
    config = parse_config({"mixture": {"entries": [{"name": "people"}]}, "max_pixels": 100}, LoadingConfig, "test")
    with pytest.raises(IntegrityError, match=r"sample \S+: 160x120 pixels are more than the 100 allowed"):
        next(iter(Loader({"people": store}, config, input_size=SIZE, seed=1, global_batch=2)))


def test_threads_end_with_the_iteration(stores):
    iterator = iter(Loader(stores, loading(num_threads=4), input_size=SIZE, seed=1, global_batch=8))
    next(iterator)
    assert any(thread.name.startswith("loader-") for thread in threading.enumerate())
    iterator.close()
    assert not any(thread.name.startswith("loader-") for thread in threading.enumerate())


@pytest.mark.parametrize("bodies", [0, 1], ids=["no body", "no labelled body"])
def test_a_dataset_with_nothing_to_train_on_is_refused(stores, tmp_path, bodies):
    unlabelled = instance("0", 17, (5.0, 8.0, 60.0, 80.0), keypoints=np.zeros((17, 3), np.float32))
    empty = write_store(tmp_path, "empty", [], records=[record("empty", 0, [unlabelled] * bodies)])
    config = loading(mixture={"entries": [{"name": name} for name in (*stores, "empty")]})
    with pytest.raises(ConfigError, match=r"^mixture entry empty: nothing in it can be cropped"):
        batches({**stores, "empty": empty}, 1, config)


@pytest.mark.parametrize(
    ("shuffle", "behind_urls", "block_bytes", "in_blocks"),
    [
        ("full", True, 1, []),
        ("blocks", False, 1, ["a", "b"]),
        ("auto", False, 1, []),
        ("auto", True, 1, ["b"]),
        ("auto", True, 0.5, []),  # of its size: not more than two blocks
        ("auto", True, 0.49, ["b"]),
    ],
)
def test_sets_are_read_in_blocks_where_asked_for_or_too_large_for_the_cache(
    shuffle, behind_urls, block_bytes, in_blocks
):
    """One of two sets lies behind a URL, or none does."""

    def store(size, is_remote):
        manifest = SimpleNamespace(shards=[SimpleNamespace(size_bytes=size // 2)] * 2)
        return SimpleNamespace(manifest=manifest, cache="a cache" if is_remote else None)

    stores = {"a": store(400, False), "b": store(1000, behind_urls)}
    entries = [{"name": name} for name in stores]
    size = block_bytes if block_bytes == 1 else int(1000 * block_bytes)
    mixture = MixtureConfig.model_validate({"entries": entries, "shuffle": shuffle, "block_bytes": size})
    assert list(blocks_of(mixture, stores)) == in_blocks


@pytest.mark.parametrize(("max_bytes", "is_enough"), [(200, True), (199, False), (3, False)])
def test_a_cache_that_holds_no_two_blocks_is_refused(max_bytes, is_enough):
    mixture = MixtureConfig.model_validate({"entries": [{"name": "a"}], "block_bytes": 100})
    stores = [SimpleNamespace(cache=SimpleNamespace(max_bytes=size)) for size in (10**6, max_bytes)]
    with nullcontext() if is_enough else pytest.raises(ConfigError, match=f"set block_bytes to {max_bytes // 2} or"):
        check_cache(mixture, [SimpleNamespace(cache=None), *stores])

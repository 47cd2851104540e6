"""Orders drawn ahead, and large ones by a process of its own into files: the same tables."""

import threading

import numpy as np
import pytest

from posecore.errors import StorageError
from posecore.loading import mixture as mixture_module
from posecore.loading.blocks import ShardBlocks
from posecore.loading.epochs import Epochs
from posecore.loading.mixture import MixtureConfig, MixtureSampler

IMAGES = np.repeat(np.arange(60), 2)


def sampler(scratch=None, blocked=False, seed=3):
    config = MixtureConfig.model_validate({"entries": [{"name": "a"}, {"name": "b"}], "shuffle_window": 2})
    blocks = {"a": ShardBlocks(IMAGES // 6, np.full(10, 100), 300)} if blocked else None
    return MixtureSampler(config, {"a": IMAGES, "b": IMAGES[::-1]}, seed, 8, blocks, scratch)


@pytest.fixture
def large(monkeypatch):
    """Any epoch counts as a large one."""
    monkeypatch.setattr(mixture_module, "LEAST_SAMPLES", 1)


def test_the_next_epoch_is_drawn_while_this_one_is_used():
    drawn, both = [], threading.Event()

    def draw(epoch):
        drawn.append(epoch)
        if epoch == 1:
            both.set()
        return epoch

    epochs = Epochs(draw)
    assert epochs[0] == 0
    assert both.wait(10)
    assert (epochs[1], epochs[0]) == (1, 0)
    assert drawn.count(0) == drawn.count(1) == 1


def test_what_goes_wrong_is_said_to_whoever_asks():
    def draw(epoch):
        raise StorageError(f"no epoch {epoch}")

    with pytest.raises(StorageError, match="no epoch 4"):
        Epochs(draw)[4]


@pytest.mark.parametrize(("least", "is_large"), [(240, True), (241, False)])
def test_an_epoch_is_large_by_its_samples(tmp_path, monkeypatch, least, is_large):
    monkeypatch.setattr(mixture_module, "LEAST_SAMPLES", least)
    sampler(tmp_path)
    assert (tmp_path / "orders").exists() == is_large


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("blocked", [False, True])
def test_files_hold_what_a_thread_would_have_drawn(tmp_path, blocked):
    here, there = sampler(blocked=blocked), sampler(tmp_path, blocked)
    for epoch in (0, 3):
        mine, mapped = here.draw(epoch), there._epochs._draw(epoch)
        for name in ("dataset", "instance", "number_of_pass"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(mapped, name))
        assert mine.blocks.keys() == mapped.blocks.keys() == ({0} if blocked else set())
        for entry, starts in mine.blocks.items():
            np.testing.assert_array_equal(starts.block, mapped.blocks[entry].block)
            np.testing.assert_array_equal(starts.step, mapped.blocks[entry].step)
            assert isinstance(getattr(mapped, name), np.memmap)
        assert set(mine.blocks) == set(mapped.blocks)
        for entry, starts in mine.blocks.items():
            np.testing.assert_array_equal(starts.step, mapped.blocks[entry].step)
            np.testing.assert_array_equal(starts.block, mapped.blocks[entry].block)


@pytest.mark.usefixtures("large")
def test_all_processes_of_a_machine_share_one_drawing_and_other_orders_have_their_own(tmp_path, monkeypatch):
    def orders():
        return len(list((tmp_path / "orders").iterdir()))

    first = sampler(tmp_path)
    table = first._epochs._draw(0)
    monkeypatch.setattr("subprocess.run", None)  # nothing is drawn again
    again = sampler(tmp_path)
    assert again._epochs._draw(0).instance.tobytes() == table.instance.tobytes()
    assert orders() == 1
    other = sampler(tmp_path, seed=4)
    assert orders() == 2
    del first, again, other
    kept = sampler(tmp_path, seed=5)  # who comes next removes what nobody reads
    assert orders() == 1
    assert kept.draw(0).instance.tobytes() != table.instance.tobytes()  # still mapped


@pytest.mark.usefixtures("large")
def test_a_drawing_that_fails_is_reported_in_one_sentence(tmp_path):
    broken = sampler(tmp_path)
    (folder,) = (tmp_path / "orders").iterdir()
    (folder / "settings.json").write_text("{")
    with pytest.raises(StorageError, match=r"the order of epoch 0 could not be drawn there \(.*JSON"):
        broken.table(0)

"""Division of a target's labels by subject, said as corrections."""

from pathlib import Path

import numpy as np
import pytest

from posecore.errors import DatasetError
from posecore.shards.store import ShardStore, open_store
from posecore.workflows.budget.held_out import fewer_labels, hold_out
from tests.support.dot_worlds import hands_definition, hands_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    """Six pictures of two bodies each; nobody is named."""
    return hands_store(tmp_path_factory.mktemp("hands"), hands_definition())


def labelled(store: ShardStore) -> np.ndarray:
    return store.instances["num_labelled"].to_numpy() > 0


def test_what_is_learned_and_what_is_judged_make_up_the_whole(store: ShardStore) -> None:
    found = hold_out(store, 0.34, seed=3)
    learned = open_store(store.location, corrections=found.learned)
    judged = open_store(store.location, corrections=found.judged)
    assert np.array_equal(labelled(learned) ^ labelled(judged), labelled(store))
    assert (found.kind, found.count, found.bodies) == ("image", 2, 4)
    assert labelled(judged).sum() == 4
    pictures = [set(np.array(each.instances["source_id"])[labelled(each)]) for each in (learned, judged)]
    assert not pictures[0] & pictures[1], "a picture is one or the other"
    assert "an interval from fewer than 10" in found.told


def test_the_seed_says_who_is_held_out(store: ShardStore) -> None:
    assert hold_out(store, 0.34, seed=3).judged == hold_out(store, 0.34, seed=3).judged
    drawn = {hold_out(store, 0.34, seed=seed).judged.digest for seed in range(8)}
    assert len(drawn) > 1


def test_labels_that_were_dropped_before_stay_dropped(store: ShardStore) -> None:
    first = fewer_labels(store, 9, seed=0)
    fewer = open_store(store.location, corrections=first)
    assert labelled(fewer).sum() == 9
    found = hold_out(fewer, 0.34, seed=0)
    both = [labelled(open_store(store.location, corrections=each)) for each in (found.learned, found.judged)]
    assert np.array_equal(both[0] | both[1], labelled(fewer))


def test_few_labels_are_of_as_many_pictures_as_possible(store: ShardStore) -> None:
    kept = open_store(store.location, corrections=fewer_labels(store, 6, seed=1))
    assert len(set(np.array(kept.instances["source_id"])[labelled(kept)])) == 6


@pytest.mark.parametrize("pictures", [1, 2])
def test_one_subject_of_the_rest_is_no_validation(pictures: int, tmp_path: Path) -> None:
    store = hands_store(tmp_path, hands_definition(), num_images=pictures)
    with pytest.raises(DatasetError, match=f"has labelled bodies of {pictures} images?; at least 2 are held out"):
        hold_out(store, 0.25, seed=0)

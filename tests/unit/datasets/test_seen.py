import numpy as np
import pytest

from posecore.datasets import seen
from posecore.datasets.seen import Seen


@pytest.mark.parametrize("at_once", [1, 3, 100, 100_000])
def test_it_answers_what_a_set_of_texts_does(monkeypatch, at_once):
    monkeypatch.setattr(seen, "_MERGED_AT_ONCE", at_once)
    texts = [f"id {number}" for number in np.random.default_rng(0).integers(0, 300, 1000)] + ["", "ü", "id 1"]
    found, known = Seen(), set()
    for text in texts:
        assert found.add(text) == (text in known)
        known.add(text)

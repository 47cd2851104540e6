"""Latency is the median of warm passes of one crop."""

import pytest

from posecore.models.latency import forward_seconds
from tests.support.tiny_training import INPUT_SIZE, tiny_model


def test_the_median_of_warm_passes_of_one_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([90.0, 80.0, 3.0, 1.0, 2.0])  # two warm up
    now = [0.0]
    model = tiny_model().eval()
    shapes = []

    def predict(images: object, dataset: str) -> None:
        shapes.append((tuple(images.shape), dataset))
        now[0] += next(seconds)

    monkeypatch.setattr(model, "predict", predict)
    monkeypatch.setattr("posecore.models.latency.time.perf_counter", lambda: now[0])
    assert forward_seconds(model, "dogs", repeats=3) == 2.0
    assert shapes == [((1, 3, *INPUT_SIZE), "dogs")] * 5

import pytest

from posecore.training.schedule import CosineSchedule, MultiStepSchedule


def test_published_warm_up_and_drops() -> None:
    schedule = MultiStepSchedule()
    total = 210 * 293
    assert schedule.factor(0, total) == pytest.approx(0.001)
    assert schedule.factor(250, total) == pytest.approx(1 - 0.5 * 0.999)
    assert schedule.factor(500, total) == 1.0
    assert schedule.factor(170 * 293 - 1, total) == 1.0
    assert schedule.factor(170 * 293, total) == pytest.approx(0.1)
    assert schedule.factor(200 * 293, total) == pytest.approx(0.01)


def test_cosine_goes_from_one_to_the_floor() -> None:
    schedule = CosineSchedule(warmup_steps=10, floor=0.1)
    assert schedule.factor(0, 110) == pytest.approx(0.001)
    assert schedule.factor(10, 110) == 1.0
    assert schedule.factor(60, 110) == pytest.approx(0.55)
    assert schedule.factor(110, 110) == pytest.approx(0.1)
    factors = [schedule.factor(step, 110) for step in range(10, 111)]
    assert factors == sorted(factors, reverse=True)


def test_the_cosine_of_rtmpose_begins_half_way() -> None:
    schedule = CosineSchedule(warmup_steps=1000, warmup_start=1e-5, begin=0.5, floor=0.05)
    total = 420 * 100
    assert schedule.factor(0, total) == pytest.approx(1e-5)
    assert schedule.factor(1000, total) == schedule.factor(total // 2, total) == 1.0
    assert schedule.factor(3 * total // 4, total) == pytest.approx(0.525)
    assert schedule.factor(total, total) == pytest.approx(0.05)

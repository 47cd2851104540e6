import pytest

from posecore.training.schedule import CosineSchedule, MultiStepSchedule, PolynomialSchedule


def test_published_warm_up_and_drops() -> None:
    schedule = MultiStepSchedule()
    total = 210 * 293
    assert schedule.factor(0, total) == pytest.approx(0.001)
    assert schedule.factor(250, total) == pytest.approx(1 - 0.5 * 0.999)
    assert schedule.factor(500, total) == 1.0
    assert schedule.factor(170 * 293 - 1, total) == 1.0
    assert schedule.factor(170 * 293, total) == pytest.approx(0.1)
    assert schedule.factor(200 * 293, total) == pytest.approx(0.01)


def test_mmengine_reaches_the_whole_rate_in_the_last_step_of_the_warm_up() -> None:
    """By its own recursion: every rate is the last one times 1 + (1 - s) / (n s + (t - 1) (1 - s)), n one less."""
    schedule, start, length = MultiStepSchedule(warmup_reaches="last"), 0.001, 499
    rate = start
    for step in range(1, 500):
        rate *= 1 + (1 - start) / (length * start + (step - 1) * (1 - start))
        assert schedule.factor(step, 10**6) == pytest.approx(rate, rel=1e-9)
    assert schedule.factor(498, 10**6) < 1
    assert schedule.factor(499, 10**6) == schedule.factor(500, 10**6) == 1.0
    assert MultiStepSchedule().factor(499, 10**6) < 1
    assert MultiStepSchedule(warmup_steps=1, warmup_reaches="last").factor(0, 10) == 1.0
    assert MultiStepSchedule(warmup_steps=0, warmup_reaches="last").factor(0, 10) == 1.0


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


def test_the_polynomial_of_sapiens2_is_a_line_from_the_end_of_the_warm_up_to_nothing() -> None:
    """As mmengine's scheduler, which multiplies the last rate by (1 - 1/(steps that are left))^power in every step."""
    schedule = PolynomialSchedule(warmup_steps=500, warmup_start=0.001)
    total = 10_000
    assert schedule.factor(0, total) == pytest.approx(0.001)
    assert schedule.factor(500, total) == 1.0
    assert schedule.factor(total, total) == 0.0
    for power in (1.0, 0.9):
        curved, rate = PolynomialSchedule(power=power), 1.0
        for step in range(501, total):
            rate *= (1 - 1 / (total - step + 1)) ** power
            if step % 500 == 1:
                assert curved.factor(step, total) == pytest.approx(rate, rel=1e-9)
    assert PolynomialSchedule(floor=0.2).factor(total, total) == pytest.approx(0.2)

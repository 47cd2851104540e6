import pytest
import torch

from posecore.errors import CheckpointError
from posecore.models.finite import is_finite, refuse_nonfinite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e5m2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_anywhere_is_found(dtype: torch.dtype, bad: float) -> None:
    for place in (0, 500, 999):
        values = torch.linspace(-3, 3, 1000)
        assert is_finite(values.to(dtype))
        values[place] = bad
        assert not is_finite(values.to(dtype).reshape(10, 100))


def test_large_numbers_whose_sum_is_no_number_are_finite() -> None:
    largest = torch.full((100,), torch.finfo(torch.float32).max)
    assert is_finite(largest)
    assert is_finite(-largest)
    assert is_finite(torch.cat([largest, -largest]))


def test_whole_numbers_and_nothing_are_finite() -> None:
    assert is_finite(torch.tensor(3))
    assert is_finite(torch.zeros(0))


def test_names_are_shortened() -> None:
    tensors = {f"t{i}": torch.tensor([0.0, float("nan")]) for i in range(5)} | {"good": torch.ones(2)}
    with pytest.raises(CheckpointError) as refusal:
        refuse_nonfinite(tensors, "here", "stop.")
    assert str(refusal.value) == "here: NaN or infinity in t0, t1, t2 and 2 more; stop."

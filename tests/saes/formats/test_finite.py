"""NaN and infinity are seen wherever they are, in every dtype that files have."""

import pytest
import torch

from saes.formats.files import all_finite


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 77, 999])
def test_one_bad_number_is_seen(dtype, bad, place):
    tensor = torch.linspace(-3, 3, 1000, dtype=dtype)
    assert all_finite(tensor)
    assert all_finite(tensor.reshape(10, 100).T)
    assert all_finite(torch.full((), 3.0, dtype=dtype))
    tensor[place] = bad
    assert not all_finite(tensor)
    assert not all_finite(tensor.reshape(10, 100).T)


def test_the_largest_numbers_are_finite():
    assert all_finite(torch.tensor([torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max]))
    assert all_finite(torch.zeros(0))

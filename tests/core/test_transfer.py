import pytest
import torch

from foveate.core.transfer import on_host
from tests.accelerator import counting, on_device


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.int32]
)
def test_values_of_all_types_come_back_bit_by_bit_with_one_wait(dtype):
    values = torch.tensor([0.1, -0.0, 7.0]).to(dtype)  # so few bytes that the next value must not start after them
    whole = torch.tensor([[1, 2**40]])
    with counting() as count:
        one, two, three = on_host(on_device(values), torch.tensor([True]), on_device(whole))
    assert count.own == 1
    assert one.dtype == dtype and torch.equal(one, values) and torch.equal(one.signbit(), values.signbit())
    assert torch.equal(two, torch.tensor([True])) and torch.equal(three, whole)


@pytest.mark.parametrize(
    "part", [lambda x: x[:, :1], lambda x: x[0, ::2], lambda x: x[0, :1].expand(5)], ids=["column", "steps", "repeated"]
)
def test_values_with_gaps_in_memory_come_back_too(part):
    values = torch.arange(12).view(3, 4)
    assert torch.equal(on_host(part(on_device(values)))[0], part(values))

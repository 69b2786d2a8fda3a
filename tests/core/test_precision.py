"""In which precision what is computed and held."""

import pytest
import torch
from torch import nn

from stillhouse.core.errors import StillhouseError
from stillhouse.core.precision import (
    at_least_float32,
    dtype_name,
    dtype_of,
    held_in,
    learnable,
    own_autocast,
)

CPU = torch.device("cpu")
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def test_names() -> None:
    for name, dtype in (("fp32", FP32), ("bf16", BF16), ("fp16", FP16)):
        assert dtype_of(name) is dtype and dtype_of(dtype) is dtype and dtype_name(dtype) == name
    assert dtype_of(torch.float64) is torch.float64 and dtype_name(torch.float64) == "float64"
    with pytest.raises(StillhouseError, match="precision 'bf61'; did you mean 'bf16'"):
        dtype_of("bf61")
    with pytest.raises(StillhouseError, match="precision 'torch.int64'"):
        dtype_of(torch.int64)


def test_the_first_floating_weight_counts() -> None:
    net = nn.Module()
    net.register_parameter("none", None)
    net.number = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
    assert held_in(net) is FP32
    net.inner = nn.Linear(2, 2).to(BF16)
    assert held_in(net) is BF16 and held_in(nn.Linear(2, 2).double()) is torch.float64


def test_halves_become_whole() -> None:
    for dtype, expected in ((BF16, FP32), (FP16, FP32), (FP32, FP32), (torch.float64, torch.float64)):
        assert at_least_float32(torch.zeros(1, dtype=dtype)).dtype is expected
    net = nn.BatchNorm1d(2).to(BF16)
    weight = net.weight
    assert learnable(net) is net and net.weight is weight and weight.dtype is FP32
    assert net.running_mean.dtype is FP32 and net.num_batches_tracked.dtype is torch.int64
    assert learnable(nn.Linear(1, 1).double()).weight.dtype is torch.float64


def computed(net: nn.Module, always: bool) -> torch.dtype:
    """The dtype of a product inside the network's own autocast."""
    with own_autocast(net, CPU, always=always):
        return (torch.zeros(1, 1) @ torch.zeros(1, 1)).dtype


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize(
    "held, on, expected",
    [
        (FP32, None, (FP32, FP32)),
        (FP32, BF16, (BF16, BF16)),
        (BF16, None, (FP32, BF16)),
        (FP16, None, (FP32, FP16)),
        (FP16, BF16, (FP16, FP16)),
        (BF16, BF16, (BF16, BF16)),
        (BF16, FP16, (BF16, BF16)),
    ],
)
def test_a_network_computes_in_the_half_that_it_is_held_in(held, on, expected, always: bool) -> None:
    net = nn.Linear(1, 1).to(held)
    if on is None:
        assert computed(net, always) is expected[always]
    else:
        with torch.autocast("cpu", on):
            assert computed(net, always) is expected[always]


def test_no_context_where_none_is_needed() -> None:
    with torch.autocast("cpu", BF16):
        assert not isinstance(own_autocast(nn.Linear(1, 1).to(BF16), CPU), torch.autocast)
        assert isinstance(own_autocast(nn.Linear(1, 1).to(FP16), CPU), torch.autocast)
    assert isinstance(own_autocast(nn.Linear(1, 1).to(BF16), CPU, always=True), torch.autocast)

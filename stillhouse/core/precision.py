"""Precisions: a network computes in the one that it is held in, and what learns is held in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stillhouse.core.errors import unknown

M = TypeVar("M", bound=nn.Module)

HALF = (torch.float16, torch.bfloat16)
NAMES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(precision: str | torch.dtype) -> torch.dtype:
    """The dtype of a precision's name, ``fp32``, ``bf16`` or ``fp16``; a floating dtype as it is. Raises
    :class:`StillhouseError` for anything else."""
    if isinstance(precision, torch.dtype) and precision.is_floating_point:
        return precision
    if precision not in NAMES:
        raise unknown("precision", str(precision), NAMES)
    return NAMES[str(precision)]


def dtype_name(dtype: torch.dtype) -> str:
    """The inverse of :func:`dtype_of`; of another dtype its own name."""
    return next((name for name, known in NAMES.items() if known == dtype), str(dtype).removeprefix("torch."))


def held_in(net: nn.Module) -> torch.dtype:
    """The dtype of a network's first floating weight; float32 for a network without any."""
    for module in net.modules():  # without the names that `parameters` makes: every call of a network asks
        for p in module._parameters.values():
            if p is not None and p.is_floating_point():
                return p.dtype
    return torch.float32


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 where it is in half precision, else as it is."""
    return x.float() if x.dtype in HALF else x


def learnable(module: M) -> M:
    """``module``, whose half-precision weights and buffers become float32 in place: an optimiser's small
    steps are lost in a half weight's rounding."""
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.dtype in HALF:
            tensor.data = tensor.data.float()
    return module


def own_autocast(
    net: nn.Module, device: torch.device, *, always: bool = False
) -> AbstractContextManager[Any]:
    """Autocast to the half precision that a network is held in, where it is on to the other one: operators
    that are given both fail.

    Arguments:
        net: the network that is called inside.
        device: where it computes.
        always: also where autocast is off, for a network that is given float32 states.

    Returns:
        A context; one without effect for a network in float32.
    """
    on = torch.is_autocast_enabled(device.type)
    if not (on or always):
        return nullcontext()
    dtype = held_in(net)
    if dtype not in HALF or (on and dtype == torch.get_autocast_dtype(device.type)):
        return nullcontext()
    return torch.autocast(device.type, dtype)

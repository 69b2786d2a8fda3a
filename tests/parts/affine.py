"""A denoiser whose answers can be written out by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.process import Process
from stillhouse.core.schedules import Flow


class Affine(nn.Module):
    """``a x + b t + cond``, in float64; the condition, one number a row, is left out where there is none."""

    def __init__(self, a: float, b: float):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None, **extra: Any) -> Tensor:
        each = self.b * t + (0 if cond is None else cond)
        return self.a * x + each.reshape(-1, *[1] * (x.dim() - 1))


def affine(a: float, b: float, process: Process | None = None, kind: str = "x0") -> Denoiser:
    """A denoiser around :class:`Affine`, by default of clean data on :class:`Flow`."""
    return Denoiser(Affine(a, b), process or Flow(), kind)


def f64(values: Any) -> Tensor:
    """``values`` in float64."""
    return torch.tensor(values, dtype=torch.float64)

"""Pipelines without text: DiT's classes, and U-Nets of pixels (DDPM, DDIM, and EDM by its scheduler)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, as_tensor
from stillhouse.io.pipelines.base import Family


class DiT(Family):
    """Peebles & Xie, 2022 (arXiv 2212.09748). Condition: labels (B,), -1 for none. The learned variance is
    dropped."""

    pipelines = ("DiTPipeline",)
    part = "transformer"
    guidance = 4.0

    @property
    def patch(self) -> int:  # type: ignore[override]
        size: int = self.network.config.patch_size
        return size

    @property
    def pixels(self) -> int:
        # this pipeline does not say it
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def classes(self) -> int:
        classes: int = self.network.config.num_embeds_ada_norm
        return classes

    def null_condition(self) -> Tensor:
        return torch.tensor([-1])

    def call(
        self,
        net: Any,
        x: Tensor,
        t: Tensor,
        cond: Condition,
        *,
        guidance: Tensor | None = None,
        s: Tensor | None = None,
    ) -> Tensor:
        labels = as_tensor(cond)
        # the row after the last class is the empty one
        labels = torch.where(labels < 0, self.classes, labels)
        out: Tensor = net(x, timestep=self.step_of(t), class_labels=labels).sample
        return out


class PixelUNet(Family):
    """Ho et al., 2020 (arXiv 2006.11239); Karras et al., 2022 (arXiv 2206.00364) where the scheduler is
    EDM's.

    Condition: labels (B,) where the network has classes, with no empty one; else nothing.
    """

    pipelines = ("DDPMPipeline", "DDIMPipeline")

    @property
    def classes(self) -> int:
        return self.network.config.num_class_embeds or 0

    def call(
        self,
        net: Any,
        x: Tensor,
        t: Tensor,
        cond: Condition,
        *,
        guidance: Tensor | None = None,
        s: Tensor | None = None,
    ) -> Tensor:
        out: Tensor = net(x, self.step_of(t), class_labels=cond if self.classes else None).sample
        return out

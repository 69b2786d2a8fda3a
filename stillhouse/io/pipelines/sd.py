"""Stable Diffusion 1.x and 2.x: a U-Net with one text encoder, predicting noise or v on a table of 1000
steps."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, Parts, as_parts
from stillhouse.core.errors import require
from stillhouse.io.pipelines.base import Family


class SD(Family):
    """Rombach et al., 2021 (arXiv 2112.10752). Condition: ``tokens`` (B, L, C)."""

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")
    guidance = 7.5

    def __init__(self, pipe: Any, *args: Any, **kwargs: Any):
        super().__init__(pipe, *args, **kwargs)
        reads, writes = self.network.config.in_channels, self.network.config.out_channels
        require(
            reads == writes,
            f"This U-Net reads {reads} channels and gives {writes}: an inpainting or editing model, which "
            "needs an adapter.",
        )

    def encode_plain(self, prompts: list[str]) -> Parts:
        return {"tokens": self.pipe.encode_prompt(prompts, self.text_device, 1, False)[0]}

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
        parts = as_parts(cond)
        inputs = {"encoder_hidden_states": parts["tokens"], **scale_input(net, x, guidance)}
        out: Tensor = net(x, self.step_of(t), **inputs, return_dict=False)[0]
        return out

    @property
    def takes_guidance(self) -> bool:
        return self.network.config.time_cond_proj_dim is not None


def scale_input(net: Any, x: Tensor, guidance: Tensor | None) -> dict[str, Tensor]:
    """The guidance scale as a U-Net's input (``time_cond_proj_dim``): waves of ``1000 (w - 1)``.

    Arguments:
        net: the U-Net.
        x: states, (B, *shape), whose dtype the waves have.
        guidance: scales, (B,) or one for all; None: 1.

    Returns:
        ``timestep_cond``, (B, dim); empty for a network without the input.
    """
    dim = net.config.time_cond_proj_dim
    if dim is None:
        return {}
    w = torch.ones(len(x), device=x.device) if guidance is None else guidance.expand(len(x))
    rate = torch.exp(
        torch.arange(dim // 2, device=x.device) * (-torch.log(torch.tensor(1e4)) / (dim // 2 - 1))
    )
    angle = 1000 * (w.float() - 1)[:, None] * rate
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)
    return {"timestep_cond": torch.nn.functional.pad(waves, (0, dim % 2)).to(x.dtype)}

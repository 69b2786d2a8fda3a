"""Flux: a transformer of a flow on packed patches, with CLIP's pooled vector, T5's tokens, and (dev) guidance
as an input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, Parts, as_parts
from stillhouse.io.pipelines.base import Family
from stillhouse.io.pipelines.sd3 import shift_of_size


class Flux(Family):
    """Black Forest Labs, 2024. Condition: ``tokens`` (B, L, C) of T5 and ``pooled`` (B, P) of CLIP. Time is
    given in [0, 1].

    Our state is the picture (16, h, w); it is packed into 2 x 2 patches on the way into the network and
    unpacked on the way out. A network that takes the guidance scale is given the pipeline's default where
    there is none, for it was never trained without.
    """

    pipelines = ("FluxPipeline",)
    part = "transformer"
    patch = 2
    guidance = 3.5
    lengths = {"tokenizer_2": 512}

    @property
    def side(self) -> tuple[int, int]:
        return self.pipe.default_sample_size, self.pipe.default_sample_size

    @property
    def channels(self) -> int:
        channels: int = self.network.config.in_channels // 4
        return channels

    @property
    def takes_guidance(self) -> bool:
        return bool(self.network.config.guidance_embeds)

    def encode_plain(self, prompts: list[str]) -> Parts:
        length = self.lengths["tokenizer_2"]
        tokens, pooled, _ = self.pipe.encode_prompt(
            prompts, None, device=self.text_device, max_sequence_length=length
        )
        return {"tokens": tokens, "pooled": pooled}

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
        rows, _, height, width = x.shape
        scale = None
        if net.config.guidance_embeds:
            scale = (
                torch.full((rows,), self.guidance, device=x.device)
                if guidance is None
                else guidance.expand(rows)
            )
        out = net(
            hidden_states=pack(x),
            timestep=t,
            guidance=scale,
            encoder_hidden_states=parts["tokens"],
            pooled_projections=parts["pooled"],
            txt_ids=x.new_zeros(parts["tokens"].shape[1], 3),
            img_ids=places(height // 2, width // 2, x),
            return_dict=False,
        )[0]
        return unpack(out, height, width)

    def steps_options(self, n: int) -> dict[str, Any]:
        if self.pipe.scheduler.config.get("use_flow_sigmas"):
            return {}
        even = [1 - i / n for i in range(n)]
        return {"sigmas": even, **shift_of_size(self.pipe.scheduler, self.shape, 2, 1.15)}


def pack(x: Tensor) -> Tensor:
    """A picture (B, C, h, w) as patches (B, h w / 4, 4 C)."""
    rows, channels, height, width = x.shape
    patches = x.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(rows, height * width // 4, 4 * channels)


def unpack(patches: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`pack`.

    Arguments:
        patches: (B, height width / 4, 4 C).
        height: of the picture, even.
        width: of the picture, even.

    Returns:
        Pictures, (B, C, height, width).
    """
    rows, _, four = patches.shape
    split = patches.reshape(rows, height // 2, width // 2, four // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return split.reshape(rows, four // 4, height, width)


def places(height: int, width: int, reference: Tensor) -> Tensor:
    """Row and column of each patch.

    Arguments:
        height: of the picture, in patches.
        width: of the picture, in patches.
        reference: a tensor whose dtype and device the result has.

    Returns:
        Row by row, (height width, 3), the first number 0.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).to(reference)

"""Stable Diffusion XL and its kin: a U-Net with two text encoders that is also conditioned on the picture's
size and crop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, Parts, apply, as_parts
from stillhouse.io.pipelines.sd import SD, scale_input


class SDXL(SD):
    """Podell et al., 2023 (arXiv 2307.01952).

    Condition: ``tokens`` (B, L, C), ``pooled`` (B, P), and ``ids`` (B, 6), the original size, the crop and
    the target size. The EDM-preconditioned kind (Playground 2.5) is read from its scheduler. Whether the
    empty prompt is an embedding of zeros is the pipeline's ``force_zeros_for_empty_prompt``.
    """

    pipelines = ("StableDiffusionXLPipeline",)
    guidance = 5.0

    def encode_plain(self, prompts: list[str]) -> Parts:
        tokens, _, pooled, _ = self.pipe.encode_prompt(
            prompts, device=self.text_device, do_classifier_free_guidance=False
        )
        ids = torch.tensor([*self.size, 0, 0, *self.size], dtype=tokens.dtype, device=tokens.device)
        return {"tokens": tokens, "pooled": pooled, "ids": ids.repeat(len(prompts), 1)}

    def null_condition(self) -> Parts:
        inputs = self.encode_plain([""])
        if not self.pipe.config.force_zeros_for_empty_prompt:
            return inputs
        return {**apply(torch.zeros_like, inputs), "ids": inputs["ids"]}

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
        added = {"text_embeds": parts["pooled"], "time_ids": parts["ids"]}
        inputs = {
            "encoder_hidden_states": parts["tokens"],
            "added_cond_kwargs": added,
            **scale_input(net, x, guidance),
        }
        out: Tensor = net(x, self.step_of(t), **inputs, return_dict=False)[0]
        return out

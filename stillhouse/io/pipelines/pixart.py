"""PixArt-alpha and PixArt-sigma: a transformer on a table of noise levels, conditioned on T5's tokens and
their mask."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.core.conditions import Condition, Parts, as_parts
from stillhouse.io.pipelines.base import Family


class PixArt(Family):
    """Chen et al., 2023 (arXiv 2310.00426) and 2024 (arXiv 2403.04692).

    Condition: ``tokens`` (B, L, C) and ``mask`` (B, L), 1 where there is text. The large alpha model also
    takes ``resolution`` (B, 2) and ``aspect`` (B, 1). The learned variance is dropped.
    """

    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    part = "transformer"
    guidance = 4.5

    @property
    def patch(self) -> int:  # type: ignore[override]
        size: int = self.network.config.patch_size
        return size

    @property
    def lengths(self) -> dict[str, int]:  # type: ignore[override]
        return {"tokenizer": 120 if "Alpha" in type(self.pipe).__name__ else 300}

    @property
    def _takes_size(self) -> bool:
        # the sigma pipeline never gives it, whatever the network
        return "Alpha" in type(self.pipe).__name__ and self.network.config.sample_size == 128

    def encode_plain(self, prompts: list[str]) -> Parts:
        length = self.lengths["tokenizer"]
        tokens, mask, _, _ = self.pipe.encode_prompt(
            prompts,
            False,
            device=self.text_device,
            clean_caption=True,
            max_sequence_length=length,  # cleaned, as its own call does
        )
        inputs = {"tokens": tokens, "mask": mask}
        if self._takes_size:
            height, width = self.size
            inputs["resolution"] = tokens.new_tensor([height, width]).repeat(len(prompts), 1)
            inputs["aspect"] = tokens.new_tensor([height / width]).repeat(len(prompts), 1)
        return inputs

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
        added = {"resolution": parts.get("resolution"), "aspect_ratio": parts.get("aspect")}
        inputs = {
            "encoder_hidden_states": parts["tokens"],
            "encoder_attention_mask": parts["mask"],
            "added_cond_kwargs": added,
        }
        out: Tensor = net(x, timestep=self.step_of(t), **inputs, return_dict=False)[0]
        return out

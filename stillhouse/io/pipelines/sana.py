"""SANA: a linear-attention transformer of a flow on deeply compressed latents, conditioned by a language
model."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from stillhouse.core.conditions import Condition, Parts, as_parts
from stillhouse.io.pipelines.base import Family


class Sana(Family):
    """Xie et al., 2024 (arXiv 2410.10629). Condition: ``tokens`` (B, L, C) and ``mask`` (B, L), 1 where there
    is text.

    Prompts are put after the pipeline's own instruction to the language model; the empty one is given without
    it, as the pipeline does.
    """

    pipelines = ("SanaPipeline",)
    part = "transformer"
    guidance = 4.5
    lengths = {"tokenizer": 300}

    @property
    def patch(self) -> int:  # type: ignore[override]
        size: int = self.network.config.patch_size
        return size

    def encode_plain(self, prompts: list[str]) -> Parts:
        return self._encoded(
            prompts,
            inspect.signature(type(self.pipe).__call__).parameters["complex_human_instruction"].default,
        )

    def null_condition(self) -> Parts:
        return self._encoded([""], None)

    def _encoded(self, prompts: list[str], instruction: list[str] | None) -> Parts:
        tokens, mask, _, _ = self.pipe.encode_prompt(
            prompts,
            False,
            device=self.text_device,
            max_sequence_length=self.lengths["tokenizer"],
            complex_human_instruction=instruction,
        )
        return {"tokens": tokens, "mask": mask}

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
        step = self.step_of(t) * net.config.timestep_scale
        out: Tensor = net(
            x,
            encoder_hidden_states=parts["tokens"],
            encoder_attention_mask=parts["mask"],
            timestep=step,
            return_dict=False,
        )[0]
        return out

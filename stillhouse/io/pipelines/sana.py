"""SANA: a linear-attention transformer of a flow on deeply compressed latents, conditioned on a language
model's tokens."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.io.pipelines.base import Family


class Sana(Family):
    """Xie et al., 2024 (arXiv 2410.10629). Condition: ``tokens`` (B, L, C) and ``mask`` (B, L), 1 where there
    is text.

    Prompts are put after the pipeline's own instruction to the language model; the empty one goes without it,
    as in the pipeline.
    """

    pipelines = ("SanaPipeline",)
    part = "transformer"
    guidance = 4.5
    lengths = {"tokenizer": 300}

    @property
    def patch(self) -> int:  # type: ignore[override]
        return self.network.config.patch_size

    def encode_plain(self, prompts: list[str]) -> Condition:
        return self._encoded(
            prompts,
            inspect.signature(type(self.pipe).__call__).parameters["complex_human_instruction"].default,
        )

    def null_condition(self) -> Condition:
        return self._encoded([""], None)

    def _encoded(self, prompts: list[str], instruction: list[str] | None) -> Condition:
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
        step = self.step_of(t) * net.config.timestep_scale
        return net(
            x,
            encoder_hidden_states=cond["tokens"],
            encoder_attention_mask=cond["mask"],
            timestep=step,
            return_dict=False,
        )[0]

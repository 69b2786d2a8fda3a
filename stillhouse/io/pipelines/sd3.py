"""Stable Diffusion 3 and 3.5: a transformer of a flow, with two CLIP encoders and T5."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.io.pipelines.base import Family


class SD3(Family):
    """Esser et al., 2024 (arXiv 2403.03206). Condition: ``tokens`` (B, L, C), those of CLIP before those of
    T5, and ``pooled`` (B, P).

    T5 may be left out of the pipeline: its tokens are then zeros.
    """

    pipelines = ("StableDiffusion3Pipeline",)
    part = "transformer"
    guidance = 7.0
    lengths = {"tokenizer_3": 256}

    @property
    def patch(self) -> int:  # type: ignore[override]
        return self.network.config.patch_size

    def encode_plain(self, prompts: list[str]) -> Condition:
        tokens, _, pooled, _ = self.pipe.encode_prompt(
            prompts, None, None, device=self.text_device, do_classifier_free_guidance=False
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
        inputs = {"encoder_hidden_states": cond["tokens"], "pooled_projections": cond["pooled"]}
        return net(hidden_states=x, timestep=self.step_of(t), **inputs, return_dict=False)[0]

    def steps_options(self, n: int) -> dict[str, Any]:
        return shift_of_size(self.pipe.scheduler, self.shape, self.patch, 1.16)


def shift_of_size(scheduler: Any, shape: tuple[int, ...], patch: int, most: float) -> dict[str, float]:
    """``mu``, the scheduler's shift where it grows with the number of patches (``use_dynamic_shifting``);
    nothing where it does not."""
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return {}
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", most)
    tokens = (shape[-2] // patch) * (shape[-1] // patch)
    return {"mu": low + (high - low) * (tokens - few) / (many - few)}

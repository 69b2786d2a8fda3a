"""Stable Diffusion 3 and 3.5: a transformer of a flow, with two CLIP encoders and T5."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.core.conditions import Condition, Parts, as_parts
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
        size: int = self.network.config.patch_size
        return size

    def encode_plain(self, prompts: list[str]) -> Parts:
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
        parts = as_parts(cond)
        inputs = {"encoder_hidden_states": parts["tokens"], "pooled_projections": parts["pooled"]}
        out: Tensor = net(hidden_states=x, timestep=self.step_of(t), **inputs, return_dict=False)[0]
        return out

    def steps_options(self, n: int) -> dict[str, Any]:
        return shift_of_size(self.pipe.scheduler, self.shape, self.patch, 1.16)


def shift_of_size(scheduler: Any, shape: tuple[int, ...], patch: int, most: float) -> dict[str, float]:
    """The scheduler's shift where it grows with the number of patches (``use_dynamic_shifting``).

    Arguments:
        scheduler: of Diffusers.
        shape: of a latent; its last two numbers count.
        patch: side of a patch, in latent pixels.
        most: shift at the largest size where the scheduler names none.

    Returns:
        ``mu`` for ``set_timesteps``; empty where the shift does not grow.
    """
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return {}
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", most)
    tokens = (shape[-2] // patch) * (shape[-1] // patch)
    return {"mu": low + (high - low) * (tokens - few) / (many - few)}

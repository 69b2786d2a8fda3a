"""LTX-Video: a transformer of a flow on a strongly compressing autoencoder's latents of clips, conditioned by
T5."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.core.conditions import Condition, Parts, as_parts
from stillhouse.io.pipelines.sd3 import shift_of_size
from stillhouse.io.pipelines.video import VideoFamily


class LTX(VideoFamily):
    """HaCohen et al., 2024 (arXiv 2501.00103). Condition: ``tokens`` (B, L, C) and ``mask`` (B, L), True
    where there is text.

    Every latent pixel is a token, with its place in seconds and pixels, at the pipeline's own frame rate. A
    decoder that takes a noise level is given 0, as the pipeline does by default.
    """

    pipelines = ("LTXPipeline",)
    guidance = 3.0
    lengths = {"tokenizer": 128}

    @property
    def pixels(self) -> int:
        pixels: int = self.pipe.vae_spatial_compression_ratio
        return pixels

    @property
    def pace(self) -> int:
        frames: int = self.pipe.vae_temporal_compression_ratio
        return frames

    def encode_plain(self, prompts: list[str]) -> Parts:
        length = self.lengths["tokenizer"]
        tokens, mask, _, _ = self.pipe.encode_prompt(
            prompts, None, False, device=self.text_device, max_sequence_length=length
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
        _, frames, _, height, width = x.shape
        seconds = self.pace / self._default("frame_rate")
        out = net(
            pack(x),
            parts["tokens"],
            self.step_of(t),
            parts["mask"],
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(seconds, self.pixels, self.pixels),
            return_dict=False,
        )[0]
        return unpack(out, frames, height, width)

    def steps_options(self, n: int) -> dict[str, Any]:
        frames, _, height, width = self.shape
        return {
            "sigmas": [1 - i / n for i in range(n)],
            **shift_of_size(self.pipe.scheduler, (frames * height, width), 1, 1.15),
        }

    def _scale(self, reference: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.vae.latents_mean, self.vae.latents_std  # weights here, not configuration
        return mean.to(reference).reshape(1, -1, 1, 1), self.vae.config.scaling_factor / std.to(
            reference
        ).reshape(1, -1, 1, 1)

    def _decoded(self, raw: Tensor) -> Tensor:
        level = raw.new_zeros(len(raw)) if self.vae.config.timestep_conditioning else None
        frames: Tensor = self.vae.decode(raw, level).sample
        return frames


def pack(x: Tensor) -> Tensor:
    """Latents (B, f, C, h, w) as tokens (B, f h w, C)."""
    return x.movedim(2, -1).flatten(1, 3)


def unpack(tokens: Tensor, frames: int, height: int, width: int) -> Tensor:
    """The inverse of :func:`pack`.

    Arguments:
        tokens: (B, f h w, C).
        frames: f of the latents.
        height: h of the latents.
        width: w of the latents.

    Returns:
        Latents, (B, f, C, h, w).
    """
    x: Tensor = tokens.unflatten(1, (frames, height, width)).movedim(-1, 2)
    return x

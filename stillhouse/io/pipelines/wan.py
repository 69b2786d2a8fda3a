"""Wan: a transformer of a flow on a causal autoencoder's latents of clips, conditioned by UMT5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from stillhouse.core.conditions import Condition, Parts, as_parts
from stillhouse.core.errors import require
from stillhouse.io.pipelines.video import VideoFamily


class Wan(VideoFamily):
    """Wan team, 2025 (arXiv 2503.20314), 2.1 and the 5B model of 2.2. Condition: ``tokens`` (B, L, C), zeros
    after the text.

    The pair of networks of Wan 2.2's larger model, one above and one below a noise level, is refused: a
    student here is one network.
    """

    pipelines = ("WanPipeline",)
    guidance = 5.0
    lengths = {"tokenizer": 512}

    def __init__(
        self,
        pipe: Any,
        height: int | None = None,
        width: int | None = None,
        folder: str | Path | None = None,
        frames: int | None = None,
    ):
        one = pipe.transformer is not None and pipe.config.get("boundary_ratio") is None
        require(
            one,
            "This WanPipeline samples with two networks, split by a noise level; only those with one can be "
            "distilled.",
        )
        super().__init__(pipe, height, width, folder, frames)

    @property
    def patch(self) -> int:  # type: ignore[override]
        size: int = self.network.config.patch_size[-1]
        return size

    @property
    def pixels(self) -> int:
        pixels: int = self.pipe.vae_scale_factor_spatial
        return pixels

    @property
    def pace(self) -> int:
        frames: int = self.pipe.vae_scale_factor_temporal
        return frames

    def encode_plain(self, prompts: list[str]) -> Parts:
        length = self.lengths["tokenizer"]
        return {
            "tokens": self.pipe.encode_prompt(
                prompts, None, False, device=self.text_device, max_sequence_length=length
            )[0]
        }

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
        out: Tensor = net(
            x.transpose(1, 2),
            timestep=self.step_of(t),
            encoder_hidden_states=parts["tokens"],
            return_dict=False,
        )[0]
        return out.transpose(1, 2)

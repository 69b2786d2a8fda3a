"""What pipelines of clips have beside those of pictures: a number of frames, and an autoencoder that
compresses time."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.errors import require
from stillhouse.io.pipelines.base import Family


class VideoFamily(Family):
    """A pipeline of clips. Our states and latents are (B, f, C, h, w), clips (B, frames, 3, height, width) in
    [-1, 1].

    Diffusers has channels before frames; ``call`` turns a state round on its way into the network and back on
    its way out. The first of ``frames`` makes a latent frame of its own, and each further latent frame stands
    for ``pace`` of them.
    """

    part = "transformer"

    def __init__(
        self,
        pipe: Any,
        height: int | None = None,
        width: int | None = None,
        folder: str | Path | None = None,
        frames: int | None = None,
    ):
        self.pipe = pipe
        self.frames = self._default("num_frames") if frames is None else frames
        rule = f"The number of frames must be 1 more than a multiple of {self.pace} for {type(pipe).__name__}"
        require(self.frames > 0 and self.frames % self.pace == 1 % self.pace, f"{rule}, not {self.frames}.")
        super().__init__(pipe, height, width, folder)

    def at(self, height: int, width: int) -> Family:
        return type(self)(self.pipe, height, width, self.folder, self.frames)

    @property
    def pace(self) -> int:
        """Frames of a clip to one of its latent, after the first."""
        raise NotImplementedError

    @property
    def side(self) -> tuple[int, int]:
        return self._default("height") // self.pixels, self._default("width") // self.pixels

    def _default(self, name: str) -> int:
        """A number that the pipeline's own call takes where it is given none."""
        return int(inspect.signature(type(self.pipe).__call__).parameters[name].default)

    def _shape(self, height: int | None, width: int | None) -> tuple[int, ...]:
        return ((self.frames - 1) // self.pace + 1, *super()._shape(height, width))

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Latents (B, f, C, h, w) of clips (B, frames, 3, height, width) in [-1, 1]: the mode of the
        posterior, scaled."""
        frames, sides = images.shape[1], tuple(images.shape[-2:])
        require(
            frames % self.pace == 1 % self.pace,
            f"Clips must have 1 more than a multiple of {self.pace} frames, not {frames}.",
        )
        require(
            not any(side % self.pixels for side in sides),
            f"Clips must have sides in multiples of {self.pixels} pixels, not {sides}.",
        )
        with self._upcast():
            encoded = self.vae.encode(images.to(self.vae.device, self.vae.dtype).transpose(1, 2))
        raw = encoded.latent_dist.mode().transpose(1, 2)
        shift, factor = self._scale(raw)
        latents: Tensor = ((raw - shift) * factor).to(images)
        return latents

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """Clips (B, frames, 3, height, width), about [-1, 1], of latents (B, f, C, h, w)."""
        with self._upcast():
            raw = latents.to(self.vae.device, self.vae.dtype)
            shift, factor = self._scale(raw)
            return self._decoded((raw / factor + shift).transpose(1, 2)).transpose(1, 2).to(latents)

    def _decoded(self, raw: Tensor) -> Tensor:
        """The autoencoder's clips (B, 3, frames, height, width) of its own latents."""
        frames: Tensor = self.vae.decode(raw).sample
        return frames

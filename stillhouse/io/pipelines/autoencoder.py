"""The autoencoder of a pipeline, and the sizes of its latents and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.errors import require


@dataclass
class Codec:
    """A pipeline's autoencoder, between images (B, 3, H, W) in [-1, 1] and scaled latents."""

    family: Autoencoded

    def encode(self, images: Tensor) -> Tensor:
        return self.family.latents(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.family.images(latents)


class Autoencoded:
    """The part of a :class:`~stillhouse.io.pipelines.base.Family` that is about latents and pictures.

    ``pipe``: the pipeline. ``shape``: of a latent. ``patch``: what a latent's sides must be divisible by.
    """

    pipe: Any
    shape: tuple[int, ...]
    patch: int = 1

    @property
    def network(self) -> Any:
        """The U-Net or transformer itself, not a copy."""
        raise NotImplementedError

    @property
    def vae(self) -> Any:
        """The autoencoder; None for a model of pixels."""
        return self.pipe.components.get("vae")

    @property
    def pixels(self) -> int:
        """Pixels to a latent's side."""
        return int(self.pipe.vae_scale_factor) if self.vae is not None else 1

    def _scale(self, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and factor with ``latents = (vae output - shift) factor``."""
        config = self.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        shift = torch.tensor(mean if mean is not None else [config.get("shift_factor") or 0.0])
        factor = config.get("scaling_factor", 1.0) / torch.tensor(std if std is not None else [1.0])
        return shift.to(reference).reshape(1, -1, 1, 1), factor.to(reference).reshape(1, -1, 1, 1)

    @contextmanager
    def _upcast(self) -> Iterator[None]:
        """Inside the block the autoencoder is float32 if its weights are float16 and its configuration has
        ``force_upcast``: its activations leave the range of float16, and pictures would be black. The way to
        float32 and back changes no weight."""
        vae = self.vae
        lifted = vae.dtype == torch.float16 and bool(vae.config.get("force_upcast"))
        if lifted:
            vae.to(torch.float32)
        try:
            yield
        finally:
            if lifted:
                vae.to(torch.float16)

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Latents (B, *shape) of images (B, 3, H, W) in [-1, 1]: the mode of the posterior, scaled. Pixels
        stay as they are."""
        if self.vae is None:
            return images
        even = not any(side % self.pixels for side in images.shape[-2:])
        require(
            even,
            f"Pictures must have sides in multiples of {self.pixels} pixels, not {tuple(images.shape[-2:])}.",
        )
        with self._upcast():
            pred = self.vae.encode(images.to(self.vae.device, self.vae.dtype))
        raw = pred.latent_dist.mode() if hasattr(pred, "latent_dist") else pred.latent
        shift, factor = self._scale(raw)
        latents: Tensor = ((raw - shift) * factor).to(images)
        return latents

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W), about [-1, 1], of latents (B, *shape)."""
        if self.vae is None:
            return latents
        with self._upcast():
            raw = latents.to(self.vae.device, self.vae.dtype)
            shift, factor = self._scale(raw)
            images: Tensor = self.vae.decode(raw / factor + shift).sample.to(latents)
        return images

    @property
    def codec(self) -> Codec | None:
        """:meth:`latents` and :meth:`images` as a codec; None for a model of pixels."""
        return None if self.vae is None else Codec(self)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.shape[-2] * self.pixels, self.shape[-1] * self.pixels

    @property
    def side(self) -> tuple[int, int]:
        """The latent's default height and width."""
        side = self.network.config.sample_size
        return (side, side) if isinstance(side, int) else tuple(side)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        channels: int = self.network.config.in_channels
        return channels

    def _shape(self, height: int | None, width: int | None) -> tuple[int, ...]:
        sides = []
        for name, given, default in (("height", height, self.side[0]), ("width", width, self.side[1])):
            unit = self.pixels * self.patch
            require(
                given is None or (given > 0 and given % unit == 0),
                f"The {name} must be a multiple of {unit} pixels for {type(self.pipe).__name__}, not "
                f"{given}.",
            )
            sides.append(default if given is None else given // self.pixels)
        return (self.channels, *sides)

"""Images (C, H, W) in [-1, 1]: a sheet of tiles."""

from __future__ import annotations

from stillhouse.forms.base import Form, Sampled


class Image(Form):
    """Pictures, or latents of such."""

    name = "image"
    shown = 40

    def fits(self, model: Sampled) -> bool:
        return len(model.shape) == 3

"""Photographs, restored: a network of small patches on a picture of any size, tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.core.errors import require
from stillhouse.forms.base import Option, Request, Sampled
from stillhouse.forms.image import Image

if TYPE_CHECKING:
    from torch import Tensor

    from stillhouse.io.photo import Photo

TILE, OVERLAP = 64, 16  # pixels
LARGEST = 8  # times


class Photograph(Image):
    """Images under the image that they are to be made of."""

    title = "a photograph, restored"
    options = (
        Option(
            "--image",
            str,
            "photograph of any size; a x4 model makes it 4 times as large [restored.png]",
            metavar="FILE",
        ),
        Option("--scale", int, "how many times larger it becomes [as the model was trained]", metavar="N"),
        Option("--tile", int, f"side of the tiles that the network takes [{TILE}]", TILE, "PIXELS"),
        Option("--overlap", int, f"what neighbouring tiles share [{OVERLAP}]", OVERLAP, "PIXELS"),
    )
    refusal = "This model restores no photographs: it takes no image."

    def fits(self, model: Sampled) -> bool:
        return super().fits(model) and model.cond_kind == "image"

    def check(self, request: Request) -> None:
        pass  # sampling takes neither

    def restore(
        self,
        model: Sampled,
        image: Tensor | Photo | str | Path,
        scale: int | None = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        tile: int = TILE,
        overlap: int = OVERLAP,
        show: bool = False,
    ) -> Any:
        """A whole picture, enlarged by the bicubic kernel and restored, tile by tile.

        Arguments:
            model: a network of patches that takes the image to restore.
            image: a file's name, a :class:`stillhouse.io.photo.Photo`, or a tensor (C, H, W) or (B, C, H, W)
                in [-1, 1]; 8 pixels a side or more.
            scale: how many times larger it becomes, 1 … 8; None for that of the model's training.
            steps: number of steps; None for the default.
            guidance: scale ``w``, 1 for none; None for the sampling's own.
            seed: of all random draws.
            tile: side of the square tiles in pixels, divisible by 8.
            overlap: pixels that neighbours share, divisible by 8.
            show: a progress bar.

        Returns:
            A tensor for a tensor, else a ``Photo``, ``scale`` times as large.

        Raises:
            StillhouseError: for a scale or tiles that don't fit, a picture that can't be read, and where the
            result is not finite.
        """
        import torch

        from stillhouse.io.photo import Photo, read_photo

        scale = scale_of(model.info.get("recipe", {}).get("world")) if scale is None else scale
        require(1 <= scale <= LARGEST, f"A photograph becomes 1 to {LARGEST} times as large, not {scale}.")
        how: dict[str, Any] = {"steps": steps, "guidance": guidance, "seed": seed}
        how |= {"tile": tile, "overlap": overlap, "show": show}
        if torch.is_tensor(image):
            several = image if image.dim() == 4 else image[None]
            large = torch.cat([Photo(one).enlarged(scale).colour[None] for one in several])
            restored = self._restored(model, large, **how)
            return restored if image.dim() == 4 else restored[0]
        photo = image if isinstance(image, Photo) else read_photo(image, scale)
        photo = photo.enlarged(scale)
        return Photo(self._restored(model, photo.colour[None], **how)[0], photo.alpha, photo.grey)

    @staticmethod
    def _restored(
        model: Sampled,
        image: Tensor,
        *,
        steps: int | None,
        guidance: float | None,
        seed: int,
        tile: int,
        overlap: int,
        show: bool,
    ) -> Tensor:
        """Images (B, C, H, W) of their final size, restored."""
        import torch
        from tqdm import tqdm

        from stillhouse.core.draws import Draws
        from stillhouse.samplers.tiled import restore

        sampling, device = model.sampling(steps, guidance), model.denoiser.device
        tiles = _tiles_of(model, image, tile, overlap)
        calls = sampling.nfe(model.denoiser, networks=model.networks)
        with tqdm(
            total=tiles * calls,
            desc="restore",
            unit="tile",
            dynamic_ncols=True,
            leave=False,
            disable=not show,
        ) as bar:
            tick: Callable[[int], object] = bar.update
            draws = Draws(len(image), seed, "photograph", device=device)
            restored = restore(
                model.denoiser.eval(),
                sampling,
                image.to(device),
                draws,
                least=model.shape[-1],
                tile=tile,
                overlap=overlap,
                tick=tick,
                networks=model.networks,
            ).cpu()
        require(
            bool(torch.isfinite(restored).all()),
            "The restored picture is not finite; is this the model of another scale?",
        )
        return restored

    def sample(self, model: Sampled, request: Request) -> str:
        """Restore the photograph ``--image`` and write it."""
        from stillhouse.io.photo import FORMATS, read_photo, write_photo

        asked = request.options
        require(bool(asked["image"]), "This model restores photographs; give it one: --image photo.jpg.")
        require(
            not (request.prompts or request.labels),
            "A photograph is restored without labels and prompts; leave them away.",
        )
        require(
            request.n in (None, 1),
            f"One photograph is restored at a time, not {request.n}; other seeds give other copies.",
        )
        out = request.file("restored.png")
        require(
            not out.suffix or out.suffix.lower() in FORMATS,
            f"A picture is written as {', '.join(FORMATS)}, not '{out.suffix}'.",
        )
        scale = asked["scale"] if asked["scale"] is not None else scale_of(request.entry)
        require(1 <= scale <= LARGEST, f"A photograph becomes 1 to {LARGEST} times as large, not {scale}.")
        given, sampling = read_photo(asked["image"], scale), model.sampling(request.steps, request.guidance)
        tile, overlap = asked["tile"], asked["overlap"]
        restored = self.restore(
            model,
            given,
            scale,
            steps=request.steps,
            guidance=request.guidance,
            seed=request.seed,
            tile=tile,
            overlap=overlap,
            show=True,
        )
        path = write_photo(out, restored)
        high, wide = restored.colour.shape[-2:]
        tiles = _tiles_of(model, restored.colour, tile, overlap)
        return (
            f"{path}: {wide} x {high} pixels, {scale} times as large, in {sampling.count} step(s), "
            f"{sampling.nfe(model.denoiser, networks=model.networks)} call(s) on {tiles} tiles"
        )


def _tiles_of(model: Sampled, image: Tensor, tile: int, overlap: int) -> int:
    """How many tiles cover an image (…, H, W); refuses tiles that don't fit."""
    from stillhouse.samplers.tiled import Tiled

    high, wide = (max(model.shape[-1], side) for side in image.shape[-2:])
    return len(Tiled(model.denoiser, tile, overlap).places(high, wide))


def scale_of(world: Any) -> int:
    """How many times larger a restoring model makes a picture, by its world's name or configuration."""
    from stillhouse.io.photo import SCALES

    task = world.get("task", "x4") if isinstance(world, dict) else "x4"
    return SCALES.get(task, 4)

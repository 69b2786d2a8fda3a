"""``shapes``: drawn scenes of one or two coloured shapes, each with its caption; endless, with captions held
out of all training."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stillhouse.core.draws import Draws, seed_of
from stillhouse.core.errors import require
from stillhouse.core.finite import FiniteDenoiser
from stillhouse.core.process import Process
from stillhouse.metrics.captions import CAPTIONS, LONGEST, OBJECTS, VOCABULARY, held_out
from stillhouse.metrics.reader import FIDELITY
from stillhouse.metrics.suite import IMAGES
from stillhouse.worlds.base import require_samples
from stillhouse.worlds.captioned import CaptionedWorld
from stillhouse.worlds.drawing import SIDE, compose, draw

if TYPE_CHECKING:
    from stillhouse.metrics.features import FeatureExtractor
    from stillhouse.metrics.reader import Reader

SPLITS = {"train": 4000, "test": 1000}  # images of the finite sets
EVERY = 6  # one scene in so many has a single object


class Shapes(CaptionedWorld):
    """Images (3, 32, 32) in [-1, 1] under 2,328 captions: "a red circle", "a red circle above a blue square".

    A label is a caption's number. The captions of the split ``test``, a tenth of those of two objects, are
    never drawn unless asked for: what a network makes of them shows whether it learned to put words together.
    """

    name = "shapes"
    metrics = (*FIDELITY, *IMAGES)
    shape = (3, SIDE, SIDE)
    captions = CAPTIONS
    infinite = True
    sigma_data = 0.41
    network_defaults = {
        "name": "unet",
        "image_channels": 3,
        "channels": (32, 64, 128),
        "patch": 2,
        "attention": 2,
        "token_dim": 48,
    }

    def __init__(self) -> None:
        super().__init__(VOCABULARY, LONGEST, held_out())

    def balanced_labels(self, n: int, split: str = "train") -> Tensor:
        """Captions spread over a split, every sixth of a single object where it has such, the same ones every
        time.

        Arguments:
            n: how many.
            split: ``train`` or ``test``.

        Returns:
            Numbers of captions, (n,).
        """
        ids, generator = (
            self.caption_ids(split),
            torch.Generator().manual_seed(seed_of("shapes", "even", split)),
        )
        single, pairs = (
            kind[torch.randperm(len(kind), generator=generator)]
            for kind in (ids[ids < len(OBJECTS)], ids[ids >= len(OBJECTS)])
        )
        place = torch.arange(n)
        if not len(single):
            return pairs[place % len(pairs)]
        before = (place + EVERY - 1) // EVERY  # how many of the captions before this one have a single object
        return torch.where(
            place % EVERY == 0, single[before % len(single)], pairs[(place - before) % len(pairs)]
        )

    def _draw_ids(self, draws: Draws, split: str) -> Tensor:
        ids = self._ids[split]
        single, pairs = ids[ids < len(OBJECTS)], ids[ids >= len(OBJECTS)]
        place = draws.uniform(0, 1, 2, dtype=torch.float64)
        two = pairs[(place[:, 1] * len(pairs)).long()]
        if not len(single):
            return two
        return torch.where(place[:, 0] < 1 / EVERY, single[(place[:, 1] * len(single)).long()], two)

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fresh images and their captions.

        Arguments:
            n: images to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: numbers of captions, (n,), with -1 for any of the training split, one in six with a single
                object; None for any throughout.

        Returns:
            Images, (n, 3, 32, 32), and the numbers of their captions, (n,).
        """
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        ids = self.asked_or(self._draw_ids(draws, "train"), labels)
        images = draw(compose(ids, draws))
        return images.to(draws.device), ids.to(draws.device)

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """A fixed set of renders and their captions: 4,000 of the training captions, 1,000 of the held-out
        ones."""
        require(split in SPLITS, f"A world has the splits 'train' and 'test', not '{split}'.")
        return self._finite[split]

    @cached_property
    def _finite(self) -> dict[str, tuple[Tensor, Tensor]]:
        sets = {}
        for split, n in SPLITS.items():
            draws = Draws(n, "shapes", split)
            ids = self._draw_ids(draws, split)
            sets[split] = draw(compose(ids, draws)), ids
        return sets

    def exact(self, process: Process) -> FiniteDenoiser:
        """The denoiser of the 4,000 training renders, which takes no condition."""
        return FiniteDenoiser(process, self.data("train")[0])

    @cached_property
    def reader(self) -> Reader:
        """The shipped caption reader ``p(c | x)``."""
        from stillhouse.metrics.reader import load_reader

        return load_reader()

    @cached_property
    def _features(self) -> Tensor:
        """The reader's features of the training renders."""
        from stillhouse.metrics.features import features_of

        return features_of(self.reader, self.data("train")[0])

    def measure(
        self,
        samples: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        features: FeatureExtractor | None = None,
    ) -> dict[str, float]:
        """Prompt fidelity, whole and by part, and :func:`measure_images` on the reader's features.

        Arguments:
            samples: images in [-1, 1], at least 4, (B, 3, 32, 32).
            labels: numbers of captions, (B,); None leaves out the fidelities.
            generator: for the random part of metrics; None for one that is the same every time.
            features: your own extractor in the place of the reader; None for the reader's features.

        Returns:
            Values by name; all but the fidelities are against the training renders.
        """
        from stillhouse.metrics.reader import prompt_fidelity
        from stillhouse.metrics.suite import measure_images

        require_samples(self, samples, labels)
        generator = generator or torch.Generator().manual_seed(seed_of("measure", self.name))
        samples = samples.detach().float().cpu()
        metrics = {} if labels is None else prompt_fidelity(self.reader, samples, labels.cpu())
        real, known = self.data("train")[0], None if features else self._features
        return metrics | measure_images(
            self.name,
            samples,
            real,
            features=features or self.reader,
            real_features=known,
            generator=generator,
        )

    def floor(self, n: int, seed: int = 0) -> dict[str, float]:
        """The metrics of fresh renders with their captions: what new and perfect samples would get.

        Arguments:
            n: number of images.
            seed: of their draws.

        Returns:
            What :meth:`measure` returns for them.
        """
        return self.measure(*self.sample_data(n, Draws(n, "floor", seed)))


def write_folder(folder: str | Path, n: int, seed: int = 0) -> Path:
    """A folder of pictures with a caption in a text file beside each, as a user's own data may lie; what is
    there already stays.

    Arguments:
        folder: where to.
        n: number of pictures.
        seed: of their draws.

    Returns:
        The folder.
    """
    from stillhouse.io.images import save_samples

    folder, world = Path(folder), Shapes()
    images, labels = world.sample_data(n, Draws(n, "folder", seed))
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / f"{i:05d}.png"
        if not place.exists():
            save_samples(place, image[None])
            place.with_suffix(".txt").write_text(CAPTIONS[int(label)] + "\n")
    return folder

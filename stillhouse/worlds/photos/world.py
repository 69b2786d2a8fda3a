"""``photos``: patches of real photographs and their degraded copies, from which a network restores them.

The photographs are those that scikit-learn and scikit-image carry in their wheels; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse.core.bridge import Bridge
from stillhouse.core.conditions import Condition, as_parts
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.draws import Draws, seed_of
from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.core.prediction import EDM
from stillhouse.core.process import Process
from stillhouse.forms.views import Display, Pictures
from stillhouse.io.photo import SCALES
from stillhouse.metrics.fidelity import FRECHET
from stillhouse.metrics.restoration import RESTORATION, Lpips, psnr, ssim
from stillhouse.metrics.spectrum import HIGH_BAND
from stillhouse.worlds.base import World, require_samples
from stillhouse.worlds.photos.degrade import degrade, shrunk

PLACES = {"sklearn": "datasets/images", "skimage": "data"}
# package and file; the second list is never learned from
PHOTOGRAPHS = {
    "train": (
        ("sklearn", "china.jpg"),
        ("skimage", "astronaut.png"),
        ("skimage", "motorcycle_left.png"),
        ("skimage", "rocket.jpg"),
        ("skimage", "camera.png"),
        ("skimage", "brick.png"),
        ("skimage", "grass.png"),
        ("skimage", "gravel.png"),
    ),
    "test": (("sklearn", "flower.jpg"), ("skimage", "chelsea.png"), ("skimage", "coffee.png")),
}
MARGIN = 8  # pixels around a patch that are degraded with it: its border looks as it does within a photograph
STRIDE = 8  # between neighbouring patches
PLAIN = (
    0.03  # patches that lose less than this when they are made four times smaller are sky: nothing to restore
)
TURNS = 8  # rotations and reflections
SETS = {"train": 2000, "test": 1000}  # patches of the finite sets
IMAGE_STD = 0.46
# standard deviation of clean minus degraded
RESIDUALS = {"x4": 0.14, "x2": 0.09, "blur": 0.12, "noise": 0.24, "jpeg": 0.09, "real": 0.12}


def find_photograph(package: str, file: str) -> Path | None:
    """Where an installed package keeps a photograph. The package is not imported.

    Arguments:
        package: ``sklearn`` or ``skimage``.
        file: name of the photograph, such as ``china.jpg``.

    Returns:
        The file; None where it is missing.
    """
    found = importlib.util.find_spec(package)
    path = (
        Path(next(iter(found.submodule_search_locations or [""])), PLACES[package], file) if found else None
    )
    return path if path and path.is_file() else None


@cache
def _photographs(split: str) -> tuple[Tensor, ...]:
    """Bytes (3, H, W) of the photographs of a split that are installed; grey ones as three equal channels."""
    from PIL import Image

    paths = [p for name in PHOTOGRAPHS[split] if (p := find_photograph(*name))]
    require(bool(paths), "The photographs come with the package 'scikit-learn', which is not installed.")
    return tuple(torch.from_numpy(np.array(Image.open(p).convert("RGB"))).permute(2, 0, 1) for p in paths)


class Photos(World):
    """Patches (3, size, size) in [-1, 1]. A label is the number of a patch; its condition is that patch
    degraded, as ``{"image": …}``.

    ``task``: ``x4 x2 blur noise jpeg real``, see :func:`stillhouse.worlds.photos.degrade.degrade`. ``size``:
    side of a patch, divisible by 8. ``lpips``: a file of weights for
    :class:`stillhouse.metrics.restoration.Lpips`, which then is measured too. Training patches come in eight
    orientations, each with a number and a random degradation of its own; test patches are from other
    photographs, upright. Works with scikit-learn's two photographs alone, one to learn from and one for
    tests; the extra ``restore`` brings nine more.
    """

    name = "photos"
    metrics = (FRECHET, *RESTORATION, HIGH_BAND)
    cond_kind = "image"
    infinite = True
    shown_split = "test"
    default_process = {"name": "resshift", "kappa": 0.5, "first": 0.02}
    default_kind = "edm"
    network_defaults = {
        "name": "unet",
        "image_channels": 3,
        "image_cond": 3,
        "channels": (48, 64, 96),
        "patch": 2,
        "blocks": 2,
    }

    def __init__(self, task: str = "x4", size: int = 32, lpips: str = "") -> None:
        if task not in SCALES:
            raise unknown("task of the world 'photos' named", task, SCALES)
        require(
            16 <= size <= 128 and size % 8 == 0,
            f"A patch's side is 16 to 128 and divisible by 8, not {size}.",
        )
        self.task, self.size, self.shape, self.scale = task, size, (3, size, size), SCALES[task]
        self.sigma_data = RESIDUALS[task]
        self.lpips = Lpips(lpips) if lpips else None
        self._places = {split: _places(split, size) for split in SETS}
        self._first = {"train": 0, "test": TURNS * len(self._places["train"])}
        self._last = self._first["test"] + len(self._places["test"])

    # -- patches -----------------------------------------------------------------------------------
    def _cut(self, labels: Tensor) -> Tensor:
        """Clean patches (B, 3, size + 2 MARGIN, …) with what lies around them."""
        low, high = int(labels.min()), int(labels.max())
        require(
            low >= 0 and high < self._last,
            f"Patches have the numbers 0 … {self._last - 1}, not {low if low < 0 else high}.",
        )
        side, rows = self.size + 2 * MARGIN, []
        for n in labels.tolist():
            split = "train" if n < self._first["test"] else "test"
            place, turn = divmod(n, TURNS) if split == "train" else (n - self._first["test"], 0)
            photo, top, left = self._places[split][place].tolist()
            patch = _padded(split)[photo][:, top : top + side, left : left + side]
            patch = patch.flip(-1) if turn >= 4 else patch
            rows.append(patch.rot90(turn % 4, (1, 2)))
        return torch.stack(rows).float() / 127.5 - 1

    def clean(self, labels: Tensor) -> Tensor:
        """The true patches of ``labels`` (B,)."""
        return _inner(self._cut(labels.cpu())).to(labels.device)

    def condition(self, labels: Tensor | None) -> Condition:
        """``{"image": (B, 3, size, size)}``: the patches of ``labels`` (B,) degraded and brought back to
        their size."""
        if labels is None:
            return None
        rows = labels.cpu()
        return {"image": _inner(degrade(self._cut(rows), rows, self.task)).to(labels.device)}

    def balanced_labels(self, n: int, split: str = "train") -> Tensor:
        """Patches spread over a split, the same ones every time.

        Arguments:
            n: how many.
            split: ``train``, or ``test``, the photographs that are not trained on.

        Returns:
            Numbers of patches, (n,).
        """
        require(split in SETS, f"A world has the splits 'train' and 'test', not '{split}'.")
        count = (TURNS if split == "train" else 1) * len(self._places[split])
        order = torch.randperm(
            count, generator=torch.Generator().manual_seed(seed_of("photos", "even", split))
        )
        return self._first[split] + order[torch.arange(n) % count]

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Training patches, drawn with replacement.

        Arguments:
            n: patches to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: numbers of patches of either split, (n,), with -1 for any; None for any throughout.

        Returns:
            Clean patches, (n, 3, size, size), and their numbers, (n,).
        """
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        drawn = draws.integers(0, self._first["test"])
        chosen = (
            drawn
            if labels is None
            else torch.where(labels.to(drawn.device) < 0, drawn, labels.to(drawn.device))
        )
        return self.clean(chosen), chosen

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """A fixed set of patches and their numbers: 2,000 to learn from, 1,000 for tests."""
        require(split in SETS, f"A world has the splits 'train' and 'test', not '{split}'.")
        labels = self.balanced_labels(SETS[split], split)
        return self.clean(labels), labels

    # -- networks ----------------------------------------------------------------------------------
    def network(self, process: Process, seed: int = 0, **options: Any) -> Denoiser:
        """A small untrained U-Net that takes the degraded image beside the state.

        Arguments:
            process: that it is trained on.
            seed: of its initial weights.
            options: as of :meth:`World.network`; ``kind="edm"`` is preconditioned for residuals under a
                bridge, else for images.

        Returns:
            The network as a :class:`Denoiser`.
        """
        made = super().network(process, seed, **options)
        if isinstance(made.kind, EDM) and not isinstance(process, Bridge):
            made.kind = EDM(IMAGE_STD)
        return made

    def exact(self, process: Process) -> ExactDenoiser:
        raise StillhouseError(
            "The world 'photos' has no closed-form denoiser; take the shipped teacher: --teacher photos."
        )

    # -- figures and pictures ----------------------------------------------------------------------
    @cached_property
    def _reference(self) -> tuple[Tensor, Tensor, Tensor]:
        """Test patches, their features, and the spread of each feature."""
        from stillhouse.metrics.textures import Textures

        images = self.data("test")[0]
        found = Textures()(images)
        return images, found, found.std(0)

    def measure(
        self, samples: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """``frechet`` and ``high_band_ratio`` against the test patches; with labels ``psnr`` (dB), ``ssim``
        and perhaps ``lpips``.

        The Fréchet distance is between features of texture and colour, each divided by its spread over the
        test patches. With labels the high band is compared with that of the true patches themselves.

        Arguments:
            samples: patches in [-1, 1], at least 4, (B, 3, size, size).
            labels: numbers of their patches, (B,); None leaves out ``psnr``, ``ssim`` and ``lpips``.
            generator: not read; nothing here is random.

        Returns:
            Values by name.
        """
        from stillhouse.metrics.fidelity import frechet_distance
        from stillhouse.metrics.spectrum import high_band_ratio
        from stillhouse.metrics.textures import Textures

        require_samples(self, samples, labels)
        samples = samples.detach().float().cpu().clamp(-1, 1)
        real, features, spread = self._reference
        metrics = {"frechet": frechet_distance(Textures()(samples) / spread, features / spread)}
        if labels is not None:
            real = self.clean(labels.cpu())
            metrics |= {"psnr": float(psnr(samples, real).mean()), "ssim": float(ssim(samples, real).mean())}
            metrics |= {"lpips": float(self.lpips(samples, real).mean())} if self.lpips else {}
        return metrics | {"high_band_ratio": high_band_ratio(samples, real)}

    def floor(self, n: int, seed: int = 0) -> dict[str, float]:
        """The metrics of true patches: no distance but that of a finite set, and an infinite ``psnr``.

        Arguments:
            n: number of patches.
            seed: not read; the patches are those of :meth:`balanced_labels` of the tests.

        Returns:
            What :meth:`measure` returns for them.
        """
        labels = self.balanced_labels(n, self.shown_split)
        return self.measure(self.clean(labels), labels)

    def identity_metrics(self, n: int) -> dict[str, float]:
        """:meth:`measure` of ``n`` degraded patches as they are."""
        labels = self.balanced_labels(n, self.shown_split)
        return self.measure(as_parts(self.condition(labels))["image"], labels)

    @property
    def display(self) -> Display:
        return Display(show=self._beside, whole=self._photograph)

    def _photograph(self, side: int) -> tuple[Tensor, Tensor]:
        """The middle of a held-out photograph, degraded and true, each (1, 3, side, side): to be looked
        at as a photograph."""
        whole = _photographs("test")[-1].float()[None] / 127.5 - 1
        top, left = ((length - side) // 2 for length in whole.shape[-2:])
        true = whole[..., top : top + side, left : left + side]
        return degrade(true, torch.zeros(1, dtype=torch.long), self.task).clamp(-1, 1), true

    def _beside(self, samples: Tensor, labels: Tensor | None = None) -> Pictures | None:
        """Degraded, restored and true patches side by side, (N, 3, size, 3 size); None without labels."""
        if labels is None:
            return None
        given, true = as_parts(self.condition(labels))["image"].cpu(), self.clean(labels.cpu())
        sheet = torch.cat([given, samples.detach().float().cpu(), true], 3)
        return Pictures(sheet, columns=2, few=3, by_class=False)


def _inner(images: Tensor) -> Tensor:
    return images[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


@cache
def _padded(split: str) -> tuple[Tensor, ...]:
    """The photographs with their borders mirrored, for patches that lie at the border."""
    return tuple(
        F.pad(photo[None].float(), (MARGIN,) * 4, mode="reflect")[0].byte() for photo in _photographs(split)
    )


@cache
def _places(split: str, size: int) -> Tensor:
    """Photograph, top and left of all patches that are not plain, (N, 3)."""
    found = []
    for i, photo in enumerate(_photographs(split)):
        grey = photo.float().mean(0)[None, None] / 127.5
        lost = F.avg_pool2d((grey - shrunk(grey, 4)).square(), size, STRIDE)[0, 0].sqrt()
        where = (lost > PLAIN).nonzero() * STRIDE
        found.append(torch.cat([torch.full((len(where), 1), i), where], 1))
    return torch.cat(found)

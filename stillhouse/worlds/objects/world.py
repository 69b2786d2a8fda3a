"""``objects``: coloured solids seen from known cameras; or, as ``cube``, eight modes of one point in space
seen in projections."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, as_parts
from stillhouse.core.denoiser import ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require, unknown
from stillhouse.core.finite import FiniteDenoiser
from stillhouse.core.process import Process
from stillhouse.forms.views import Clips, Display
from stillhouse.metrics.metric import Metric
from stillhouse.models.scenes.camera import Lens, orbit
from stillhouse.models.scenes.points import flat
from stillhouse.worlds.base import World, require_samples
from stillhouse.worlds.mixture.world import MixtureDenoiser
from stillhouse.worlds.objects.solids import BODIES, NOSES, PAINT, look, painted

CORNER, STD = 1.5, 0.15  # of the cube's modes
BACKGROUND = 1.0


class Projected(ExactDenoiser):
    """An exact denoiser of labelled data, conditioned on the place of a camera: ``places`` (K, 3) belong to
    the labels ``0 … K - 1``."""

    places: Tensor

    def __init__(self, inner: FiniteDenoiser | MixtureDenoiser, places: Tensor):
        super().__init__(inner.process)
        self.inner = inner
        self.register_buffer("places", places)

    def mean(self, x_t: Tensor, t: Tensor, cond: Condition = None) -> Tensor:
        """The posterior mean ``E[x_0 | x_t, camera]``.

        Arguments:
            x_t: states, (B, …).
            t: times in [0, 1], (B,).
            cond: places of cameras among ``places``, as ``{"features": (B, 3)}``; None for a view from any.

        Returns:
            Clean estimates, (B, …).

        Raises:
            StillhouseError: for another camera.
        """
        if cond is None:
            return self.inner.mean(x_t, t, None)
        away, camera = torch.cdist(as_parts(cond)["features"].to(self.places), self.places).min(1)
        require(
            bool((away < 1e-3).all()),
            f"The closed-form denoiser has {len(self.places)} cameras; one of those given is none of them.",
        )
        return self.inner.mean(x_t, t, camera)


class Objects(World):
    """32 solids in pictures (3, 16, 16) in [-1, 1]: four bodies in four colours, each with a small nose in
    front, in one of two colours.

    A label is the number of a camera; the condition is its place, ``features`` (B, 3). From behind the nose
    is hidden, so that two objects look alike: only views that agree with each other make one object.

    ``kind="cube"``: a sample is a point in space, around one of the eight corners of a cube (±1.5, deviation
    0.15), seen as two numbers by an orthographic camera. ``cameras``: their number, on a circle at two
    heights in turn. ``side``: pixels.
    """

    name = "objects"
    cond_kind = "camera"
    metrics = (
        Metric("object_psnr", "high", "dB", "to the nearest object seen from all cameras", "Object PSNR"),
        Metric("view_psnr", "high", "dB", "of each view to the nearest true one", "View PSNR"),
        Metric("agree", "high", "share", "of views that show the same object", "Agreement"),
        Metric("off_mode", "low", "share", "of samples far from every mode", "Off-mode share"),
    )
    lens = Lens(extent=1.0)

    def __init__(self, kind: str = "solids", cameras: int = 0, side: int = 16):
        if kind not in ("solids", "cube"):
            raise unknown("kind of objects", kind, ("solids", "cube"))
        self.kind, cube = kind, kind == "cube"
        count = cameras or (8 if cube else 12)
        require(
            count >= 2 and side >= 8,
            f"Objects are seen by two cameras or more in 8 pixels or more, not by {count} in {side}.",
        )
        self.cameras = orbit(count, 1.0, (15.0, 40.0)) if cube else orbit(count, 4.0, (10.0, 35.0))
        self.class_names = tuple(f"camera {i}" for i in range(count))
        self.side = side
        self.shape = (2,) if cube else (3, side, side)
        self.sigma_data = 1.5 if cube else 0.71
        small, pictures = (
            {"name": "mlp", "dim": 2},
            {"name": "unet", "image_channels": 3, "channels": (32, 64), "patch": 2},
        )
        self.network_defaults = {**(small if cube else pictures), "features": 3}

    @cached_property
    def corners(self) -> Tensor:
        """The cube's modes in space, (8, 3) float64."""
        line = torch.tensor([-CORNER, CORNER], dtype=torch.float64)
        return torch.cartesian_prod(line, line, line)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What the solids are called, in the order of :attr:`views`."""
        return tuple(
            f"{colour} {name} with a {tip} nose" for name in BODIES for colour in PAINT for tip in NOSES
        )

    @cached_property
    def views(self) -> Tensor:
        """Every object from every camera: (objects, cameras, *shape); of the cube, where its corners are
        seen."""
        if self.kind == "cube":
            return (
                flat(self.cameras, self.corners.float().expand(len(self.cameras), -1, -1))
                .transpose(0, 1)
                .contiguous()
            )
        seen = {name: look(name, self.lens, self.cameras, self.side) for name in BODIES}
        return torch.stack(
            [
                painted(seen[name], colour, tip, BACKGROUND)
                for name in BODIES
                for colour in PAINT
                for tip in NOSES
            ]
        )

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """Every object from every camera, and the cameras' numbers; both splits are the same."""
        require(split in ("train", "test"), f"A world has the splits 'train' and 'test', not '{split}'.")
        if self.kind == "cube":
            return self.sample_data(4096, Draws(4096, "objects", split))
        objects, cameras = self.views.shape[:2]
        return self.views.flatten(0, 1), torch.arange(cameras).repeat(objects)

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Views of objects drawn at random.

        Arguments:
            n: views to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: numbers of cameras, (n,), with -1 for any; None for any throughout.

        Returns:
            Views, (n, *shape), and the numbers of their cameras, (n,).
        """
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        which, camera = draws.integers(0, len(self.views)).cpu(), draws.integers(0, len(self.cameras)).cpu()
        camera = camera if labels is None else torch.where(labels.cpu() < 0, camera, labels.cpu())
        x = self.views[which, camera]
        if self.kind == "cube":
            x = x + STD * draws.normal(2).cpu()  # a projection of isotropic noise is isotropic
        return x.to(draws.device), camera.to(draws.device)

    def condition(self, labels: Tensor | None) -> Condition:
        """``{"features": (B, 3)}``, where cameras ``labels`` (B,) stand."""
        if labels is None:
            return None
        wrong = (labels < 0) | (labels >= len(self.cameras))
        require(
            not bool(wrong.any()),
            f"Cameras have the numbers 0 … {len(self.cameras) - 1}, not "
            f"{int(labels[wrong][0]) if wrong.any() else 0}.",
        )
        return {"features": self.cameras.to(labels.device)[labels]}

    def balanced_labels(self, n: int, split: str = "train") -> Tensor:
        """Cameras once around, and again.

        Arguments:
            n: how many.
            split: not read; both splits have the same cameras.

        Returns:
            Numbers of cameras, (n,).
        """
        return torch.arange(n) % len(self.cameras)

    def exact(self, process: Process) -> Projected:
        """The posterior mean of a camera's view: a softmax over the objects, or of the projected mixture."""
        objects, cameras = self.views.shape[:2]
        camera = torch.arange(cameras).repeat(objects)
        inner: FiniteDenoiser | MixtureDenoiser
        if self.kind == "cube":
            means = self.views.flatten(0, 1)
            inner = MixtureDenoiser(
                process, means, torch.full((len(means),), STD), torch.ones(len(means)), camera
            )
        else:
            inner = FiniteDenoiser(process, self.views.flatten(0, 1), camera)
        return Projected(inner, self.cameras)

    def held(self, points: Tensor, reach: float = 3.0) -> float:
        """The share of points in space that lie at a corner of the cube.

        Arguments:
            points: in space, (N, 3).
            reach: standard deviations within which a corner counts.

        Returns:
            The share.
        """
        return float((torch.cdist(points.double(), self.corners).amin(1) <= reach * STD).double().mean())

    def measure(
        self, samples: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """How views fit the true objects, separately and as views of one object.

        ``object_psnr``: against the one object that fits all views best, in dB of the range 2; ``view_psnr``:
        each view against the object that fits it best; ``agree``: the largest share of the views that one and
        the same object fits as well as any does. Of the cube: ``off_mode``, the share of views more than
        three deviations from every mode in the view of their camera.

        Arguments:
            samples: views of one object, at least 4, (B, *shape).
            labels: numbers of their cameras, (B,); None for those of :meth:`balanced_labels`.
            generator: not read; nothing here is random.

        Returns:
            Values by name.
        """
        require_samples(self, samples, labels)
        labels = self.balanced_labels(len(samples)) if labels is None else labels.cpu()
        x, true = samples.detach().float().cpu(), self.views[:, labels]
        error = (true - x).flatten(2).square().mean(2)  # (objects, views)
        if self.kind == "cube":
            return {"off_mode": float((error.amin(0).mul(2).sqrt() > 3 * STD).double().mean())}
        # two objects may look alike in a view: those that fit as well as the best within a hair are all right
        fits = error <= 1.05 * error.amin(0) + 1e-4
        return {
            "object_psnr": _psnr(float(error.mean(1).min())),
            "view_psnr": _psnr(float(error.amin(0).mean())),
            "agree": float(fits.double().mean(1).max()),
        }

    def floor(self, n: int, seed: int = 0) -> dict[str, float]:
        """The metrics of views of one true object (of the cube, of as many points).

        Arguments:
            n: number of views.
            seed: of the choice of the object.

        Returns:
            What :meth:`measure` returns for them.
        """
        draws, labels = Draws(n, "floor", seed), self.balanced_labels(n)
        if self.kind == "cube":
            return self.measure(*self.sample_data(n, draws, labels))
        return self.measure(self.views[draws.one_integer(0, len(self.views)), labels], labels)

    @property
    def display(self) -> Display:
        return Display(show=self._turn_table)

    def _turn_table(self, samples: Tensor, labels: Tensor | None = None) -> Clips | None:
        """A turn-table (1, F, 3, side, side): views in the order of their cameras around the object."""
        if self.kind == "cube":
            return None
        labels = self.balanced_labels(len(samples)) if labels is None else labels.cpu()
        return Clips(samples[labels.argsort(stable=True)][None])


def _psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error, for values in [-1, 1]."""
    return 10 * math.log10(4 / max(error, 1e-10))

"""The small kind of ``clips``: a bump that moves around a ring of 16 pixels at one of six speeds; every clip
there is, is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.finite import FiniteDenoiser
from stillhouse.core.process import Process
from stillhouse.forms.views import Clips, Display
from stillhouse.metrics.metric import Metric
from stillhouse.metrics.video import DISTANCES, STEADINESS
from stillhouse.worlds.base import World, require_samples

SIDE = 16
SPEEDS = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)  # pixels a frame
# starts, a quarter of a pixel apart: as every speed is a multiple of that, they are all the places a bump can
# be
PLACES = 64


class ClipDenoiser(FiniteDenoiser):
    """:class:`FiniteDenoiser` of clips (N, F, …), whose times are one per clip (B,) or one per frame (B, F),
    so that some frames may be known and others noise."""

    def logits(self, x_t: Tensor, t: Tensor, allowed: Tensor | None) -> Tensor:
        require(
            tuple(x_t.shape[1:]) == self.shape,
            f"This denoiser takes clips of shape {self.shape}, not {tuple(x_t.shape[1:])}.",
        )
        clips = self.points.to(x_t)
        each = t if t.dim() == 2 else t[:, None].expand(x_t.shape[:2])
        alpha, sigma = (
            f(each).to(x_t).clamp_min(low)
            for f, low in ((self.process.alpha, 0.0), (self.process.sigma, 1e-3))
        )
        # log q without what all clips share: alpha x.c / sigma^2 - alpha^2 |c|^2 / (2 sigma^2), frame by
        # frame
        seen = (alpha / sigma**2)[..., None] * x_t.flatten(2)
        squares = clips.reshape(len(clips), x_t.shape[1], -1).square().sum(2)
        return seen.flatten(1) @ clips.T - 0.5 * (alpha / sigma) ** 2 @ squares.T


class RingClips(World):
    """Clips (frames, 16, 1, 1): 16 pixels in a ring, a bump of height ``height`` and width ``width`` pixels
    that moves on by its speed.

    The data are all clips, 64 starts at each of the ``speeds`` (pixels a frame, multiples of a quarter); a
    label is the number of a speed. A frame is kept as 16 channels of one pixel, so that a network has one
    token a frame.
    """

    name = "clips"
    metrics = (
        Metric("fidelity", "high", "share", "of clips at the speed of their label", "Prompt fidelity"),
        *DISTANCES,
        Metric("speeds", "high", "", "of six, with at least a quarter of their share", "Speeds held"),
        *STEADINESS,
    )
    sigma_data = 0.9

    def __init__(
        self, frames: int = 10, speeds: Sequence[float] = SPEEDS, height: float = 3.0, width: float = 1.0
    ):
        require(frames >= 1, f"A clip has at least one frame, not {frames}.")
        quarters = [4 * v for v in speeds]
        require(
            len(speeds) > 0 and all(q == int(q) for q in quarters),
            f"Speeds are multiples of a quarter pixel, not {list(speeds)}.",
        )
        self.frames, self.speeds, self.height, self.width = frames, tuple(speeds), height, width
        self.shape, self.classes = (frames, SIDE, 1, 1), len(speeds)
        self.class_names = tuple(f"speed {v:g}" for v in speeds)
        self.network_defaults = {
            "name": "video_dit",
            "channels": SIDE,
            "patch": 1,
            "dim": 64,
            "depth": 3,
            "heads": 4,
            "frames": frames,
        }

    def draw(self, place: Tensor) -> Tensor:
        """Frames with their bump at ``place`` (…), in pixels: (…, 16, 1, 1)."""
        away = (torch.arange(SIDE) - place[..., None] + SIDE / 2) % SIDE - SIDE / 2
        return (self.height * torch.exp(-0.5 * (away / self.width) ** 2))[..., None, None].float()

    def every(self, frames: int) -> tuple[Tensor, Tensor]:
        """All clips of any number of ``frames``, (64 speeds, frames, 16, 1, 1), and their labels."""
        start = torch.arange(PLACES) * (SIDE / PLACES)
        place = start[None, :, None] + torch.tensor(self.speeds)[:, None, None] * torch.arange(frames)
        return self.draw(place).flatten(0, 1), torch.arange(self.classes).repeat_interleave(PLACES)

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        require(split in ("train", "test"), f"A world has the splits 'train' and 'test', not '{split}'.")
        return self.every(self.frames)

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Clips and their speeds, drawn with replacement.

        Arguments:
            n: clips to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: numbers of speeds, (n,), with -1 for any; None for any throughout.

        Returns:
            Clips, (n, frames, 16, 1, 1), and the numbers of their speeds, (n,).
        """
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        clips, every = self.every(self.frames)
        speed, place = draws.integers(0, self.classes), draws.integers(0, PLACES)
        chosen = speed if labels is None else torch.where(labels < 0, speed, labels)
        row = chosen * PLACES + place
        return clips.to(draws.device)[row], every.to(draws.device)[row]

    def exact(self, process: Process) -> ClipDenoiser:
        return ClipDenoiser(process, *self.every(self.frames))

    @property
    def display(self) -> Display:
        return Display(show=self._strips)

    def _strips(self, samples: Tensor, labels: Tensor | None = None) -> Clips:
        """Each frame as a strip of grey pixels, (N, F, 1, 16, 16) in [-1, 1]."""
        strip = samples.flatten(2).clamp(0, self.height) * (2 / self.height) - 1
        return Clips(strip[:, :, None, None].expand(-1, -1, 1, SIDE, -1))

    def frame_curve(self, clips: Tensor) -> Tensor:
        """Squared distance to the nearest true frame by frame number, (F,), for clips of any length."""
        from stillhouse.metrics.video import frame_distances

        return frame_distances(clips, self.draw(torch.arange(PLACES) * (SIDE / PLACES)))

    def clip_distance(self, clips: Tensor, last: int = 0) -> float:
        """Mean squared distance of whole clips to the nearest true clip of their length.

        Arguments:
            clips: of any length, (B, F, 16, 1, 1).
            last: only so many frames at the end; 0 for all.

        Returns:
            The mean over the clips.
        """
        from stillhouse.metrics.video import clip_distance

        part = clips[:, -last:] if last else clips
        return clip_distance(part, self.every(part.shape[1])[0])

    def measure(
        self, samples: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """How clips look and move, beside all true clips.

        ``frame_distance, clip_distance``: squared, to the nearest true ones; ``flicker, change``: over those
        of true clips, 1 is right. ``speeds``: how many of them have at least a quarter of their share.
        ``fidelity``: share of clips at the speed of their label.

        Arguments:
            samples: clips, at least 4, (B, frames, 16, 1, 1).
            labels: numbers of speeds, (B,); None leaves out ``fidelity``.
            generator: not read; nothing here is random.

        Returns:
            Values by name.
        """
        from stillhouse.metrics.video import change, flicker, nearest

        require_samples(self, samples, labels)
        clips, every = self.every(self.frames)
        samples = samples.detach().float().cpu()
        distance, which = nearest(samples, clips)
        speed = every[which]
        found = {} if labels is None else {"fidelity": float((speed == labels.cpu()).double().mean())}
        return found | {
            "frame_distance": float(self.frame_curve(samples).mean()),
            "clip_distance": float(distance.mean()),
            "speeds": float(
                (torch.bincount(speed, minlength=self.classes) >= 0.25 * len(samples) / self.classes).sum()
            ),
            "flicker": flicker(samples) / flicker(clips),
            "change": change(samples) / change(clips),
        }

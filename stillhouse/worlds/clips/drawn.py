"""The drawn kind of ``clips``: one coloured shape moving over a torus of 16 by 16 pixels, under a caption of
what moves and where to."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from stillhouse.core.draws import Draws, seed_of
from stillhouse.core.errors import require
from stillhouse.core.finite import FiniteDenoiser
from stillhouse.core.process import Process
from stillhouse.metrics.captions import SHAPES
from stillhouse.metrics.fidelity import FRECHET
from stillhouse.metrics.reader import FIDELITY
from stillhouse.metrics.video import (
    DISTANCES,
    MOTION,
    STEADINESS,
    change,
    clip_distance,
    flicker,
    frame_distances,
    motion,
)
from stillhouse.worlds.base import require_samples
from stillhouse.worlds.captioned import CaptionedWorld
from stillhouse.worlds.drawing import PAINT, distance

FRAMES, SIDE = 12, 16
COLOURS, KINDS = ("red", "green", "blue", "yellow"), ("circle", "square", "cross")
HEADINGS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
CAPTIONS = tuple(
    f"a {colour} {kind} moving {heading}" for kind in KINDS for colour in COLOURS for heading in HEADINGS
)
VOCABULARY = ("a", "moving", *COLOURS, *KINDS, *HEADINGS)
SPEED, SIZE, GROUND = (
    1.0,
    3.6,
    0.1,
)  # pixels a frame, half the side of the square that a shape stays in, grey of the background
SPLITS = {"train": 2000, "test": 500}  # clips of the finite sets
COMPARED = 256  # clips whose distances are measured


def parts(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape, colour and heading of captions ``ids`` (B,), as places in ``KINDS``, ``COLOURS`` and
    ``HEADINGS``."""
    each = len(HEADINGS)
    return ids // each // len(COLOURS), ids // each % len(COLOURS), ids % each


def held_out() -> Tensor:
    """Which captions (len(CAPTIONS),) are never drawn for training: one heading of every other pair of a
    shape and a colour."""
    kind, colour, heading = parts(torch.arange(len(CAPTIONS)))
    return ((kind + colour) % 2 == 0) & ((2 * kind + colour) % len(HEADINGS) == heading)


def cover(kind: Tensor, centre: Tensor) -> Tensor:
    """How much of each pixel shapes cover.

    Arguments:
        kind: places in ``KINDS``, (B,).
        centre: x and y in pixels, (B, F, 2), modulo 16.

    Returns:
        Shares in [0, 1], (B, F, 16, 16).
    """
    line = torch.arange(SIDE, dtype=torch.float32)

    def away(middle: Tensor) -> Tensor:
        return (line - middle[..., None] + SIDE / 2) % SIDE - SIDE / 2

    x, y = away(centre[..., 0])[:, :, None, :], away(centre[..., 1])[:, :, :, None]
    known = torch.tensor([SHAPES.index(name) for name in KINDS])[kind]
    return (0.5 - distance(known[:, None, None, None], x, y, torch.tensor(SIZE))).clamp(0, 1)


def render(ids: Tensor, start: Tensor, frames: int = FRAMES) -> Tensor:
    """Clips of captions.

    Arguments:
        ids: numbers of captions, (B,).
        start: centre of the shape in the first frame, x and y in pixels, (B, 2).
        frames: length of the clips.

    Returns:
        Clips in [-1, 1], (B, frames, 3, 16, 16).
    """
    kind, colour, heading = parts(ids)
    way = SPEED * torch.tensor(list(HEADINGS.values()))[heading]
    centre = start[:, None] + torch.arange(frames)[None, :, None] * way[:, None]
    paint = torch.tensor([PAINT[name] for name in COLOURS])[colour]
    share = cover(kind, centre)[:, :, None]
    return 2 * torch.lerp(torch.full_like(share, GROUND), paint[:, None, :, None, None], share) - 1


class DrawnClips(CaptionedWorld):
    """Clips (12, 3, 16, 16) in [-1, 1] under 48 captions: "a red circle moving right"; what leaves at one
    side comes back at the other.

    A label is a caption's number. A few captions, the split ``test``, are never drawn unless asked for. Where
    the shape begins is random. On a torus a clip has no end: :meth:`stream_data` draws true ones of any
    length to compare long streams with.
    """

    name = "clips"
    metrics = (*FIDELITY[:3], MOTION, FRECHET, *DISTANCES, *STEADINESS)
    shape = (FRAMES, 3, SIDE, SIDE)
    captions = CAPTIONS
    infinite = True
    # a frame is one token, narrower than its pixels: a picture fits through it, noise does not
    default_kind = "x0"
    sigma_data = 0.35
    network_defaults = {
        "name": "video_dit",
        "channels": 3,
        "patch": 16,
        "dim": 160,
        "depth": 3,
        "frames": FRAMES,
        "token_dim": 48,
    }

    def __init__(self) -> None:
        super().__init__(VOCABULARY, 5, held_out())

    def balanced_labels(self, n: int, split: str = "train") -> Tensor:
        """Captions of a split in a mixed order, each as often as any other, the same ones every time.

        Arguments:
            n: how many.
            split: ``train`` or ``test``.

        Returns:
            Numbers of captions, (n,).
        """
        ids = self.caption_ids(split)
        order = torch.randperm(
            len(ids), generator=torch.Generator().manual_seed(seed_of("clips", "even", split))
        )
        return ids[order[torch.arange(n) % len(ids)]]

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fresh clips and their captions.

        Arguments:
            n: clips to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: numbers of captions, (n,), with -1 for any of the training split; None for any throughout.

        Returns:
            Clips, (n, 12, 3, 16, 16), and the numbers of their captions, (n,).
        """
        return self.stream_data(n, FRAMES, draws, labels)

    def stream_data(
        self, n: int, frames: int, draws: Draws, labels: Tensor | None = None, split: str = "train"
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`sample_data`, of any length: what a stream without drift looks like.

        Arguments:
            n: clips to draw, as many as ``draws`` has rows.
            frames: length of the clips, at least 1.
            draws: the source of randomness.
            labels: numbers of captions, (n,), with -1 for any of the split; None for any throughout.
            split: ``train`` or ``test``, whose captions are drawn.

        Returns:
            Clips, (n, frames, 3, 16, 16), and the numbers of their captions, (n,).
        """
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        require(frames >= 1, f"A clip has at least one frame, not {frames}.")
        ids = self.caption_ids(split)
        ids = self.asked_or(ids[(draws.uniform(dtype=torch.float64) * len(ids)).long().cpu()], labels)
        return render(ids, draws.uniform(0, SIDE, 2).cpu(), frames).to(draws.device), ids.to(draws.device)

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """A fixed set of clips and their captions: 2,000 of the training captions, 500 of the held-out
        ones."""
        require(split in SPLITS, f"A world has the splits 'train' and 'test', not '{split}'.")
        return self._finite[split]

    @cached_property
    def _finite(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {
            split: self.stream_data(n, FRAMES, Draws(n, "clips", split), split=split)
            for split, n in SPLITS.items()
        }

    def exact(self, process: Process) -> FiniteDenoiser:
        """The denoiser of the 2,000 training clips, which takes no condition."""
        return FiniteDenoiser(process, self.data("train")[0])

    def frame_curve(self, clips: Tensor) -> Tensor:
        """Squared distance to the nearest true frame by frame number, (F,), for clips of any length; see
        :func:`frame_distances`."""
        return frame_distances(clips, self.data("train")[0][::2].flatten(0, 1))

    def measure(
        self, samples: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """How clips look and move, beside the training clips; with labels, how well they follow their
        captions.

        ``frame_distance, clip_distance``: squared, to the nearest true frame and clip (of the first 256
        samples), never 0 for new ones: compare with :meth:`floor`. ``flicker, change``: second and first
        differences in time over those of true clips, 1 is right. ``frechet``: of frames shrunk to 4 by 4
        pixels. ``motion_fidelity``: share that moves as its caption requires, to an eighth of a turn and a
        half of the speed; ``colour_fidelity``, ``shape_fidelity``; ``fidelity``: all three.

        Arguments:
            samples: clips in [-1, 1], at least 4, (B, 12, 3, 16, 16).
            labels: numbers of captions, (B,); None leaves out the fidelities.
            generator: not read; nothing here is random.

        Returns:
            Values by name.
        """
        from stillhouse.metrics.fidelity import frechet_distance

        require_samples(self, samples, labels)
        samples, real = samples.detach().float().cpu(), self.data("train")[0]
        small = [torch.nn.functional.avg_pool2d(x.flatten(0, 1), 4).flatten(1) for x in (samples, real)]
        found = {} if labels is None else _fidelity(samples, labels.cpu())
        return found | {
            "frechet": frechet_distance(*small),
            "frame_distance": float(self.frame_curve(samples[:COMPARED]).mean()),
            "clip_distance": clip_distance(samples[:COMPARED], real),
            "flicker": flicker(samples) / flicker(real),
            "change": change(samples) / change(real),
        }

    def floor(self, n: int, seed: int = 0) -> dict[str, float]:
        """The metrics of fresh clips with their captions: what new and perfect samples would get.

        Arguments:
            n: number of clips.
            seed: of their draws.

        Returns:
            What :meth:`measure` returns for them.
        """
        return self.measure(*self.sample_data(n, Draws(n, "floor", seed)))


def seen(clips: Tensor) -> tuple[Tensor, Tensor]:
    """What stands out from the background: how much of it is in each pixel (B, F, H, W), in [0, 1], and its
    colour (B, 3) in [0, 1].

    The background is a clip's median colour. Colour is the mean over the pixels that stand out by more than
    half as much as the most.
    """
    clips = (clips.clamp(-1, 1) + 1) / 2
    ground = clips.permute(0, 2, 1, 3, 4).flatten(2).median(2).values[:, None, :, None, None]
    away = (clips - ground).norm(dim=2)
    share = (away / away.flatten(1).amax(1).clamp_min(0.05)[:, None, None, None]).clamp(0, 1)
    strong = (share > 0.5).float()[:, :, None]
    return share, (clips * strong).sum((1, 3, 4)) / strong.sum((1, 3, 4)).clamp_min(1)


def _shape_of(share: Tensor, centre: Tensor) -> Tensor:
    """Which of ``KINDS`` (B,) covers pixels as ``share`` (B, F, H, W) does, given its ``centre`` (B, F, 2):
    the nearest drawing."""
    drawn = [cover(torch.full((len(share),), kind), centre.float()) for kind in range(len(KINDS))]
    return torch.stack([(share - one).square().flatten(1).mean(1) for one in drawn]).argmin(0)


def _fidelity(clips: Tensor, labels: Tensor) -> dict[str, float]:
    kind, colour, heading = parts(labels)
    share, paint = seen(clips)
    centre, step = motion(share)
    mean = step.mean(1).float()
    way = torch.tensor(list(HEADINGS.values()))[heading]
    along, speed = (mean * way).sum(1), mean.norm(dim=1)
    moves = (along > math.cos(math.pi / 4) * speed) & ((speed / SPEED - 1).abs() < 0.5)
    palette = torch.tensor([PAINT[name] for name in COLOURS])
    coloured, shaped = torch.cdist(paint, palette).argmin(1) == colour, _shape_of(share, centre) == kind
    found = {
        "fidelity": moves & coloured & shaped,
        "motion_fidelity": moves,
        "colour_fidelity": coloured,
        "shape_fidelity": shaped,
    }
    return {name: float(value.double().mean()) for name, value in found.items()}

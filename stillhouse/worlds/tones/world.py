"""``tones``: short synthetic notes of five instruments, and utterances whose loudness is given frame by
frame, as a condition for clips."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.finite import FiniteDenoiser
from stillhouse.core.process import Process
from stillhouse.forms.views import Display, Pictures
from stillhouse.metrics.distances import SWD, sliced_wasserstein
from stillhouse.metrics.metric import ACCURACY, Metric
from stillhouse.metrics.video import nearest
from stillhouse.worlds.base import World, require_samples

LENGTH = 256  # numbers of one note
PARTIALS = 6
PITCH = (4.0, 10.0)  # periods of the fundamental in one note
# by instrument: the strength of each partial, how much sharper than a multiple of the fundamental they are,
# how fast the note dies away
INSTRUMENTS: dict[str, tuple[tuple[float, ...], float, float]] = {
    "flute": ((1.0, 0.12, 0.03, 0.0, 0.0, 0.0), 0.0, 0.0),
    "reed": ((1.0, 0.0, 0.45, 0.0, 0.25, 0.0), 0.0, 0.0),
    "string": ((1.0, 0.6, 0.42, 0.3, 0.22, 0.16), 0.0, 0.6),
    "organ": ((0.8, 1.0, 0.0, 0.7, 0.0, 0.0), 0.0, 0.0),
    "bell": ((1.0, 0.7, 0.5, 0.35, 0.0, 0.0), 0.035, 3.0),
}
SPLITS = {"train": 2000, "test": 500}  # notes of the finite sets
PACE = 32  # numbers of sound that go with one frame of a clip
QUIET, LOUD = 0.15, 0.8  # loudness of a closed and of an open mouth


def play(instrument: Tensor, pitch: Tensor, phase: Tensor, loudness: Tensor, length: int = LENGTH) -> Tensor:
    """Notes of given instruments.

    Arguments:
        instrument: numbers of instruments, (B,).
        pitch: periods of the fundamental in 256 numbers, (B,).
        phase: of the fundamental at the start, in turns, (B,).
        loudness: largest value possible, in [0, 1], (B,).
        length: numbers a note.

    Returns:
        Notes in [-1, 1], (B, length).
    """
    strength, sharp, decay = (
        torch.tensor([i[k] for i in INSTRUMENTS.values()])[instrument] for k in range(3)
    )
    time = torch.arange(length) / LENGTH
    order = torch.arange(1, PARTIALS + 1)
    rates = pitch[:, None] * order * (1 + sharp[:, None] * (order - 1) ** 2)
    waves = torch.sin(2 * math.pi * (rates[..., None] * time + order[:, None] * phase[:, None, None]))
    fade = torch.exp(-decay[:, None, None] * order[:, None] ** 0.5 * time)
    share = strength / strength.sum(1, keepdim=True)
    return loudness[:, None] * (share[..., None] * fade * waves).sum(1)


def utter(open: Tensor, pitch: Tensor) -> Tensor:
    """The sound of a voice whose loudness follows a mouth.

    Loudness runs from 0.15 for closed to 0.8 for open and goes over in the first quarter of a frame.

    Arguments:
        open: how far the mouth is open in each frame of a clip, in [0, 1], (B, F).
        pitch: periods in 256 numbers, (B,).

    Returns:
        Sound in [-1, 1], (B, 32 F).
    """
    require(
        open.dim() == 2 and open.shape[1] > 0,
        f"An utterance has one frame or more, not a shape of {tuple(open.shape)}.",
    )
    level = QUIET + (LOUD - QUIET) * open
    before = torch.cat([level[:, :1], level[:, :-1]], 1)
    way = (torch.arange(PACE) / (PACE / 4)).clamp(max=1)
    envelope = torch.lerp(before[..., None], level[..., None], way).flatten(1)
    voice = torch.full((len(open),), list(INSTRUMENTS).index("string"))
    sound = play(voice, pitch, torch.zeros(len(open)), torch.ones(len(open)), envelope.shape[1])
    # a string dies away, a voice goes on: each frame is brought to the loudness it is meant to have
    each = sound.unflatten(1, (-1, PACE))
    even = each / each.square().mean(2, keepdim=True).sqrt().clamp_min(1e-4)
    utterance: Tensor = (even.flatten(1) * envelope * math.sqrt(0.5)).clamp(-1, 1)
    return utterance


def loudness(sound: Tensor, frames: int) -> Tensor:
    """The loudness of equal parts of a sound: the root mean square, times the square root of 2.

    Arguments:
        sound: (B, T).
        frames: number of parts.

    Returns:
        The loudness of each part, (B, frames).

    Raises:
        StillhouseError: if the sound can't be cut into so many frames.
    """
    require(
        frames >= 1 and sound.shape[1] % frames == 0,
        f"A sound of {sound.shape[1]} numbers can't be cut into {frames} frames; sound and clip must run "
        "at rates that fit.",
    )
    loud: Tensor = sound.unflatten(1, (frames, -1)).square().mean(2).mul(2).sqrt()
    return loud


class Tones(World):
    """Notes (256,) in about [-1, 1] of five instruments, the labels; pitch, phase and loudness are random."""

    name = "tones"
    metrics = (
        Metric("spectral_distance", "low", "", "of a note's spectrum to the nearest real one, squared"),
        SWD,
        ACCURACY,
    )
    shape = (LENGTH,)
    classes = len(INSTRUMENTS)
    class_names = tuple(INSTRUMENTS)
    infinite = True
    sigma_data = 0.32
    network_defaults = {"name": "mlp", "dim": LENGTH, "width": 384, "depth": 4}

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fresh notes and their instruments.

        Arguments:
            n: notes to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: numbers of instruments, (n,), with -1 for any; None for any throughout.

        Returns:
            Notes, (n, 256), and the numbers of their instruments, (n,).
        """
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        drawn = draws.integers(0, self.classes)
        ids = (
            drawn
            if labels is None
            else torch.where(labels.to(drawn.device) < 0, drawn, labels.to(drawn.device))
        )
        pitch, phase, loud = (
            part.cpu() for part in (draws.uniform(*PITCH), draws.uniform(), draws.uniform(0.5, 1.0))
        )
        return play(ids.cpu(), pitch, phase, loud).to(draws.device), ids

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """A fixed set of notes and their instruments: 2,000 to train with, 500 others."""
        require(split in SPLITS, f"A world has the splits 'train' and 'test', not '{split}'.")
        return self._finite[split]

    @cached_property
    def _finite(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {split: self.sample_data(n, Draws(n, "tones", split)) for split, n in SPLITS.items()}

    def exact(self, process: Process) -> FiniteDenoiser:
        """The denoiser of the 2,000 training notes under their labels."""
        return FiniteDenoiser(process, *self.data("train"))

    @property
    def display(self) -> Display:
        return Display(show=self._curves)

    def _curves(self, samples: Tensor, labels: Tensor | None = None) -> Pictures:
        """The notes as curves: pictures (B, 1, 64, 256) in [-1, 1]."""
        rows = torch.linspace(1.1, -1.1, 64)[None, :, None]
        ink = (1 - (samples.float().cpu()[:, None] - rows).abs() / 0.07).clamp_min(0)
        return Pictures((1 - 2 * ink)[:, None], columns=2, few=3, by_class=False)

    def measure(
        self, samples: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """How near notes are to real ones.

        ``spectral_distance``: mean squared distance of a note's spectrum to the nearest real one's; ``swd``
        of the waveforms; ``accuracy``: share whose nearest real spectrum is of its own instrument.

        Arguments:
            samples: notes, at least 4, (B, 256).
            labels: numbers of instruments, (B,); None leaves out the ``accuracy``.
            generator: for the directions of ``swd``; None for one that is the same every time.

        Returns:
            Values by name.
        """
        require_samples(self, samples, labels)
        samples = samples.detach().float().cpu()
        real, known = self.data("train")
        distance, which = nearest(spectrum(samples), spectrum(real))
        found = {
            "spectral_distance": float(distance.mean()),
            "swd": sliced_wasserstein(samples, real, generator=generator),
        }
        return (
            found
            if labels is None
            else {**found, "accuracy": float((known[which] == labels.cpu()).double().mean())}
        )


def spectrum(sound: Tensor) -> Tensor:
    """Strength of each frequency (B, T / 2 + 1) through a smooth window, of unit length whatever the
    loudness."""
    window = torch.hann_window(sound.shape[1], periodic=False)
    return torch.nn.functional.normalize(torch.fft.rfft(sound * window).abs(), dim=1)

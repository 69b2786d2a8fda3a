"""The talking kind of ``clips``: a mouth that moves along a ring of 16 pixels as its text describes, and
opens with the loudness of its sound."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, as_parts, require_labels
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.finite import FiniteDenoiser
from stillhouse.core.process import Process, expand_to
from stillhouse.forms.views import Clips, Display
from stillhouse.metrics.metric import Metric
from stillhouse.metrics.video import DISTANCES, MOTION, clip_distance, frame_distances, nearest
from stillhouse.models.words import Words
from stillhouse.worlds.base import World, require_samples
from stillhouse.worlds.tones.world import LOUD, QUIET, loudness, utter

PIXELS, FRAMES, SYLLABLE = 16, 10, 2  # a syllable is spoken for so many frames
# pixels a frame
SPEEDS = {
    "quickly left": -3,
    "steadily left": -2,
    "slowly left": -1,
    "slowly right": 1,
    "steadily right": 2,
    "quickly right": 3,
}
NARROW, WIDE = 0.8, 2.2  # the mouth's width in pixels, closed and open
PITCH = 6.0  # of the voice
TOLERANCE = 0.25  # sounds whose loudness differs by more in any frame are different sounds


def spoken(number: Tensor, frames: int = FRAMES) -> Tensor:
    """Which frames of utterances are open: syllable ``k`` of a number is its ``k``-th binary digit, in turn.

    Arguments:
        number: of the utterances, (B,).
        frames: length; longer ones repeat the utterance.

    Returns:
        0 or 1 a frame, (B, frames).
    """
    syllable = torch.arange(frames) // SYLLABLE % (FRAMES // SYLLABLE)
    return (number[:, None] >> syllable & 1).float()


def sound_features(open: Tensor) -> Tensor:
    """The condition that a network is given for sound, (B, F, 2): a 1 that stands for "there is sound", and
    its loudness, about 0 … 1.

    Zeros stand for no condition. ``open`` (B, F): how far the mouth is open.
    """
    loud = loudness(utter(open, torch.full((len(open),), PITCH)), open.shape[1])
    return torch.stack([torch.ones_like(loud), (loud - QUIET) / (LOUD - QUIET)], 2)


def render(place: Tensor, open: Tensor) -> Tensor:
    """Frames of a mouth on the ring.

    Arguments:
        place: of the mouth's centre, in pixels modulo 16, (…).
        open: how far it is open, in [0, 1], (…).

    Returns:
        Frames in [-1, 1], (…, 16, 1, 1).
    """
    away = (torch.arange(PIXELS) - place[..., None] + PIXELS / 2) % PIXELS - PIXELS / 2
    width = NARROW + (WIDE - NARROW) * open[..., None]
    return (2 * torch.exp(-0.5 * (away / width) ** 2) - 1)[..., None, None]


class TalkingDenoiser(FiniteDenoiser):
    """The :class:`FiniteDenoiser` of all clips of the world, of those that agree with what is told.

    ``bank`` (N, F, 16, 1, 1): all clips; ``speed`` (N,) and ``loud`` (N, F): the text's number and the
    loudness of each. ``texts`` (6, L, C): the tokens of all texts.
    """

    speed: Tensor
    loud: Tensor
    texts: Tensor

    def __init__(self, process: Process, bank: Tensor, speed: Tensor, loud: Tensor, texts: Tensor):
        super().__init__(process, bank)
        self.register_buffer("texts", texts)
        self.register_buffer("speed", speed)
        self.register_buffer("loud", loud)

    def logits(self, x_t: Tensor, t: Tensor, allowed: Tensor | None) -> Tensor:
        # as the parent's, not shifted by the best point: all numbers of this world were measured so
        points, x = self.points.to(x_t), x_t.flatten(1)
        alpha, sigma = expand_to(self.process.alpha(t), x), expand_to(self.process.sigma(t), x)
        near = alpha * (x @ points.T) - 0.5 * alpha**2 * points.square().sum(1)
        return near / (sigma**2).clamp_min(1e-12)

    def allowed(self, cond: Condition, rows: int) -> Tensor:
        allowed = torch.ones(rows, len(self.points), dtype=torch.bool, device=self.points.device)
        parts = {} if cond is None else as_parts(cond)
        if "tokens" in parts:
            pred = torch.cdist(parts["tokens"].flatten(1), self.texts.flatten(1)).argmin(1)
            allowed &= ~parts["mask"].any(1)[:, None] | (pred[:, None] == self.speed)
        if "features" in parts:
            features = parts["features"]
            require(
                tuple(features.shape[1:]) == (self.shape[0], 2),
                f"A clip of {self.shape[0]} frames takes sound features of as many frames, 2 numbers each, "
                "not "
                f"{tuple(features.shape[1:])}.",
            )
            sounding, loud = features[..., 0] > 0.5, features[..., 1]
            off = (loud[:, None] - self.loud).abs() > TOLERANCE
            allowed &= ~(off & sounding[:, None]).any(2)
        require(
            bool(allowed.any(1).all()),
            "No clip of this world has that loudness; take sounds that the world has made.",
        )
        return allowed


class TalkingClips(World):
    """Clips (10, 16, 1, 1) in [-1, 1]. A label is the number of a condition: text ``label % 6`` and utterance
    ``label // 6``, of 32.

    A condition holds ``tokens`` and ``mask`` of the text ("slowly left") and ``features`` (B, 10, 2), the
    loudness of the sound. The start on the ring is random, so that there are 3,072 clips in all and every
    posterior mean is exact, whatever part of the condition is given.
    """

    name = "clips"
    metrics = (
        *DISTANCES,
        Metric("sync", "high", "share", "of frames as open as the sound is loud"),
        MOTION,
    )
    shape = (FRAMES, PIXELS, 1, 1)
    cond_kind = "audio"
    sigma_data = 0.6
    utterances = 2 ** (FRAMES // SYLLABLE)
    network_defaults = {
        "name": "video_dit",
        "channels": PIXELS,
        "patch": 1,
        "dim": 64,
        "depth": 3,
        "heads": 4,
        "frames": FRAMES,
        "token_dim": 16,
        "features": 2,
    }

    def __init__(self) -> None:
        number = torch.arange(self.utterances * len(SPEEDS) * PIXELS)
        self._labels, start = number // PIXELS, number % PIXELS
        self._clips = self.clip(self._labels, start)
        self._features = sound_features(spoken(torch.arange(self.utterances)))
        words = sorted({word for text in SPEEDS for word in text.split()})
        self._texts = Words(words, 2, dim=16).encode(
            [*SPEEDS, ""]
        )  # the empty text comes last, where label -1 finds it

    def clip(self, labels: Tensor, start: Tensor, frames: int = FRAMES) -> Tensor:
        """Clips of given conditions and starts.

        Arguments:
            labels: numbers of conditions, (B,), at least 0.
            start: place of the mouth in the first frame, in whole pixels, (B,).
            frames: length; longer clips repeat the utterance.

        Returns:
            Clips in [-1, 1], (B, frames, 16, 1, 1).
        """
        speed = torch.tensor(list(SPEEDS.values()))[labels % len(SPEEDS)]
        place = start[:, None] + speed[:, None] * torch.arange(frames)
        return render(place, spoken(labels // len(SPEEDS), frames))

    def condition(self, labels: Tensor | None, frames: int = FRAMES) -> Condition:
        """The condition of labels.

        Arguments:
            labels: numbers of conditions, (B,), with -1 for the empty one; None for none.
            frames: length of the clips; longer ones repeat the utterance.

        Returns:
            ``tokens, mask`` and ``features`` (B, frames, 2), as a dict; None for ``labels=None``.
        """
        if labels is None:
            return None
        last = self.utterances * len(SPEEDS) - 1
        require(
            int(labels.min()) >= -1 and int(labels.max()) <= last,
            f"Conditions have the numbers 0 … {last}, and -1 for none.",
        )
        some, known = labels.cpu().clamp_min(0), labels.cpu() >= 0
        sounding = (
            self._features
            if frames == FRAMES
            else sound_features(spoken(torch.arange(self.utterances), frames))
        )
        features = sounding[some // len(SPEEDS)] * known[:, None, None]
        text = torch.where(known, some % len(SPEEDS), -1)
        pred = {name: part[text] for name, part in self._texts.items()}
        return {name: part.to(labels.device) for name, part in {**pred, "features": features}.items()}

    def listen(self, sound: Tensor) -> Tensor:
        """``features`` (1, F, 2) of any sound that was cut into frames (F, T): its loudness, the loudest
        frame being fully open."""
        loud = sound.square().mean(1).sqrt()
        return torch.stack([torch.ones_like(loud), loud / loud.amax().clamp_min(1e-6)], 1)[None]

    def balanced_labels(self, n: int, split: str = "train") -> Tensor:
        """Conditions with the speeds in turn and utterances far apart.

        Arguments:
            n: how many.
            split: not read; both splits have the same conditions.

        Returns:
            Numbers of conditions, (n,).
        """
        place = torch.arange(n)
        labels: Tensor = place % len(SPEEDS) + len(SPEEDS) * (place * 11 % self.utterances)
        return labels

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """All clips and their conditions, the same for every split."""
        return self._clips, self._labels

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Clips and their conditions, drawn with replacement.

        Arguments:
            n: clips to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: numbers of conditions, (n,), with -1 for any; None for any throughout.

        Returns:
            Clips, (n, 10, 16, 1, 1), and the numbers of their conditions, (n,).
        """
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        drawn = draws.integers(0, self.utterances * len(SPEEDS)).cpu()
        asked = drawn if labels is None else torch.where(labels.cpu() < 0, drawn, labels.cpu())
        return self.clip(asked, draws.integers(0, PIXELS).cpu()).to(draws.device), asked.to(draws.device)

    def exact(self, process: Process) -> TalkingDenoiser:
        """The denoiser of all clips, under any part of a condition."""
        loud = self._features[self._labels // len(SPEEDS), :, 1]
        return TalkingDenoiser(
            process, self._clips, self._labels % len(SPEEDS), loud, self._texts["tokens"][:-1]
        )

    @property
    def frames(self) -> Tensor:
        """All true frames (32, 16, 1, 1), the closed ones first."""
        place = torch.arange(PIXELS).repeat(2)
        return render(place, (torch.arange(2 * PIXELS) >= PIXELS).float())

    def frame_curve(self, clips: Tensor) -> Tensor:
        """Squared distance to the nearest true frame by frame number, (F,), for clips of any length."""
        return frame_distances(clips, self.frames)

    def sync(self, clips: Tensor, labels: Tensor) -> float:
        """The share of frames that are open or closed as the sound requires.

        Arguments:
            clips: of any length, (B, F, 16, 1, 1).
            labels: numbers of their conditions, (B,), at least 0.

        Returns:
            The share, by the nearest true frame.
        """
        require_labels(labels, self.utterances * len(SPEEDS))
        _, which = nearest(clips.flatten(0, 1).cpu(), self.frames)
        wanted = spoken(labels.cpu() // len(SPEEDS), clips.shape[1]).flatten()
        return float(((which >= PIXELS) == (wanted > 0.5)).double().mean())

    @property
    def display(self) -> Display:
        return Display(show=self._rings, sound=self.listen, condition=self.condition)

    def _rings(self, samples: Tensor, labels: Tensor | None = None) -> Clips:
        """Every frame as a grey picture of the ring cut open, 8 rows high."""
        return Clips(samples.clamp(-1, 1).permute(0, 1, 3, 4, 2).expand(-1, -1, -1, 8, -1))

    def measure(
        self, samples: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """How near clips are to true ones and, with labels, how well they follow their condition.

        ``frame_distance, clip_distance``: squared, to the nearest true one; ``sync``: share of frames as open
        as the sound is loud; ``motion_fidelity``: share of steps at the speed of the text.

        Arguments:
            samples: clips, at least 4, (B, 10, 16, 1, 1).
            labels: numbers of conditions, (B,); None leaves out ``sync`` and ``motion_fidelity``.
            generator: not read; nothing here is random.

        Returns:
            Values by name.
        """
        require_samples(self, samples, labels)
        samples = samples.detach().float().cpu()
        found = {
            "frame_distance": float(self.frame_curve(samples).mean()),
            "clip_distance": clip_distance(samples, self._clips),
        }
        if labels is None:
            return found
        return {**found, "sync": self.sync(samples, labels), "motion_fidelity": self.moves(samples, labels)}

    def moves(self, clips: Tensor, labels: Tensor) -> float:
        """The share of steps from frame to frame that are as far as the text requires.

        Arguments:
            clips: of any length, (B, F, 16, 1, 1).
            labels: numbers of their conditions, (B,), at least 0.

        Returns:
            The share, by the nearest true frames.
        """
        require_labels(labels, self.utterances * len(SPEEDS))
        _, which = nearest(clips.flatten(0, 1).cpu(), self.frames)
        step = (which % PIXELS).reshape(clips.shape[:2]).diff(dim=1) % PIXELS
        wanted = torch.tensor(list(SPEEDS.values()))[labels.cpu() % len(SPEEDS)] % PIXELS
        return float((step == wanted[:, None]).double().mean())

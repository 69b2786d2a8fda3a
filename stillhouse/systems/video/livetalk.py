"""livetalk: a causal student learns on the streams that it makes itself, from a start that has converged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.prediction import At, divide
from stillhouse.parts.players.score_range import SCORE_OPTIM
from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.parts.video.audio_guidance import TwoGuided
from stillhouse.parts.video.clips import (
    check_levels,
    chunk_levels,
    clip_matching,
    last_clip,
    make_causal,
    score_times,
    self_rollout,
    streaming,
    whole_clip_fake,
)
from stillhouse.parts.video.initialisation import CausalMethod
from stillhouse.samplers.sampling import Sampling
from stillhouse.samplers.streaming import Clamped, of_frames
from stillhouse.train.batch import Batch, shared
from stillhouse.train.option import option
from stillhouse.train.published import ADAMW, CONSTANT, Published, Settings


@dataclass
class LiveTalk(CausalMethod):
    """LiveTalk: Real-Time Multimodal Interactive Video Diffusion, by on-policy distillation. Chern et al.,
    2025 (arXiv 2512.23576).

    Self Forcing (Huang et al., 2025, arXiv 2506.08009, algorithm 1) and what makes it hold: the student is
    first taught the ends of the teacher's paths until it has *converged*; then it makes clips by itself,
    chunk by chunk with its cache, leaves off after a random number of calls that is one for the whole clip,
    and the clip moves along the difference of two scores that see all of it. What it learns from is what its
    own stream will meet, so that the stream does not drift; streams longer than the teacher's clips are
    scored by their last frames. The condition may be text (or a label) and sound, each with a guidance scale
    of its own, and a given first frame.
    """

    levels: tuple[float, ...] = option((1.0, 0.6), "times of the student's calls for a chunk, falling from 1")
    chunk: int = option(2, "frames that are made together", low=1)
    ode_share: float = option(
        0.75, "share of the iterations that are ODE initialisation; it should converge", low=0, high=1
    )
    paths: int = option(1024, "stored teacher trajectories", low=1)
    teacher_steps: int = option(32, "Euler steps of a stored trajectory", low=1)
    path_guidance: float = option(1.0, "teacher guidance scale of the trajectories (1: none)", low=0)
    guidance: float = option(
        1.0, "teacher guidance scale of text or label in the score difference (1: none)", low=0
    )
    sound_guidance: float = option(
        1.0, "teacher guidance scale of the sound there (1: none); equal to `guidance` it saves a pass", low=0
    )
    shift: float = option(
        1.0, "shift of the teacher's time grid and of the score times towards the noise (1: none)", low=0.01
    )
    fake_per_student: int = option(3, "updates of the fake score per update of the student", low=1)
    warmup: int = option(
        300,
        "first iterations of the second stage in which the fake score learns alone: it starts where "
        "nothing pulls",
        low=0,
    )
    longest: int = option(
        0,
        "frames of its own streams, from the clip's length up to this; the last of them are scored (0: the "
        "clip's)",
        low=0,
    )
    reference: bool = option(
        False, "the first frame is given, by real clips in training and by the user when sampling"
    )
    sink: int = option(0, "first frames of a stream that its cache keeps for ever", low=0)

    kind = "method"
    worlds = ("clips",)
    needs = ("teacher", "data if reference=true")
    forms = ("video",)
    optim = SCORE_OPTIM
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "GAIR-NLP/LiveTalk@53b2c22, configs/dmd.yaml (its ODE stage learns at 4e-5), with Self-Forcing's"
            " optimiser; of adapters it is the nearest",
            lr={"student": 4e-6, "fake": 8e-7},
            options={"levels": (1.0, 0.936, 0.832, 0.624), "chunk": 3, "fake_per_student": 5, "shift": 5.0}
            | {"warmup": 0, "path_guidance": 6.0, "guidance": 6.0, "sound_guidance": 6.0},
            run={**ADAMW, **CONSTANT, "betas": (0.0, 0.999), "clip": 10.0, "ema": 0.99},
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.levels = tuple(self.levels)  # a list, where it was read from a file
        check_levels(self.levels, "LiveTalk option 'levels'")
        require(
            not self.reference or self.chunk > 1,
            "LiveTalk option 'reference' needs a chunk of 2 frames or more: one of them is given.",
        )

    def build(self) -> None:
        self.real = TwoGuided(self.teacher, self.guidance, self.sound_guidance)
        self.fake: Denoiser = self.player("fake", whole_clip_fake(self.teacher, self.student))
        make_causal(self.student, self.chunk)
        self.samplings()  # refuses a sink that leaves no room, before anything is learned

    # -- stage 1: the ends of the teacher's paths --------------------------------------------------
    def path_teacher(self) -> Denoiser:
        return TwoGuided(self.teacher, self.path_guidance, self.path_guidance)

    def stored_levels(self, batch: Batch) -> Tensor:
        clean = len(self.levels)
        levels = chunk_levels(batch.draws, clean + 1, self.chunk, self.shape[0])
        if self.reference:
            levels[:, 0] = clean
        return levels

    # -- stage 2: its own streams ------------------------------------------------------------------
    def length(self, batch: Batch) -> int:
        """How long a stream is: a clip and any number of chunks more up to `longest`; one number for all
        samples and processes."""
        more = max(0, self.longest - self.shape[0]) // self.chunk
        return self.shape[0] + self.chunk * batch.stream("length").one_integer(0, more + 1)

    def stream_condition(self, batch: Batch) -> Condition:
        """The condition of a stream's frames: the features of the clip's frames, over and over."""
        cond = batch.cond
        if not isinstance(cond, dict) or "features" not in cond or cond["features"].dim() != 3:
            return cond
        again = torch.arange(self.length(batch), device=cond["features"].device) % self.shape[0]
        return {**cond, "features": cond["features"][:, again]}

    def before(self, batch: Batch) -> int:
        """How many frames of a stream come before its last clip, which is scored."""
        return self.length(batch) - self.shape[0]

    def scored(self, batch: Batch) -> tuple[Condition, Tensor | None]:
        """The condition of the last frames of a stream, a clip of them, and the given frames among them."""
        before = self.before(batch)
        given = batch.data[:, :1] if self.reference and not before else None
        return of_frames(self.stream_condition(batch), before, self.shape[0]), given

    @shared
    def samples(self, batch: Batch) -> Tensor:
        """The last frames of streams that the student makes by itself; all their chunks leave off after the
        same call. Only what learns carries gradient."""
        calls, shape = (
            batch.stream("exit").one_integer(1, len(self.levels) + 1),
            (self.length(batch), *self.shape[1:]),
        )
        cache = {
            "window": self.shape[0] - self.chunk,
            "sink": self.sink,
        }  # as when it is sampled; a single clip fits in whole
        known = batch.data[:, :1] if self.reference else None
        before = self.before(batch)
        made = self_rollout(
            self.student,
            self.levels[:calls],
            batch.draws,
            self.stream_condition(batch),
            shape,
            known=known,
            grad_from=before + self.fixed(batch),
            **cache,
        )
        return last_clip(made, self.shape[0], self.codec) if before else made

    def fixed(self, batch: Batch) -> int:
        """First frames of the scored clips that do not learn: none, but of latents of a longer stream the
        first chunk, whose first frame is made anew."""
        return self.chunk if self.before(batch) and self.codec is not None else 0

    def matching_loss(self, batch: Batch) -> Tensor:
        x, (cond, known) = self.samples(batch), self.scored(batch)
        real, fake = (
            (self.real, self.fake)
            if known is None
            else (Clamped(self.real, known), Clamped(self.fake, known))
        )
        learns = (torch.arange(x.shape[1], device=x.device) >= self.fixed(batch)).expand(len(x), -1)
        return clip_matching(x, real, fake, cond, batch.draws, self.shift, learns)

    def fake_loss(self, batch: Batch) -> Tensor:
        x, (cond, known), t = (
            self.samples(batch),
            self.scored(batch),
            score_times(self.process, batch.draws, self.shift),
        )
        if known is None:
            return denoising_loss(self.fake, x, t, batch.noise(), cond)
        free = torch.arange(x.shape[1], device=x.device) >= known.shape[1]
        each, learns = torch.where(free, t[:, None], self.process.t_min), free[:, None, None, None]
        eps = learns * batch.noise()  # a given frame is clean, also where t_min has noise, and has no loss
        return denoising_loss(self.fake, x, each, eps, cond, lambda at: learns * velocity_weight(at))

    def samplings(self) -> dict[int, Sampling]:
        return {len(self.levels): streaming(self.levels, self.chunk, self.shape[0], self.sink)}


def velocity_weight(at: At) -> Tensor:
    """The weight on ``|D - x|^2`` that makes it the error of the velocity, and 0 for frames that are clean
    and have no loss."""
    return divide(at.dalpha * at.sigma - at.dsigma * at.alpha, at.sigma) ** 2

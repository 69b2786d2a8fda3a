"""hyper_sd: consistency within segments of time that grow from stage to stage; then a reward; then scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.flowmap import jump, predict_x0
from stillhouse.core.guidance import Guided
from stillhouse.core.process import expand_to
from stillhouse.parts.gaps.critic import (
    discriminator_loss,
    feature_source,
    features,
    generator_loss,
    head_for,
)
from stillhouse.parts.gaps.score import dmd_gradient, fake_for, surrogate_loss
from stillhouse.parts.states.backward_simulation import student_grid
from stillhouse.parts.states.pairs import teacher_pairs
from stillhouse.parts.states.segments import halvings, parted, segment_pair
from stillhouse.parts.states.time_sampler import uniform
from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.parts.targets.reward import Reward, find_reward, shortfall
from stillhouse.parts.targets.teacher import teacher_steps
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers.ddim import DDIM
from stillhouse.train.batch import Batch, shared
from stillhouse.train.method import Method
from stillhouse.train.option import option
from stillhouse.train.published import CONSTANT, PLAIN_ADAM, Published, Settings
from stillhouse.train.recipe import Optim
from stillhouse.train.stage import Stage, alternating, enough
from stillhouse.train.start import require_clean_start

# the squared error's share beside the critic's, from this number of segments up (our reading of the paper)
SQUARED_SHARE = {8: 0.9, 4: 0.8, 2: 0.5, 1: 0.3}


@dataclass
class SegmentStage(Stage):
    """A stage of consistency within ``segments`` segments of time."""

    segments: int = 1


@dataclass
class SegmentJump:
    """Where a jump of the student ends, ``x_s`` at ``s``, and where it should, ``target``."""

    s: Tensor
    x_s: Tensor
    target: Tensor


@dataclass
class HyperSD(Method):
    """Hyper-SD: Trajectory Segmented Consistency Model for Efficient Image Synthesis. Ren et al., 2024 (arXiv
    2404.13686).

    The student's DDIM jump from a state must land where its EMA's jump from the next state of the teacher's
    path lands, at any time within a segment. A one-time network can do that only where the path is nearly
    straight: so time is cut into many segments first, and their number is halved from stage to stage. Two
    more stages may follow. Reward feedback lifts the one-jump images up to a margin; score distillation
    sharpens the one-step student.
    """

    segments: int = option(8, "segments of time in the first stage", low=1)
    last_segments: int = option(
        1, "segments in the last one, a half, a quarter … of the first; the student's calls per sample", low=1
    )
    levels: int = option(40, "DDIM steps of the teacher's whole path, a multiple of `segments`", low=1)
    guidance: float = option(1.0, "teacher guidance scale (1: none)", low=0)
    decay: float = option(0.95, "decay of the EMA copy per step", low=0, high=1)
    critic: float = option(
        0.0,
        "how far the squared error gives way to a critic (1: the paper's balance, 0: not at all)",
        low=0,
        high=1,
    )
    unified: bool = option(
        False, "the last stage mixes all numbers of segments, for one student of 1 to `segments` calls"
    )
    reward: str = option(
        "",
        "reward of the second stage: `captions` (of the world shapes), or `./file.py:function` of "
        "r(x0, cond) -> (B,)",
        code=True,
    )
    reward_share: float = option(
        0.0, "share of the run that the reward stage takes (0: no such stage)", low=0, high=0.9
    )
    margin: float = option(0.0, "reward at which a sample is good enough to be left alone", low=-1e9)
    score_share: float = option(
        0.0, "share of the run that the one-step score stage takes (0: no such stage)", low=0, high=0.9
    )
    first_time: float = option(
        1.0,
        "time of the one call of the score stage; its input is pure noise of that level",
        low=0.01,
        high=1,
    )
    fake_per_student: int = option(2, "updates of the fake score per update of the student", low=1)
    pairs: int = option(2000, "teacher pairs that hold the one-step student (0: none)", low=0)
    pair_weight: float = option(0.25, "weight of their squared error", low=0)
    reward_weight: float = option(0.1, "weight of the reward in the score stage, if there is a reward", low=0)

    kind = "method"
    worlds = ("mixture", "digits", "mnist", "shapes")
    needs = ("teacher", "data", "reward unless reward_share=0")
    optim: ClassVar[dict[str, Optim]] = {
        "student": Optim(lr=5e-4, schedule="cosine"),
        "critic": Optim(lr=1e-3, betas=(0.5, 0.9)),
        "fake": Optim(lr=5e-4),
    }
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "Hyper-SD (2404.13686), section 4.1, adapters in all stages; of whole networks it is the "
            "nearest; its optimiser, rank and guidance are not stated: those of SDXL-Lightning",
            lr={"student": 1e-6, "critic": 1e-6, "fake": 1e-6},
            options={"guidance": 6.0},
            run={**PLAIN_ADAM, **CONSTANT},
        ),
        "lora": Settings("", run={"lora": 64, "lora_alpha": 64.0, "lora_targets": "blocks"}),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        ratio = self.segments / self.last_segments
        halved = ratio >= 1 and ratio.is_integer() and int(ratio) & (int(ratio) - 1) == 0
        require(
            halved,
            f"Halving leads from {self.segments} segments to {self.last_segments} only if one is the other "
            "times 1, 2, 4, 8 …",
        )
        require(
            self.levels % self.segments == 0,
            f"HyperSD option 'levels' is a multiple of the {self.segments} segments, not {self.levels}.",
        )
        require(not self.reward_share or bool(self.reward), "A reward stage needs a reward; name one.")
        spent = self.reward_share + self.score_share
        require(
            spent < 1,
            f"The reward and score stages take {spent:g} of the run; leave something for the segments.",
        )
        once = not self.score_share or self.last_segments == 1
        require(once, f"The score stage is for a one-step student, not one of {self.last_segments} segments.")

    # -- stages ------------------------------------------------------------------------------------
    def stages(self, total: int) -> list[Stage]:
        """Consistency within fewer and fewer segments; then the reward; then scores."""
        ladder = halvings(self.segments, self.last_segments)
        late = [share for share in (self.reward_share, self.score_share) if share]
        each = (1 - self.reward_share - self.score_share) / len(ladder)
        lengths = parted(total, [each] * len(ladder) + late)
        made: list[Stage] = [
            self._segment_stage(k, length) for k, length in zip(ladder, lengths, strict=False)
        ]
        if self.reward_share:
            made.append(self._reward_stage(lengths[len(ladder)]))
        if self.score_share:
            made.append(self._score_stage(lengths[-1], total - lengths[-1]))
        return enough(made, total)

    def _segment_stage(self, segments: int, length: int) -> SegmentStage:
        turns = ["critic", "student"] if self.critic else ["student"]
        losses = {"student": self.segment_loss, "critic": self.critic_loss}
        name = f"{segments} segment{'s' if segments > 1 else ''}"
        return SegmentStage(name, length, lambda step: turns, losses, segments=segments)

    def _reward_stage(self, length: int) -> Stage:
        return Stage("reward feedback", length, lambda step: ["student"], {"student": self.reward_loss})

    def _score_stage(self, length: int, before: int) -> Stage:
        turns = alternating(self.fake_per_student, offset=before)
        losses = {"student": self.score_loss, "fake": self.fake_loss}
        return Stage("score distillation", length, turns, losses)

    # -- players -----------------------------------------------------------------------------------
    def build(self) -> None:
        require_clean_start(self.student)
        self.guided = Guided(self.teacher, self.guidance)
        self.target: Denoiser = self.ema_copy(self.student, self.decay)
        self.worth: Reward | None = find_reward(self.reward) if self.reward else None
        if self.critic:
            self.feature_net: Denoiser = feature_source(self)
            self.head = self.player("critic", head_for(self.feature_net, self.shape))
        if self.score_share:
            self.fake: Denoiser = self.player("fake", fake_for(self.teacher, self.student))

    @property
    def bank_size(self) -> int:
        return self.pairs if self.score_share and self.pair_weight else 0

    def bank_rows(self, draws: Draws, cond: Condition) -> dict[str, Tensor]:
        return teacher_pairs(self.guided, self.shape, draws, cond, steps=self.levels)

    # -- consistency within segments ---------------------------------------------------------------
    def segments_at(self, batch: Batch) -> int:
        """The stage's number of segments; in the last stage of a unified student any of them, one for the
        whole batch."""
        if self.unified and self.stage_segments == self.last_segments:
            ladder = halvings(self.segments, self.last_segments)
            return ladder[batch.stream("segments").one_integer(0, len(ladder))]
        return self.stage_segments

    @property
    def stage_segments(self) -> int:
        """The number of segments that the current stage is about."""
        assert isinstance(self.current, SegmentStage)
        return self.current.segments

    @shared
    def segment_jump(self, batch: Batch) -> SegmentJump:
        """The student's jump within a segment, and where the teacher's step and the EMA's jump end."""
        shares = segment_pair(self.levels, self.segments_at(batch), batch.draws)
        low, place = self.process.t_min, self.process.on_table
        t, u, b = (place(low + (1 - low) * share) for share in shares)
        s = place(b + (u - b) * batch.draws.uniform())
        x_t = self.process.noise(batch.data, t, batch.noise())
        with torch.no_grad():
            x_u = teacher_steps(self.guided, x_t, [t, u], batch.cond, DDIM())
            # at the segment's end the state itself is the target: that ties the chain of equalities to the
            # teacher
            target = torch.where(expand_to(u - b, x_u) > 0, jump(self.target, x_u, u, s, batch.cond), x_u)
        return SegmentJump(s, jump(self.student, x_t, t, s, batch.cond), target)

    def segment_loss(self, batch: Batch) -> Tensor:
        """The student's loss in a stage of segments: squared error, giving way to the critic as segments
        grow."""
        made = self.segment_jump(batch)
        squared = (made.x_s - made.target).square().mean()
        if not self.critic:
            return squared
        full = next(share for least, share in SQUARED_SHARE.items() if self.stage_segments >= least)
        share = 1 - self.critic * (1 - full)
        adversarial = generator_loss(self.logits(made.x_s, made.s, batch), kind="hinge")
        batch.log("generator", adversarial)
        return share * squared + (1 - share) * adversarial

    def critic_loss(self, batch: Batch) -> Tensor:
        made = self.segment_jump(batch)
        real = self.process.noise(batch.data, made.s, batch.noise())
        real, fake = self.logits(real, made.s, batch), self.logits(made.x_s, made.s, batch)
        return discriminator_loss(real, fake, kind="hinge")

    def logits(self, x: Tensor, s: Tensor, batch: Batch) -> Tensor:
        """The critic's logits of states, read off frozen features.

        Arguments:
            x: states, (B, *shape).
            s: their times in [0, 1], (B,).
            batch: gives the condition.

        Returns:
            Logits, (B,), positive for real.
        """
        level = s.clamp_min(max(self.process.t_min, 1e-3))
        return self.head(features(self.feature_net, x, level, batch.cond))

    # -- reward feedback ---------------------------------------------------------------------------
    def reward_loss(self, batch: Batch) -> Tensor:
        """The student's loss in the reward stage: how far its clean estimates fall short of the margin."""
        assert self.worth is not None
        t = uniform(self.process, batch.draws)
        x = predict_x0(self.student, self.process.noise(batch.data, t, batch.noise()), t, batch.cond)
        worth = self.worth(x, batch.cond)
        batch.log("reward", worth.mean())
        return shortfall(worth, self.margin)

    # -- one step, by scores -----------------------------------------------------------------------
    def once(self, eps: Tensor, cond: Condition) -> Tensor:
        """The one-step student's samples.

        Arguments:
            eps: standard normal noise, (B, *shape).
            cond: the condition of the B rows; None for none.

        Returns:
            Samples, (B, *shape).
        """
        t = torch.full((len(eps),), self.first_time, device=eps.device)
        return predict_x0(self.student, expand_to(self.process.sigma(t), eps) * eps, t, cond)

    @shared
    def samples(self, batch: Batch) -> Tensor:
        """One-step samples of the student, (rows, *shape)."""
        return self.once(batch.noise(), batch.cond)

    def score_loss(self, batch: Batch) -> Tensor:
        """The student's loss in the score stage: the difference of scores, stored pairs, and the reward if
        there is one."""
        x = self.samples(batch)
        t = uniform(self.process, batch.draws, 0.02, 0.98)
        loss = surrogate_loss(x, dmd_gradient(x, t, batch.noise(), self.guided, self.fake, batch.cond))
        if self.bank_size:
            pair = batch.stored()
            gap = (self.once(pair["eps"], pair.get("cond")) - pair["x"]).square().mean()
            batch.log("pairs", gap)
            loss = loss + self.pair_weight * gap
        if self.worth is not None:
            loss = loss + self.reward_weight * shortfall(self.worth(x, batch.cond), self.margin)
        return loss

    def fake_loss(self, batch: Batch) -> Tensor:
        return denoising_loss(
            self.fake, self.samples(batch), uniform(self.process, batch.draws), batch.noise(), batch.cond
        )

    def samplings(self) -> dict[int, Sampling]:
        start = self.first_time if self.score_share else 1.0
        if not self.unified:
            return {self.last_segments: self._way(self.last_segments, start, 0.0)}
        ways = halvings(self.segments, self.last_segments)[::-1]
        return {k: self._way(k, start if k == 1 else 1.0, 1 / k) for k in ways}

    def _way(self, steps: int, first_time: float, gamma: float) -> Sampling:
        """DDIM on the trailing grid, or gamma-sampling, whose fresh noise grows fewer calls fewer."""
        return Sampling(
            [*student_grid(self.process, first_time, steps), 0.0],
            {"name": "renoise", "gamma": gamma} if gamma else "ddim",
        )

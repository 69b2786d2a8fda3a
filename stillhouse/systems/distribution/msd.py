"""msd: several one-step students, each for a part of the conditions, behind one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from stillhouse.adapters import Adapted
from stillhouse.core.conditions import Condition, cycled, move, pick, size
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.flowmap import predict_x0
from stillhouse.core.guidance import Guided
from stillhouse.io.own import is_own
from stillhouse.model import Model
from stillhouse.models.routed import Routed, route
from stillhouse.parts.gaps.critic import discriminator_loss, features, generator_loss, head_for
from stillhouse.parts.gaps.score import dmd_gradient, fake_for, surrogate_loss
from stillhouse.parts.players.partition import embedding_signs, label_blocks, rows_of
from stillhouse.parts.players.score_range import SCORE_OPTIM, OneCallScore
from stillhouse.parts.states.pairs import teacher_pairs
from stillhouse.parts.states.time_sampler import uniform
from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.base import Part, Program
from stillhouse.train.batch import Batch
from stillhouse.train.data import Data, InfiniteData, NoData, Prompts, TensorData
from stillhouse.train.method import Method
from stillhouse.train.option import option
from stillhouse.train.recipe import Optim


class _OnePart(Method):
    """What the stages of one part have in common. ``everyone``: conditions of all parts together, (N, …)."""

    everyone: Condition = None
    first_time: float
    pair_steps: int
    guidance: float

    def build(self) -> None:
        self.real = Guided(self.teacher, self.guidance)

    def samplings(self) -> dict[int, Sampling]:
        return {1: Sampling([self.first_time, 0.0], "renoise")}


@dataclass
class ScoreMatching(_OnePart):
    """Teacher score matching: a student of another size learns the teacher's answers on its part, and so has
    something to start the next stage from (Song et al., 2024, arXiv 2410.23274, TSM)."""

    part: int = option(0, "number of the part", low=0)
    first_time: float = option(1.0, "time of the one call", low=0.01, high=1)
    guidance: float = option(1.0, "teacher guidance scale (1: none)", low=0)
    pairs: int = option(512, "teacher samples that are noised", low=1)
    pair_steps: int = option(0, "Heun steps of a teacher sample (0: adaptive)", low=0)

    needs = ("teacher",)
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=1e-3, clip=10.0)}

    @property
    def bank_size(self) -> int:
        return self.pairs

    def bank_rows(self, draws: Draws, cond: Condition) -> dict[str, Tensor]:
        return teacher_pairs(self.real, self.shape, draws, cond, self.pair_steps)

    def student_loss(self, batch: Batch) -> Tensor:
        """The teacher's prediction as the target of the student's raw output: the weight over time is that of
        the student's kind, for EDM's ``(sigma^2 + sigma_d^2) / (sigma sigma_d)^2``."""
        row = batch.stored()
        t, cond = uniform(self.process, batch.draws), row.get("cond")
        x_t = self.process.noise(row["x"], t, batch.noise())
        with torch.no_grad():
            answer = self.real(x_t, t, cond)
        pred = self.student(x_t, t, cond)
        return (pred.raw - pred.kind.target(answer.x0, answer.eps, pred.at)).square().mean()


@dataclass
class Matching(_OnePart, OneCallScore):
    """Distribution matching of one part: two scores move the student's samples, regression on pairs of *all*
    parts keeps their layout, a critic on real data sharpens them (DM and ADM)."""

    part: int = option(0, "number of the part", low=0)
    guidance: float = option(1.0, "teacher guidance scale (1: none)", low=0)
    fake_per_student: int = option(5, "updates of the fake score per update of the student", low=1)
    pairs: int = option(512, "stored teacher pairs", low=0)
    pair_steps: int = option(0, "Heun steps of a pair's trajectory (0: adaptive)", low=0)
    regression_weight: float = option(0.25, "weight of the regression on pairs", low=0)
    gan_weight: float = option(0.0, "weight of the critic in the student's loss", low=0)
    critic_weight: float = option(1e-2, "weight of the critic's own loss beside the fake's", low=0)

    needs = ("teacher", "data unless gan_weight=0")
    optim = SCORE_OPTIM

    def build(self) -> None:
        super().build()
        self.fake: Denoiser = self.player("fake", fake_for(self.teacher, self.student))
        if self.gan_weight:
            self.head = self.player("fake", head_for(self.fake, self.shape))

    @property
    def bank_size(self) -> int:
        return self.pairs if self.regression_weight else 0

    def bank_rows(self, draws: Draws, cond: Condition) -> dict[str, Tensor]:
        """Pairs of all conditions: regression on those of the part alone is worse (section 4)."""
        index = draws.integers(0, size(self.everyone) or 1)
        everyone = move(pick(self.everyone, index), draws.device)
        return teacher_pairs(self.real, self.shape, draws, everyone, self.pair_steps)

    def turns(self, step: int) -> list[str]:
        return ["student", "fake"] if step % self.fake_per_student == 0 else ["fake"]

    def student_loss(self, batch: Batch) -> Tensor:
        x = self.samples(batch)
        t = self.score_times(batch)
        loss = surrogate_loss(x, dmd_gradient(x, t, batch.noise(), self.real, self.fake, batch.cond))
        if self.bank_size:
            loss = loss + self.regression_weight * self.regression(batch)
        if self.gan_weight:
            loss = loss + self.gan_weight * generator_loss(self.logits(x, batch))
        return loss

    def regression(self, batch: Batch) -> Tensor:
        """Squared error of the student's samples against the teacher's, of the same stored noise; a
        scalar."""
        pair = batch.stored()
        t = pair["eps"].new_full((batch.rows,), self.first_time)
        x = predict_x0(self.student, pair["eps"] * float(self.process.sigma(t[:1])), t, pair.get("cond"))
        loss: Tensor = (x - pair["x"]).square().mean()
        return loss

    def fake_loss(self, batch: Batch) -> Tensor:
        x = self.samples(batch)
        loss = denoising_loss(self.fake, x, uniform(self.process, batch.draws), batch.noise(), batch.cond)
        if self.gan_weight:
            critic = discriminator_loss(self.logits(batch.data, batch), self.logits(x, batch))
            loss = loss + self.critic_weight * critic
        return loss

    def logits(self, x: Tensor, batch: Batch) -> Tensor:
        """The critic's logits, read off the fake's middle features.

        Arguments:
            x: clean samples, (B, *shape), each of which is noised to a time of its own.
            batch: gives times, noise and condition.

        Returns:
            Logits, (B,), positive for real.
        """
        t = uniform(self.process, batch.draws)
        return self.head(features(self.fake, self.process.noise(x, t, batch.noise()), t, batch.cond))


@dataclass
class MSD(Program):
    """Multi-student Diffusion Distillation for Better One-step Generators. Song et al., 2024 (arXiv
    2410.23274).

    The conditions are parted, labels in consecutive blocks and prompts by the signs of their embeddings'
    leading principal components, and each part has a one-step student: a smaller one first learns the
    teacher's scores, all are then matched to the teacher's distribution, and with data also to that. To its
    user it is one model, which costs a call of one student.
    """

    students: int = option(4, "parts of the conditions, each with a student", low=2)
    width: int = option(0, "width of a student's network (0: the teacher's size, no score matching)", low=0)
    first_time: float = option(1.0, "time of the one call", low=0.01, high=1)
    guidance: float = option(1.0, "teacher guidance scale (1: none)", low=0)
    fake_per_student: int = option(5, "updates of the fake score per update of the student", low=1)
    pairs: int = option(512, "stored teacher pairs, of all conditions", low=0)
    pair_steps: int = option(0, "Heun steps of a pair's trajectory (0: adaptive)", low=0)
    regression_weight: float = option(0.25, "weight of the regression on pairs", low=0)
    gan_weight: float = option(5e-3, "weight of the critic of the last stage (0: no such stage)", low=0)
    critic_weight: float = option(1e-2, "weight of the critic's own loss beside the fake's", low=0)
    critic_lr: float = option(1e-4, "the student's learning rate in the critic's stage", low=1e-9)

    kind = "program"
    worlds = ("mixture", "digits")
    needs = ("teacher", "data unless gan_weight=0")

    processes = ("gaussian",)

    def suits(self, teacher: Model) -> None:
        """Refuse students that could not be joined."""
        require(
            teacher.pipeline is None,
            "Students of a Diffusers pipeline can't be joined to one pipeline; part its prompts yourself.",
        )
        closed = isinstance(teacher.denoiser, ExactDenoiser)
        require(
            closed or not is_own(teacher.denoiser.net),
            "Students that are networks of your own can't be joined to one network of ours; part their "
            "conditions "
            "yourself.",
        )

    def parts(self, models: Mapping[str, Model], data: Data) -> list[Part]:
        """For each part of the conditions: score matching if it is smaller, matching, matching with a critic
        if there is data."""
        self.suits(models["teacher"])
        everyone = conditions_of(data)
        self.by = (
            label_blocks(data.classes, self.students)
            if data.classes
            else embedding_signs(everyone, self.students)
        )
        made: list[Part] = []
        for k in range(self.students):
            own = restricted(data, self.by, k)
            common: dict[str, Any] = {
                "part": k,
                "first_time": self.first_time,
                "guidance": self.guidance,
                "pair_steps": self.pair_steps,
            }
            first = ""
            if self.width:
                first = f"scores{k}"
                method: _OnePart = ScoreMatching(**common, pairs=max(1, self.pairs))
                made.append(Part(first, method, data=own, network={"width": self.width}))
            match: dict[str, Any] = {
                **common,
                "fake_per_student": self.fake_per_student,
                "critic_weight": self.critic_weight,
            }
            method = Matching(**match, pairs=self.pairs, regression_weight=self.regression_weight)
            method.everyone = everyone
            made.append(Part(f"matching{k}", method, data=own, student=first))
            if self.gan_weight:
                method = Matching(**match, pairs=0, regression_weight=0.0, gan_weight=self.gan_weight)
                rates = {"student": self.critic_lr}
                made.append(Part(f"critic{k}", method, data=own, student=f"matching{k}", lr=rates))
        return made

    def join(self, models: Mapping[str, Model], made: Mapping[str, Model]) -> Model:
        """One model that routes each condition to the last student of its part."""
        last = "critic" if self.gan_weight else "matching"
        students = [made[f"{last}{k}"] for k in range(self.students)]
        plain = [d.merged() if isinstance(d := s.denoiser, Adapted) else d for s in students]
        first = plain[0]
        net = Routed([denoiser.net for denoiser in plain], self.by)
        joined = Denoiser(net, first.process, first.kind, call=first.call, empty=first.empty).eval()
        return replace(students[0], denoiser=joined, info=models["teacher"].info | self.describe())


def conditions_of(data: Data) -> Condition:
    """All conditions that a run meets: each label once, or the prompts."""
    if data.classes:
        return torch.arange(data.classes)
    found = data.bank if isinstance(data, Prompts) else getattr(data, "cond", None)
    require(found is not None, "Only conditional data can be parted; give labels or prompts.")
    return found


class _OneBlock(InfiniteData):
    """A world's fresh samples of some labels alone."""

    def __init__(self, whole: InfiniteData, labels: Tensor):
        super().__init__(whole.world, True, whole.model)
        self.labels = labels

    def rows(self, start: int, draws: Draws) -> tuple[Tensor, Condition]:
        labels = self.labels[draws.integers(0, len(self.labels)).cpu()]
        x, labels = self.world.sample_data(draws.rows, draws, labels)
        return x.to(draws.device), labels.to(draws.device)

    def examples(self, n: int) -> Condition:
        return cycled(self.labels, n)


class _Rows(TensorData):
    """Rows of one part in memory."""

    def examples(self, n: int) -> Condition:
        return cycled(self.cond, n)


class _Labels(NoData):
    """Labels of one block, without samples."""

    def __init__(self, whole: NoData, labels: Tensor):
        super().__init__(whole.shape, whole.classes)
        self.labels = labels

    def rows(self, start: int, draws: Draws) -> tuple[None, Condition]:
        return None, self.labels.to(draws.device)[draws.integers(0, len(self.labels))]

    def examples(self, n: int) -> Condition:
        return cycled(self.labels, n)


def restricted(data: Data, by: Mapping[str, Any], k: int) -> Data:
    """The rows of ``data`` whose condition lies in one part of a partition.

    Arguments:
        data: labelled, or prompts; raises :class:`StillhouseError` for data of another kind.
        by: the partition as plain data, see :func:`stillhouse.models.routed.route`.
        k: number of the part.

    Returns:
        Data of the same kind.
    """
    if isinstance(data, TensorData):
        rows = rows_of(route(by, data.cond, len(data.x)), k)
        return _Rows(data.x[rows], pick(data.cond, rows), data.classes, data.seed)
    if isinstance(data, Prompts):
        rows = rows_of(route(by, data.bank, size(data.bank) or 0), k)
        return Prompts(data.shape, pick(data.bank, rows))
    if isinstance(data, NoData | InfiniteData) and data.classes:
        labels = rows_of(route(by, torch.arange(data.classes), data.classes), k)
        return _Labels(data, labels) if isinstance(data, NoData) else _OneBlock(data, labels)
    raise StillhouseError(f"Rows of {type(data).__name__} can't be parted by their conditions.")

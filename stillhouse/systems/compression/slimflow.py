"""slimflow: a one-call student that is also several times smaller than its teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.guidance import Guided
from stillhouse.core.process import expand_to
from stillhouse.core.schedules import Flow
from stillhouse.parts.gaps.distances import DISTANCES
from stillhouse.parts.players.students import shrunk
from stillhouse.parts.states.pairs import teacher_pairs
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.ema import ramped
from stillhouse.train.method import Method, copy_weights
from stillhouse.train.option import option
from stillhouse.train.published import PLAIN_ADAM, Published, Settings
from stillhouse.train.recipe import Optim
from stillhouse.train.stage import Stage


@dataclass
class SlimFlow(Method):
    """SlimFlow: Training Smaller One-Step Diffusion Models with Rectified Flow. Zhu, Liu & Liu, 2024 (arXiv
    2407.12718).

    *Annealing reflow*: a small velocity network is led from ordinary flow matching (noise and image unpaired)
    to the teacher's straight coupling (its own pairs), by mixing fresh noise into the pair's noise less and
    less. *Flow-guided distillation*: its one step is then drawn to the pairs and, on fresh noise, to two
    steps of the reflowed network.
    """

    size: float = option(0.5, "widths of the student, as a share of the teacher's", low=0.01, high=1)
    pairs: int = option(20000, "stored teacher pairs", low=1)
    pair_steps: int = option(0, "Heun steps of a pair's trajectory (0: adaptive, tolerance 1e-5)", low=0)
    guidance: float = option(1.0, "teacher guidance scale of the pairs (1: none)", low=0)
    reflow_share: float = option(0.5, "share of the run spent on reflow", low=0.01, high=0.99)
    anneal: float = option(
        0.6, "share of the reflow in which fresh noise fades out (0: at once)", low=0, high=1
    )
    guide_weight: float = option(1.0, "weight of the two-step target on fresh noise (0: pairs alone)", low=0)
    own_half: bool = option(
        True, "the first half-step of that target is the student's own (else the reflowed network's)"
    )
    flip: bool = option(
        False, "mirror image and noise together half of the time (images without handedness only)"
    )
    average: float = option(0.999, "decay of the reflowed network's average", low=0, high=1)
    distance: str = option("l2", "distance of the distillation", choices=tuple(DISTANCES))

    kind = "method"
    worlds = ("mixture", "digits", "mnist")
    needs = ("teacher",)
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=1e-3, clip=1.0, schedule="cosine", warmup=50)}
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "yuanzhi-zhu/SlimFlow@96d8b25, CIFAR-10; of latent models it is the nearest",
            lr={"student": 2e-4},
            options={"pairs": 50000},
            run={**PLAIN_ADAM, "schedule": "constant", "warmup": 5000, "clip": 1.0, "ema": 0.999999},
        ),
    }

    def make_student(self, teacher: Denoiser) -> Denoiser:
        small = shrunk(teacher, self.size)
        return Denoiser(small.net, Flow(), "velocity", call=small.call)

    def build(self) -> None:
        require(
            isinstance(self.process, Flow),
            "SlimFlow's student is a flow: give it a network on the flow process that predicts velocity.",
        )
        self.reflowed: Denoiser = self.ema_copy(
            self.student, lambda step: ramped(self.average, step), "reflowed"
        )
        self.guide: Denoiser = self.frozen_copy(self.student, "guide")

    @property
    def bank_size(self) -> int:
        return self.pairs

    def bank_rows(self, draws: Draws, cond: Condition) -> dict[str, Tensor]:
        return teacher_pairs(Guided(self.teacher, self.guidance), self.shape, draws, cond, self.pair_steps)

    def stages(self, total: int) -> list[Stage]:
        reflow = max(1, round(total * self.reflow_share))
        require(reflow < total, f"{total} iterations are too few for reflow and distillation.")
        return [
            Stage("annealing reflow", reflow, losses={"student": self.reflow_loss}),
            Stage(
                "flow-guided distillation",
                total - reflow,
                losses={"student": self.distillation_loss},
                enter=self.begin_distillation,
            ),
        ]

    def begin_distillation(self) -> None:
        """Both networks of the second stage are the reflowed one's average."""
        for model in (self.student, self.guide):
            copy_weights(model, self.reflowed)

    def reflow_loss(self, batch: Batch) -> Tensor:
        """The student's loss in the first stage, on stored pairs."""
        return self.reflow(batch, **self.mirrored(batch))

    def distillation_loss(self, batch: Batch) -> Tensor:
        """The student's loss in the second stage, on stored pairs and fresh noise."""
        return self.distil(batch, **self.mirrored(batch))

    def reflow(self, batch: Batch, eps: Tensor, x: Tensor, cond: Condition = None) -> Tensor:
        """Flow matching on pairs whose noise is mixed with fresh noise.

        Arguments:
            batch: gives times, fresh noise and the iteration's number.
            eps: noise of the pairs, (B, *shape).
            x: their images, (B, *shape).
            cond: the condition of the B rows; None for none.

        Returns:
            A scalar.
        """
        beta = self.fading(batch.within)
        eps = math.sqrt(1 - beta**2) * eps + beta * batch.noise()
        t = batch.times(1e-3, 1.0)
        return (self.student(self.process.noise(x, t, eps), t, cond).velocity - (eps - x)).square().mean()

    def fading(self, step: int) -> float:
        """Share ``beta`` of fresh noise: 1 is flow matching, 0 is reflow on the teacher's coupling."""
        length = self.anneal * self.plan[0].length
        return 1 - min(1.0, step / length) if length else 0.0

    def distil(self, batch: Batch, eps: Tensor, x: Tensor, cond: Condition = None) -> Tensor:
        """The distance of the student's one step to the pairs and, on fresh noise, to two steps.

        Arguments:
            batch: gives fresh noise with its condition.
            eps: noise of the pairs, (B, *shape).
            x: their images, (B, *shape).
            cond: the pairs' condition; None for none.

        Returns:
            A scalar.
        """
        distance = DISTANCES[self.distance]
        loss = distance(self.one_step(eps, cond)[0], x).mean()
        if not self.guide_weight:
            return loss
        noise = batch.noise()
        made, p = self.one_step(noise, batch.cond)
        with torch.no_grad():
            target = self.two_steps(noise, p, batch)
        return loss + self.guide_weight * distance(made, target).mean()

    def one_step(self, eps: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """The student's one step, ``eps - u(eps, 1)``.

        Arguments:
            eps: standard normal noise, (B, *shape).
            cond: the condition of the B rows; None for none.

        Returns:
            Samples and the velocity ``u``, (B, *shape) each.
        """
        u = self.student(eps, eps.new_ones(len(eps)), cond).velocity
        return eps - u, u

    def two_steps(self, eps: Tensor, p: Tensor, batch: Batch) -> Tensor:
        """Two Euler steps, split at a random point; the second is the reflowed network's.

        Arguments:
            eps: standard normal noise, (B, *shape).
            p: the student's velocity there, for the first step under ``own_half``.
            batch: gives the point and the condition.

        Returns:
            Samples, (B, *shape).
        """
        a = batch.draws.uniform(0.2, 0.8)
        first = p if self.own_half else self.guide(eps, torch.ones_like(a), batch.cond).velocity
        x = eps - expand_to(a, eps) * first
        return x - expand_to(1 - a, x) * self.guide(x, 1 - a, batch.cond).velocity

    def mirrored(self, batch: Batch) -> dict[str, Any]:
        """Stored pairs, half of them mirrored under ``flip``: ``eps``, ``x`` and, if there is one,
        ``cond``."""
        pair = batch.stored()
        if self.flip:
            turn = expand_to(batch.draws.uniform(), pair["x"]) < 0.5
            pair |= {k: torch.where(turn, pair[k].flip(-1), pair[k]) for k in ("eps", "x")}
        return pair

    def samplings(self) -> dict[int, Sampling]:
        return {1: Sampling([1.0, 0.0], "ddim")}

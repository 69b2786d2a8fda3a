"""sid: a Fisher-type distance whose gradient passes through both denoisers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.guidance import Guided
from stillhouse.core.process import Process
from stillhouse.core.schedules import VE
from stillhouse.parts.gaps.score import fake_for
from stillhouse.parts.players.score_range import SCORE_OPTIM, OneCallScore
from stillhouse.parts.states.backward_simulation import backward_simulation
from stillhouse.parts.states.time_sampler import TIME_SAMPLERS, time_sampler
from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.train.batch import Batch
from stillhouse.train.option import option
from stillhouse.train.published import CONSTANT, PLAIN_ADAM, Published, Settings


@dataclass
class SiD(OneCallScore):
    """Score identity Distillation. Zhou et al., 2024 (arXiv 2404.04057, eq. 23 and algorithm 1).

    With ``delta = D_teacher - D_fake`` at ``x_t = alpha x + sigma eps``, the scores differ by ``alpha delta /
    sigma^2``. The Fisher divergence between the teacher's and the student's noised densities depends on the
    student through its samples and through its own score; the second part is out of reach, but for every
    ``u``: ``E[u(x_t) (s_student - grad log q(x_t | x))] = 0``, which turns it into a projection. With a
    perfect fake ``mix = 1/2`` is the exact gradient; 1 drops the direct term, more corrects for a fake that
    lags.

    ``L = w sum delta ((D_teacher - x) - mix delta)``: no gradient is stopped but in ``w``.

    With ``guidance`` both denoisers are guided wherever they are evaluated, the fake in its own training as
    well, so that it is the guided fake that fits the samples (Zhou et al., 2024, arXiv 2406.01561, all four
    kappas alike; there with ``mix = 1``).
    """

    first_time: float = option(
        0.7,
        "time of the student's call, whose input is pure noise of that level (EDM's process: sigma 2.5)",
        low=0.01,
        high=1,
    )
    guidance: float = option(
        1.0, "guidance scale of teacher and fake, in the fake's training too (1: none)", low=0
    )
    mix: float = option(1.2, "share of the direct term taken away (alpha in the paper)", low=0)
    fake_times: str = option("uniform", "law of the fake's training times", choices=tuple(TIME_SAMPLERS))

    kind = "method"
    worlds = ("mixture", "digits", "mnist")
    needs = ("teacher",)
    optim = SCORE_OPTIM
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "SiD-LSG, mingyuanzhou/SiD-LSG@709fc22, Stable Diffusion 1.5 and 2.1; of other families and of "
            "adapters it is the nearest",
            lr={"student": 1e-6, "fake": 1e-6},
            options={"mix": 1.0},
            run={**PLAIN_ADAM, **CONSTANT, "betas": (0.0, 0.999), "clip": 0.0}
            | {"ema": 0.999, "ema_half_life": 5e4, "ema_ramp": 0.05},
        ),
        "sd": Settings(
            "the student's call at the table's step 625, all four kappas 2",
            options={"first_time": 0.626, "guidance": 2.0},
        ),
        "edm": Settings(
            "mingyuanzhou/SiD@01fbb13c, ImageNet-64",
            lr={"student": 4e-6, "fake": 4e-6},
            options={"mix": 1.2},
            run={"ema_half_life": 2e6},
        ),
    }

    @classmethod
    def defaults_on(cls, process: Process) -> dict[str, Any]:
        """On EDM's process the paper's own: the student's call at ``sigma = 2.5``, scores compared on the
        first four fifths of the Karras ramp (up to about 24), the fake trained at log-normal levels."""
        if not isinstance(process, VE):
            return {}
        first = float(process.time(torch.tensor(-math.log(2.5), dtype=torch.float64)))
        return {"first_time": first, "score_t_min": 0.0, "score_t_max": 0.8, "fake_times": "edm"}

    def build(self) -> None:
        self.fake: Denoiser = self.player("fake", fake_for(self.teacher, self.student))
        self.real = Guided(self.teacher, self.guidance)
        self.own = Guided(self.fake, self.guidance)

    def turns(self, step: int) -> list[str]:
        return ["fake", "student"]

    def fake_loss(self, batch: Batch) -> Tensor:
        x = backward_simulation(
            self.student, [self.first_time], batch.draws, batch.cond, batch.shape
        )  # the student is not learning now: no graph
        t = time_sampler(self.fake_times, self.process, batch.draws)
        return denoising_loss(self.own, x, t, batch.noise(), batch.cond)

    def student_loss(self, batch: Batch) -> Tensor:
        x = backward_simulation(
            self.student, [self.first_time], batch.draws, batch.cond, batch.shape
        )  # fresh noise, after the fake's update
        t = self.score_times(batch)
        x_t = self.process.noise(x, t, batch.noise())
        d_real, d_fake = self.real(x_t, t, batch.cond).x0, self.own(x_t, t, batch.cond).x0
        return self._weighed(x, d_real, self.fisher(x, d_real, d_fake))

    def fisher(self, x: Tensor, d_real: Tensor, d_fake: Tensor) -> Tensor:
        """``delta ((D_teacher - x) - mix delta)``, elementwise. It may be negative.

        Arguments:
            x: the student's samples, (B, *shape).
            d_real: the teacher's clean estimate, (B, *shape).
            d_fake: the fake score's clean estimate, (B, *shape).

        Returns:
            Losses, (B, *shape).
        """
        delta = d_real - d_fake
        return delta * ((d_real - x) - self.mix * delta)

    def _weighed(self, x: Tensor, d_real: Tensor, loss: Tensor) -> Tensor:
        """Each sample's loss divided by ``mean|x - D_teacher|``."""
        size = (x - d_real).abs().flatten(1).mean(1).clamp_min(1e-5).detach()
        return (loss.flatten(1).mean(1) / size).mean()

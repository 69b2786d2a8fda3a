"""tbcm: continuous-time consistency on the teacher's own path, without any data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stillhouse.core.conditions import Condition, join
from stillhouse.core.denoiser import Converted, Denoiser
from stillhouse.core.errors import require
from stillhouse.core.guidance import Guided
from stillhouse.core.prediction import Prediction
from stillhouse.core.process import expand_to
from stillhouse.core.schedules import Trig
from stillhouse.models.embed import NumberEmbedding, zero
from stillhouse.parts.players.guidance_range import GuidanceInput
from stillhouse.parts.targets.tangent import tangent
from stillhouse.samplers.rollout import rollout
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers.ddim import DDIM
from stillhouse.train.batch import Batch
from stillhouse.train.option import option
from stillhouse.train.published import CONSTANT, PLAIN_ADAM, Published, Settings
from stillhouse.train.recipe import Optim

HALF_PI = math.pi / 2


@dataclass
class TBCM(GuidanceInput):
    """Image-Free Timestep Distillation via Continuous-Time Consistency with Trajectory-Sampled Pairs. Tang et
    al., 2025 (arXiv 2511.20410); the tangent objective is sCM's: Lu & Song, 2024 (arXiv 2410.11081, eq. 6 and
    algorithm 1).

    Angles ``tau`` in (0, pi/2): ``x = cos(tau) x0 + sin(tau) eps``, ``F = dx/dtau``, clean end ``f = cos(tau)
    x - sin(tau) F``. Along the teacher's direction ``v`` the clean end must not move: ``df/dtau = -cos(tau)(F
    - v) - sin(tau)(x + dF/dtau) = 0``. The states are read off the guided teacher's own walk from pure noise.
    """

    states: str = option(
        "path",
        "where the states come from: the teacher's path (no data), or noised data",
        choices=("path", "data"),
    )
    sigma_data: float = option(
        0.5, "deviation of the data for which the noise levels of `states=data` are stated", low=1e-3
    )
    levels: int = option(16, "points of one walk, pure noise included", low=2, high=256)
    warmup: int = option(
        1000, "iterations in which the tangent grows from 0 to its share", unit="iterations", low=0
    )
    tangent_share: float = option(1.0, "final share of the tangent (0: velocity matching)", low=0, high=1)
    norm_offset: float = option(0.2, "constant added to the tangent's norm", low=1e-6)
    adaptive: bool = option(
        False,
        "divide each angle's error by its learned variance, as the paper does; small networks then drift",
    )
    exact: bool = option(True, "forward-mode derivative; otherwise a finite difference")

    kind = "method"
    worlds = ("mixture", "digits", "mnist")
    needs = ("teacher", "data if states=data")
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=1e-3, schedule="cosine", clip=1.0)}
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "hustvl/TBCM@c6a4583, SANA-Sprint, with CAME, which is none of our optimisers; of other families"
            " and of adapters it is the nearest",
            lr={"student": 1e-5},
            options={"warmup": 4000, "low_guidance": 4.5, "high_guidance": 4.5},  # drawn from 4, 4.5, 5
            run={**PLAIN_ADAM, **CONSTANT, "warmup": 5000, "clip": 0.1},
        ),
    }

    def build(self) -> None:
        self.path_student = Converted(self.student, Trig())
        if self.adaptive:
            self.log_variance: LogVariance = self.player("student", LogVariance())
        plain = self.high_guidance == 1 and not self.takes_guidance
        require(
            plain or self.conditional,
            "Guidance moves away from the unconditional answer: it needs data with conditions.",
        )

    def path_teacher(self, w: Tensor) -> Denoiser:
        """The teacher on the path of angles, under guidance ``w`` (B,)."""
        return Guided(Converted(self.teacher, Trig()), w if self.takes_guidance else self.high_guidance)

    def student_loss(self, batch: Batch) -> Tensor:
        w = batch.draws.uniform(self.low_guidance, self.high_guidance)
        x, tau, v, cond, w = self.walk(batch, w) if self.states == "path" else self.noised(batch, w)
        sin, cos = (expand_to(f(tau), x) for f in (torch.sin, torch.cos))
        w_input = w if self.takes_guidance else None

        def slope(x: Tensor, tau: Tensor) -> Tensor:
            return self.path_student(x, tau / HALF_PI, cond, guidance=w_input).velocity / HALF_PI

        with torch.no_grad():
            f, j = tangent(
                slope, (x, tau), (cos * sin * v, torch.cos(tau) * torch.sin(tau)), exact=self.exact
            )
            share = self.tangent_share * min(1.0, (batch.step + 1) / max(1, self.warmup))
            g = -(cos**2) * (f - v) - share * (cos * sin * x + j)
            g = g / (expand_to(g.flatten(1).norm(dim=1), g) + self.norm_offset)
        gap = cos / sin * (slope(x, tau) - f - g) ** 2
        if not self.adaptive:
            return gap.mean()
        ell = expand_to(self.log_variance(tau, w), x)
        return (torch.exp(-ell) * gap + ell).mean()

    def walk(self, batch: Batch, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Condition, Tensor]:
        """States, angles and directions of one walk of the teacher from pure noise, at its N points but the
        first.

        Arguments:
            batch: gives noise, condition and the points.
            w: guidance scales, (B,).

        Returns:
            States (N B, *shape), angles ``tau`` (N B,) in (0, pi/2), directions ``v`` (N B, *shape), and the
            condition and the scales of these rows.
        """
        points: list[Prediction] = []

        def keep(pred: Prediction, s: Tensor) -> Prediction:
            points.append(pred)
            return pred

        with torch.no_grad():
            rollout(
                self.path_teacher(w),
                batch.noise(),
                [*self.route(batch), 0.0],
                DDIM(),
                batch.cond,
                hooks=[keep],
            )
        later = points[1:]
        x = torch.cat([p.at.x for p in later])
        tau = torch.cat([p.at.t for p in later]).to(x.dtype) * HALF_PI
        v = torch.cat([p.velocity for p in later]) / HALF_PI
        many = len(later)
        return x, tau, v, join([batch.cond] * many), w.repeat(many)

    def route(self, batch: Batch) -> list[float]:
        """Falling times of trig, from 1; point ``i`` is uniform between neighbouring angles of a fixed
        reference route."""
        last = shifted(0.001)
        sigmas = [shifted(1 + (last - 1) * i / (self.levels - 1)) for i in range(self.levels)]
        fixed = [math.atan2(sigma, 1 - sigma) for sigma in sigmas]
        drawn = [batch.draws.one_uniform(low, high) for high, low in zip(fixed, fixed[1:], strict=False)]
        return [1.0, *(min(tau, HALF_PI - 0.001) / HALF_PI for tau in drawn)]

    def noised(self, batch: Batch, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Condition, Tensor]:
        """Plain sCM: noised data with ``tan(tau) = exp(0.2 + 1.6 z) / sigma_data`` and the teacher's
        direction there. Data are of unit variance here, as on the path; the levels are those of data of
        ``sigma_data``.

        Arguments:
            batch: gives data, noise and condition.
            w: guidance scales, (B,).

        Returns:
            States (B, *shape), angles ``tau`` (B,) in (0, pi/2), directions ``v`` (B, *shape), and the
            condition and the scales of these rows.
        """
        level = torch.exp(0.2 + 1.6 * batch.draws.normal())
        tau = torch.atan(level / self.sigma_data).clamp(0.003, HALF_PI - 0.001)
        x = Trig().noise(batch.data, tau / HALF_PI, batch.noise())
        with torch.no_grad():
            return (
                x,
                tau,
                self.path_teacher(w)(x, tau / HALF_PI, batch.cond).velocity / HALF_PI,
                batch.cond,
                w,
            )

    def samplings(self) -> dict[int, Sampling]:
        middle = float(self.process.time(Trig().log_snr(torch.tensor(1.1 / HALF_PI, dtype=torch.float64))))
        return {
            1: Sampling([1.0, 0.0], "renoise", self.sampling_guidance),
            2: Sampling([1.0, middle, 0.0], "renoise", self.sampling_guidance),
        }


class LogVariance(nn.Module):
    """The scalar head ``l(tau, w)``: how uncertain the target is at this angle and guidance. Starts at 0."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.angle, self.scale, self.out = (
            NumberEmbedding(width),
            NumberEmbedding(width, silent=True),
            zero(nn.Linear(width, 1)),
        )

    def forward(self, tau: Tensor, w: Tensor) -> Tensor:
        """How uncertain the target is.

        Arguments:
            tau: angles in (0, pi/2), (B,).
            w: guidance scales, (B,).

        Returns:
            Logarithms of the variance, (B,).
        """
        out: Tensor = self.out(self.angle(tau / HALF_PI) + self.scale(torch.asinh(w) / 4)).squeeze(1)
        return out


def shifted(t: float) -> float:
    """``2.5 t / (1 + 1.5 t)``: flow times moved towards noise."""
    return 2.5 * t / (1 + 1.5 * t)

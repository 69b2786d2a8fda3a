"""flash_diffusion: one stage of training towards the teacher's own endpoints, from low noise first to pure
noise last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.flowmap import predict_x0
from stillhouse.core.guidance import Guided
from stillhouse.parts.gaps.critic import (
    discriminator_loss,
    feature_source,
    features,
    generator_loss,
    head_for,
)
from stillhouse.parts.gaps.distances import DISTANCES
from stillhouse.parts.gaps.score import dmd_gradient, surrogate_loss
from stillhouse.parts.players.guidance_range import GuidanceRange
from stillhouse.parts.states.backward_simulation import student_grid
from stillhouse.parts.states.time_sampler import around, at_step, one_of
from stillhouse.samplers.rollout import rollout
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers import make_solver
from stillhouse.train.batch import Batch
from stillhouse.train.option import option
from stillhouse.train.published import ADAMW, CONSTANT, Published, Settings
from stillhouse.train.recipe import Optim

# shares of the four start modes (pure noise first) in each quarter of the run
MODE_SHARES = ((0.0, 0.0, 0.5, 0.5), (0.1, 0.3, 0.3, 0.3), (0.25, 0.25, 0.25, 0.25), (0.4, 0.2, 0.2, 0.2))
# how the two other terms come in, as shares of their last weight
MATCHING_RAMP = (0.0, 3 / 7, 5 / 7, 1.0)
ADVERSARIAL_RAMP = (0.0, 1 / 3, 2 / 3, 1.0)
SPREAD = 0.5
CRITIC_STEPS = (10, 250, 500, 750)  # of 1000


@dataclass
class FlashDiffusion(GuidanceRange):
    """Flash Diffusion: Accelerating Any Conditional Diffusion Model for Few Steps Image Generation. Chadebec
    et al., 2024 (arXiv 2406.02347, algorithm 1).

    The student's clean estimate is drawn to where the teacher's solver ends from the same state. The states
    lie around four times, those of the sampler's calls; training begins at the low ones and ends at pure
    noise. Two more terms come in as it goes on: the difference of scores, with the student as its own fake
    score, and a critic, a small head on the frozen teacher's features. (The paper's output map ``c_skip x +
    c_out D`` is left out: at the times of a grid it is ``D`` but for 1e-4.)
    """

    grid: int = option(32, "times of the teacher's solver, a multiple of 4", low=4)
    solver: str = option("dpm++", "the teacher's solver", choices=("ddim", "dpm++", "unipc", "heun"))
    steps: int = option(4, "default calls of the student per sample: 1, 2 or 4", low=1, high=4)
    distance: str = option(
        "l2", "how the estimate is compared with the teacher's endpoint", choices=tuple(DISTANCES)
    )
    matching: float = option(0.7, "last weight of the score difference (0: none)", low=0)
    adversarial: float = option(0.3, "last weight of the critic (0: none)", low=0)
    low_guidance: float = option(
        1.0, "smallest teacher guidance scale (1: none; the paper takes 3 for Stable Diffusion)", low=0
    )
    high_guidance: float = option(1.0, "largest teacher guidance scale (the paper takes 13)", low=0)

    kind = "method"
    worlds = ("mixture", "digits", "mnist", "shapes")
    needs = ("teacher", "data")
    optim: ClassVar[dict[str, Optim]] = {
        "student": Optim(lr=5e-4, name="adamw", schedule="cosine"),
        "critic": Optim(lr=5e-4, name="adamw"),
    }
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "gojasper/flash-diffusion@3ffd9a8, flash_sdxl.yaml, adapters; of whole networks and of other "
            "families it is the nearest",
            lr={"student": 1e-5, "critic": 1e-5},
            options={"low_guidance": 3.0, "high_guidance": 13.0},
            run={**ADAMW, **CONSTANT, "clip": 0.0},
        ),
        "sd3": Settings("flash_sd3.yaml", options={"low_guidance": 7.0, "adversarial": 0.5}),
        "pixart": Settings(
            "flash_pixart.yaml",
            options={"grid": 16, "low_guidance": 2.0, "high_guidance": 9.0, "adversarial": 0.2},
        ),
        "flux": Settings(
            "the embedded scale of Flux, which has no published Flash: FastGen's for dmd2",
            options={"low_guidance": 3.5, "high_guidance": 3.5},
        ),
        "lora": Settings("", run={"lora": 64, "lora_alpha": 64.0}),
        "sd lora": Settings("flash_sd.yaml: rank 128", run={"lora": 128, "lora_alpha": 128.0}),
        "sdxl lora": Settings("", run={"lora": 64, "lora_alpha": 64.0}),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.grid % 4 == 0, f"FlashDiffusion option 'grid' is a multiple of 4, not {self.grid}.")
        require(self.steps != 3, "FlashDiffusion option 'steps' is 1, 2 or 4, not 3.")

    def build(self) -> None:
        if self.adversarial:
            self.feature_net: Denoiser = feature_source(self)
            self.head = self.player("critic", head_for(self.feature_net, self.shape))

    def quarter(self, step: int) -> int:
        """Which of the four equal parts of the run ``step`` is in."""
        return min(4 * step // self.total, 3)

    @property
    def times(self) -> list[float]:
        """The grid that the teacher walks: falling times from 1, then 0."""
        return [*student_grid(self.process, 1.0, self.grid), 0.0]

    def start_law(self, step: int) -> Tensor:
        """Probabilities of the grid's indices at which the student is evaluated, (grid,)."""
        modes = torch.arange(4) * (self.grid // 4)
        return around(
            modes, torch.tensor(MODE_SHARES[self.quarter(step)], dtype=torch.float64), self.grid, SPREAD
        )

    def guided(self, batch: Batch, purpose: str) -> Denoiser:
        """The teacher at a guidance scale drawn anew for this step and purpose.

        Arguments:
            batch: gives the source of randomness.
            purpose: of the stream; equal ones get equal scales within one player's turn.

        Returns:
            The guided teacher, of one scale for the whole batch.
        """
        return Guided(
            self.teacher,
            batch.stream(f"{batch.player} {purpose}").one_uniform(self.low_guidance, self.high_guidance),
        )

    def student_estimate(self, batch: Batch) -> tuple[Tensor, int, Tensor]:
        """A state at which the student is evaluated, the index of its time in the grid, and the student's
        clean estimate there."""
        j = one_of(self.start_law(batch.step), batch.stream(f"{batch.player} start"))
        t, eps = torch.full((batch.rows,), self.times[j], device=batch.data.device), batch.noise()
        # pure noise at the top even where the schedule leaves some signal: that is what the sampler starts
        # from
        x_t = eps * self.process.prior_std if j == 0 else self.process.noise(batch.data, t, eps)
        return x_t, j, predict_x0(self.student, x_t, t, batch.cond)

    @torch.no_grad()
    def endpoint(self, x_t: Tensor, j: int, teacher: Denoiser, cond: Condition) -> Tensor:
        """Where the teacher's solver ends.

        Arguments:
            x_t: states at the grid's time ``j``, (B, *shape).
            j: index of the time at which it starts.
            teacher: under its guidance.
            cond: the condition of the B rows; None for none.

        Returns:
            Clean samples, (B, *shape), without gradient.
        """
        return rollout(teacher, x_t, self.times[j:], make_solver(self.solver), cond)

    def student_loss(self, batch: Batch) -> Tensor:
        x_t, j, x = self.student_estimate(batch)
        target = self.endpoint(x_t, j, self.guided(batch, "endpoint"), batch.cond)
        loss = DISTANCES[self.distance](x, target).mean()
        batch.log("distance", loss)
        part = self.quarter(batch.step)
        if weight := self.matching * MATCHING_RAMP[part]:
            t = at_step(self.process, batch.draws.integers(0, 1000) / 1000)
            g = dmd_gradient(x, t, batch.noise(), self.guided(batch, "matching"), self.student, batch.cond)
            loss = loss + 2 * weight * surrogate_loss(x, g)
        if weight := self.adversarial * ADVERSARIAL_RAMP[part]:
            generator = generator_loss(self.logits([x], batch)[0], kind="least_squares")
            batch.log("generator", generator)
            loss = loss + weight * generator
        return loss

    def critic_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            _, _, x = self.student_estimate(batch)
        real, fake = self.logits([batch.data, x], batch)
        return discriminator_loss(real, fake, "least_squares")

    def logits(self, samples: list[Tensor], batch: Batch) -> list[Tensor]:
        """The critic's logits of several samples, all noised to the same times with the same noise.

        Arguments:
            samples: clean ones, each (B, *shape).
            batch: gives times, noise and condition.

        Returns:
            Logits (B,) of each of ``samples``.
        """
        times = at_step(self.process, torch.tensor(CRITIC_STEPS, device=samples[0].device) / 1000)
        t, eps = times[batch.draws.integers(0, len(times))], batch.noise()
        return [
            self.head(features(self.feature_net, self.process.noise(x, t, eps), t, batch.cond))
            for x in samples
        ]

    def samplings(self) -> dict[int, Sampling]:
        ways = [self.steps, *(k for k in (1, 2, 4) if k != self.steps)]
        return {k: Sampling([*student_grid(self.process, 1.0, k), 0.0], "renoise") for k in ways}

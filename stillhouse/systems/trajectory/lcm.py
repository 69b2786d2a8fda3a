"""lcm: the consistency model of latent, guided teachers with a table of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.flowmap import predict_x0
from stillhouse.core.schedules import ScaledLinearVP
from stillhouse.parts.gaps.distances import LATENT_DISTANCES
from stillhouse.parts.players.guidance_range import GuidanceInput
from stillhouse.parts.targets.consistency import consistency_target, enforce_boundary, guided_step
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers.grids import thinned
from stillhouse.train.batch import Batch
from stillhouse.train.option import option
from stillhouse.train.published import ADAMW, CONSTANT, Published, Settings
from stillhouse.train.recipe import Optim


@dataclass
class LCM(GuidanceInput):
    """Latent Consistency Models. Luo, Tan, Huang, Li & Zhao, 2023 (arXiv 2310.04378, algorithm 1).

    A consistency model on a grid of 50 DDIM times, so that a pair of neighbours is 20 steps of the teacher's
    table apart (the paper's skipping steps), whose teacher takes one guided DDIM step between the two. With a
    range of scales the student takes ``w`` as an input; with one scale it is baked in, and with the run's
    option ``lora`` and ``decay = 0`` that is LCM-LoRA (Luo et al., 2023, arXiv 2311.05556). The tie to the
    data, ``c_skip x + c_out D``, is the student's own kind of prediction, wherever it is sampled or saved.
    """

    low_guidance: float = option(7.5, "smallest teacher guidance scale (1: none)", low=0)
    high_guidance: float = option(
        7.5, "largest teacher guidance scale; an input of the student when it varies", low=0
    )
    levels: int = option(50, "DDIM times of the grid", low=2)
    steps: int = option(4, "default number of calls per sample", low=1)
    distance: str = option("huber", "how two answers are compared", choices=tuple(LATENT_DISTANCES))
    decay: float = option(
        0.95, "decay of the EMA copy per step (0: the student itself, none is kept)", low=0, high=1
    )

    kind = "method"
    worlds = ("mixture", "shapes")
    needs = ("teacher", "data")
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=1e-3, schedule="cosine", clip=1.0)}
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "Diffusers' script train_lcm_distill_sd_wds.py@58eb52c; of other families it is the nearest",
            lr={"student": 1e-6},
            run={**ADAMW, **CONSTANT, "weight_decay": 0.0, "clip": 1.0},
        ),
        "sd": Settings("scales of 6 to 16", options={"low_guidance": 6.0, "high_guidance": 16.0}),
        "sdxl": Settings("of SDXL 4 to 16", options={"low_guidance": 4.0}),
        "pixart": Settings(
            "PixArt-delta (2401.05252): one scale",
            lr={"student": 2e-5},
            options={"low_guidance": 4.5, "high_guidance": 4.5},
        ),
        "flux": Settings(
            "the embedded scale of Flux, which has no published LCM: FastGen's for dmd2",
            options={"low_guidance": 3.5, "high_guidance": 3.5},
        ),
        "lora": Settings(
            "LoRA: train_lcm_distill_lora_sdxl.py@58eb52c, rank 64 and alpha 64; an adapter takes no scale "
            "as an input, so it learns one",
            lr={"student": 1e-4},
            options={"decay": 0.0},
            run={"lora": 64, "lora_alpha": 64.0, "lora_targets": "blocks"},
        ),
        "sd lora": Settings("", options={"low_guidance": 7.5, "high_guidance": 7.5}),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.steps <= self.levels,
            f"A student trained on {self.levels} levels can't be sampled in {self.steps} calls.",
        )

    def build(self) -> None:
        require(
            self.conditional or self.high_guidance == 1,
            "Guidance moves away from the unconditional answer: it needs conditions.",
        )
        enforce_boundary(self.student)
        self.target: Denoiser = self.ema_copy(self.student, self.decay) if self.decay else self.student
        self.grid = self.make_grid()

    def make_grid(self) -> Tensor:
        """Falling times, ``levels`` of them and the one where the chain ends: step 0 of a table, ``t_min``
        elsewhere."""
        low, process = self.process.t_min, self.process
        if isinstance(process, ScaledLinearVP):
            require(
                self.levels < process.steps,
                f"A table of {process.steps} steps has no {self.levels} levels and an end.",
            )
            index = torch.arange(self.levels, 0, -1) * (process.steps // self.levels) - 1
            return torch.cat(
                [
                    process.time_of_index(index.double()),
                    torch.tensor([1 / process.steps], dtype=torch.float64),
                ]
            )
        return torch.linspace(1.0, low, self.levels + 1, dtype=torch.float64)

    def student_loss(self, batch: Batch) -> Tensor:
        grid = self.grid.to(batch.draws.device, torch.float32)
        i = batch.draws.integers(0, self.levels)
        t, u = grid[i], grid[i + 1]
        w = batch.draws.uniform(self.low_guidance, self.high_guidance) if self.takes_guidance else None
        x_t = self.process.noise(batch.data, t, batch.noise())
        with torch.no_grad():
            target = self.target_x0(x_t, t, u, batch, w)
        return LATENT_DISTANCES[self.distance](predict_x0(self.student, x_t, t, batch.cond, w), target).mean()

    def target_x0(self, x_t: Tensor, t: Tensor, u: Tensor, batch: Batch, w: Tensor | None) -> Tensor:
        """The clean estimate of the student's EMA from where one guided DDIM step of the teacher leads.

        Arguments:
            x_t: states, (B, *shape).
            t: times in [0, 1], (B,).
            u: times of the next level, (B,).
            batch: gives the condition.
            w: guidance scales, (B,); None where the scale is fixed.

        Returns:
            The target, (B, *shape).
        """
        x_u = guided_step(self.teacher, x_t, t, u, batch.cond, self.high_guidance if w is None else w)
        return consistency_target(self.target, x_u, u, float(self.grid[-1]), batch.cond, w)

    def samplings(self) -> dict[int, Sampling]:
        ways = [self.steps, *(k for k in (1, 2, 4, 8) if k != self.steps and k <= self.levels)]
        start = (
            1.0 if isinstance(self.process, ScaledLinearVP) else None
        )  # where Diffusers starts the walks of its tables
        return {
            k: Sampling(thinned(self.make_grid(), k), "renoise", self.sampling_guidance, start) for k in ways
        }

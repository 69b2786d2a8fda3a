"""causvid: the score of a teacher of whole clips makes a causal student's frames sharper than the teacher's
paths alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.checks.bench import trained
from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser, ExactDenoiser, count_calls
from stillhouse.core.draws import Draws
from stillhouse.core.process import Process
from stillhouse.core.schedules import Flow
from stillhouse.model import Model
from stillhouse.models.video import video_network
from stillhouse.opening import load
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.video.causvid import CausVid
from stillhouse.train.data import InfiniteData
from stillhouse.worlds.clips.ring import ClipDenoiser, RingClips

WORLD = "clips"
ABLATIONS = {
    "start": "No ODE initialisation: the score difference alone, for as many iterations as both stages have.",
    "causal": "No ODE initialisation, and both scores of a frame are functions of no later chunk.",
}
CONTRACT = Contract(
    options={"paths": 32, "teacher_steps": 4, "ode_share": 0.5, "fake_per_student": 2, "warmup": 1},
    world={"name": "clips", "kind": "ring", "frames": 6},
    network={"dim": 16, "depth": 1, "heads": 2},
)
START, MATCHING, ALONE = (
    700,
    600,
    200,
)  # iterations of the two stages, and those of the second in which the fake score is trained alone
FRAMES, SAMPLES, TEACHER_STEPS = 8, 1024, 32
RATES = {"start": {"student": 2e-3}, "matching": {"student": 5e-4, "fake": 1e-3}}


class CausalTeacher(ExactDenoiser):
    """The exact teacher of each chunk, a function of nothing that comes later: the posterior mean under the
    frames up to the chunk's end."""

    def __init__(self, world: RingClips, process: Process, chunk: int):
        super().__init__(process)
        clips, labels = world.data()
        self.ends = range(chunk, world.frames + 1, chunk)
        self.parts = torch.nn.ModuleList(ClipDenoiser(process, clips[:, :end], labels) for end in self.ends)

    def mean(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        first = self.ends.step
        return torch.cat(
            [
                part(x_t[:, :end], t, cond).x0[:, -first:]
                for part, end in zip(self.parts, self.ends, strict=True)
            ],
            1,
        )


@dataclass
class Symmetric(CausVid):
    """Both scores under the student's mask."""

    def build(self) -> None:
        super().build()
        video_network(self.fake, "The fake score").see(self.chunk)


def stage_of(
    method: CausVid, world: RingClips, teacher: Denoiser, student: Denoiser, steps: int, seed: int, stage: str
) -> Model:
    """``steps`` iterations of one stage of ``method`` from ``student``."""
    schedule = "cosine" if stage == "start" else "constant"
    exact, data = load(teacher, shape=world.shape), InfiniteData(world)
    return trained(
        method, exact, data, steps, seed, student=student, batch=48, lr=RATES[stage], schedule=schedule
    )


def calls_per_chunk(student: Model, world: RingClips) -> float:
    """Network calls of the student for one chunk, over those of the guided teacher for one clip."""
    with count_calls(student.denoiser) as calls:
        student.sample(4)
    teacher, steps = world.exact(Flow()), Sampling.steps(Flow(), TEACHER_STEPS, solver="ddim", guidance=3.0)
    with count_calls(teacher) as its:
        draw_samples(teacher, steps, world.shape, torch.arange(4), Draws(4, "calls"))
    return calls() / (world.frames // CausVid().chunk) / its()


def check(seed: int, ablation: str = "") -> list[Claim]:
    """A bump on a ring of 16 pixels at one of six speeds, eight frames a clip in chunks of two; the teacher
    is exact over all clips."""
    world = RingClips(FRAMES)
    teacher = world.exact(Flow())

    def network() -> Denoiser:
        return world.network(Flow(), seed, dim=48, depth=2, classes=0)

    before = stage_of(CausVid(ode_share=1.0), world, teacher, network(), START, seed, "start")
    matching: dict[str, Any] = {"ode_share": 0.0, "fake_per_student": 3, "warmup": ALONE}
    if not ablation:
        after = stage_of(
            CausVid(**matching), world, teacher, before.denoiser.copy(), MATCHING, seed, "matching"
        )
    else:
        kind, logits = (
            (CausVid, teacher)
            if ablation == "start"
            else (Symmetric, CausalTeacher(world, Flow(), CausVid().chunk))
        )
        after = stage_of(kind(**matching), world, logits, network(), START + MATCHING, seed, "matching")
    first, second = (world.measure(model.sample(SAMPLES, seed=seed)) for model in (before, after))

    def still(found: dict[str, float]) -> float:
        return abs(1 - found["change"])

    return [
        at_most(
            "frame distance after the second stage / after the first",
            second["frame_distance"] / first["frame_distance"],
            0.93,
        ),
        at_most(
            "motion that is missing or too much (1 - change) after the second stage / after the first",
            still(second) / still(first),
            0.5,
        ),
        at_most(
            "calls of the student per chunk / of a guided teacher of 32 steps",
            calls_per_chunk(after, world),
            3 / 64,
        ),
    ]

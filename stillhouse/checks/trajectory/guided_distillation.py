"""guided_distillation: one network predicts what a guided teacher predicts, at any scale; halved to two steps
it beats the teacher's two."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.flowmap import predict_x0
from stillhouse.core.guidance import Guided
from stillhouse.core.schedules import Cosine
from stillhouse.metrics.distances import sliced_wasserstein
from stillhouse.opening import load
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.trajectory.guided_distillation import GuidedDistillation
from stillhouse.train.data import InfiniteData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

WORLD = "mixture"
ABLATIONS = {
    "no_scale": "The student is not given the guidance scale that its target was made with.",
    "halving_alone": "The target of the first stage is the conditional prediction, without guidance.",
}
CONTRACT = Contract(options={"teacher_steps": 8, "steps": 4, "stochastic": True})
SAMPLES = 8192
SCALES = (1.0, 2.0, 4.0)


class HalvingAlone(GuidedDistillation):
    """Nothing to learn of guidance: what is halved is the conditional teacher."""

    def guided_teacher(self, w: Tensor) -> Denoiser:
        return self.teacher


class NoScale(GuidedDistillation):
    """Scales vary, and the student is not given them."""

    takes_guidance = False


def check(seed: int, ablation: str = "") -> list[Claim]:
    """Eight modes under four labels; the teacher is the closed form, and what is compared to are its 64
    guided DDIM steps."""
    world, process = get_world(WORLD, classes=4), Cosine()
    exact = world.exact(process)
    kind = {"": GuidedDistillation, "no_scale": NoScale, "halving_alone": HalvingAlone}[ablation]
    method = kind(low_guidance=1.0, high_guidance=4.0, teacher_steps=16, steps=2, guidance_share=0.5)
    student = world.network(
        process, seed, kind="v", width=64, depth=3, classes=4, guidance_input=method.takes_guidance
    )
    halves = [stage.length for stage in method.stages(1200)]
    recipe = Recipe(steps=sum(halves), batch=256, seed=seed, lr={"student": 5e-3}, ema=0.98)
    teacher = load(exact, shape=world.shape, classes=4)
    first: list[Denoiser] = []

    def keep(trainer: Trainer, step: int) -> None:
        if step == halves[0] - 1:
            made = trainer.method.final(trainer.method.student)
            assert isinstance(made, Denoiser)
            first.append(made.copy())

    trained = Trainer(
        method, teacher, InfiniteData(world, labelled=True), recipe, student=student, quiet=True, on_step=keep
    ).fit()

    labels = torch.arange(SAMPLES) % 4
    x, _ = world.sample_data(SAMPLES, Draws(SAMPLES, seed, "states"), labels)
    draws = Draws(SAMPLES, seed, "noise")
    t = draws.uniform()
    x_t = process.noise(x, t, draws.normal(*world.shape))

    def pred(denoiser: Denoiser, w: float) -> Tensor:
        w_input = torch.full((SAMPLES,), w) if method.takes_guidance else None
        with torch.no_grad():
            return predict_x0(denoiser, x_t, t, labels, w_input)

    def walk(denoiser: Denoiser, steps: int, w: float) -> Tensor:
        way = Sampling.steps(
            process, steps, solver="ddim", guidance=w if denoiser is exact or method.takes_guidance else 1.0
        )
        return draw_samples(denoiser, way, world.shape, labels, Draws(SAMPLES, seed, "sample"))

    claims = []
    for w in SCALES:
        true = Guided(exact, w)(x_t, t, labels).x0
        gap = float((pred(first[0], w) - true).square().sum() / true.square().sum())
        claims.append(at_most(f"relative error of the first stage at w = {w:g}", gap, 0.01))
    for w in SCALES:
        whole = walk(exact, 64, w)
        ratio = sliced_wasserstein(walk(trained.denoiser, 2, w), whole, p=1) / sliced_wasserstein(
            walk(exact, 2, w), whole, p=1
        )
        claims.append(
            at_most(f"SWD of 2 calls / of the guided teacher's 2 steps (4 calls) at w = {w:g}", ratio, 0.6)
        )
    return claims

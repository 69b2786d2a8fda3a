"""msd: small students that share the conditions among them do better than one; score matching gets them
started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.checks.bench import SAMPLES, figures, trained
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow
from stillhouse.metrics.distances import sliced_wasserstein
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.parts.states.time_sampler import uniform
from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.base import Part
from stillhouse.systems.distribution.msd import MSD, Matching, ScoreMatching
from stillhouse.train.batch import Batch
from stillhouse.train.data import Data, InfiniteData, NoData
from stillhouse.train.method import Method
from stillhouse.worlds.mixture.layouts import make_mixture
from stillhouse.worlds.mixture.world import Mixture

WORLD = "mixture"
ABLATIONS = {
    "partition": "Every student is trained on all conditions; each is still called for its part alone.",
    "scores": "The small students start the matching from random weights, without teacher score matching.",
}
CONTRACT = Contract(
    options={"students": 2, "width": 8, "pairs": 8, "pair_steps": 2, "gan_weight": 0.1},
    network={"width": 16, "depth": 1, "classes": 8},
)
EACH = 1024  # samples of a class
STEPS, WIDTH = 400, 4  # iterations of each stage of each student; width of a student
RATES = {"scores": {"student": 2e-2}, "matching": {"student": 2e-2, "fake": 5e-3}}
# the regression is on pairs of all conditions by design, and a student of width 4 has no room for those
OPTIONS: dict[str, Any] = {
    "width": WIDTH,
    "gan_weight": 0.0,
    "regression_weight": 0.0,
    "fake_per_student": 1,
    "pairs": 2048,
    "pair_steps": 16,
}


def run_part(
    part: Part, made: dict[str, Model], teacher: Model, world: Mixture, data: Data, seed: int
) -> Model:
    """One part of a program, run."""
    student = made[part.student].denoiser.copy() if part.student else small(world, seed)
    rates = RATES[part.name.rstrip("0123456789")]
    return trained(
        part.method, teacher, data, STEPS, seed, student=student, batch=128, lr=rates, schedule="cosine"
    )


def run(teacher: Model, world: Mixture, seed: int, ablation: str = "", students: int = 4) -> Model:
    """The joined model of the program; ``students``: how many of its parts are trained, one of them for
    everything."""
    whole, program = NoData(world.shape, world.classes), MSD(**OPTIONS)
    made: dict[str, Model] = {}
    for part in program.parts({"teacher": teacher}, whole)[: 2 * students]:
        data = whole if ablation or students == 1 else part.data or whole
        made[part.name] = run_part(part, made, teacher, world, data, 10 * seed + int(part.name[-1]))
    return made["matching0"] if students == 1 else program.join({"teacher": teacher}, made)


def small(world: Mixture, seed: int) -> Denoiser:
    """An untrained student."""
    return world.network(Flow(), seed, width=WIDTH, depth=3)


@dataclass
class _Denoising(Method):
    """Plain denoising training, of the teacher."""

    def student_loss(self, batch: Batch) -> Tensor:
        t = uniform(self.process, batch.draws)
        return denoising_loss(self.student, batch.data, t, batch.noise(), batch.cond)

    def samplings(self) -> dict[int, Sampling]:
        return {16: Sampling.steps(self.process, 16)}


def trained_teacher(world: Mixture, seed: int, classes: int) -> Model:
    """A network of width 64 trained on the world's data."""
    network = world.network(Flow(), seed, width=64, depth=3, classes=classes)
    exact = load(world.exact(Flow()), shape=world.shape, classes=classes)
    data = InfiniteData(world, bool(classes))
    return trained(_Denoising(), exact, data, 800, seed, student=network, lr=3e-3)


def distance(model: Model, world: Mixture, seed: int) -> float:
    """Sliced W2 to the data of each class, their mean."""
    labels = torch.arange(world.classes).repeat_interleave(EACH)
    samples = model.sample(len(labels), labels, seed=seed)
    true, _ = world.sample_data(len(labels), Draws(len(labels), seed, "reference"), labels)
    pairs = zip(samples.split(EACH), true.split(EACH), strict=True)
    far = [sliced_wasserstein(a, b, projections=64) for a, b in pairs]
    return sum(far) / len(far)


def started(
    method: Method, teacher: Model, steps: int, seed: int, student: Denoiser, lr: dict[str, float]
) -> Model:
    """``steps`` iterations of one stage of a student of the whole ring."""
    data = NoData(teacher.shape)
    return trained(
        method, teacher, data, steps, seed, student=student, batch=128, lr=lr, schedule="cosine", ema=0.9
    )


def matched(teacher: Model, world: Mixture, student: Denoiser, seed: int) -> float:
    """Sliced W2 of a student of the whole ring after 100 iterations of matching from where it starts."""
    method = Matching(regression_weight=0.0, fake_per_student=1, first_time=0.7)
    made = started(method, teacher, 100, seed, student, {"student": 2e-3, "fake": 2e-3})
    return figures(made.sample(SAMPLES, seed=seed), world, seed).swd


def warm_start(seed: int, ablated: bool) -> Claim:
    """A ring of 16 without labels and a student of width 8, matched with and without its first stage."""
    world = make_mixture(modes=16)
    teacher = trained_teacher(world, seed, classes=0)
    raw = world.network(Flow(), seed, width=8, depth=3, classes=0)
    method = ScoreMatching(pairs=2048, pair_steps=16, first_time=0.7)
    warm = started(method, teacher, STEPS, seed, raw.copy(), {"student": 1e-2}).denoiser.copy()
    without = matched(teacher, world, raw.copy(), seed)
    found = without if ablated else matched(teacher, world, warm, seed)
    return at_most("SWD, 100 iterations after score matching / from random weights", found / without, 0.3)


def check(seed: int, ablation: str = "") -> list[Claim]:
    """32 random modes in 16 classes of two, a teacher of width 64, students of width 4 with equal batches and
    iterations: four of them together compute four times what the one does."""
    claims = []
    if ablation != "scores":
        world = make_mixture("random", modes=32, classes=16)
        teacher = trained_teacher(world, seed, classes=16)
        one = distance(run(teacher, world, seed, students=1), world, seed)
        parted = distance(run(teacher, world, seed, ablation), world, seed)
        claims.append(at_most("SWD of a class, four students / one of their size", parted / one, 0.7))
    if ablation != "partition":
        claims.append(warm_start(seed, bool(ablation)))
    return claims

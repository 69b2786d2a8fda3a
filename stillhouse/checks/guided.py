"""What checks share: a student of a guided teacher ends where that teacher does, not where the data lie."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, at_most
from stillhouse.checks.bench import shipped_network, trained
from stillhouse.core.draws import Draws
from stillhouse.metrics.distances import sliced_wasserstein
from stillhouse.opening import load
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.data import InfiniteData
from stillhouse.train.method import Method
from stillhouse.worlds.mixture.layouts import make_mixture

NO_GUIDANCE = "The guided teacher is distilled without its guidance."
SCALE, STEPS, SAMPLES = 3.0, 64, 4096


def guided(
    make: Callable[[float], Method],
    seed: int,
    steps: int,
    ablation: str,
    *,
    lr: float | dict[str, float] | None = None,
    batch: int = 256,
) -> list[Claim]:
    """Eight labels, a mode each, and the closed-form teacher under guidance, which moves every mode outwards.

    Arguments:
        make: the method under a scale.
        seed: of all random draws.
        steps: iterations from the shipped network.
        ablation: of the check; under "guidance" the student learns without it.
        lr: as of :func:`stillhouse.checks.bench.trained`.
        batch: likewise.

    Returns:
        The claim; none under any other ablation. Its value: the mean over labels of the sliced W1 to the
        samples of the teacher's 64 guided steps, of the student's default way over that of data; 1 is a
        student that knows of no guidance.
    """
    if ablation not in ("", "guidance"):
        return []
    world, student = make_mixture(), shipped_network()
    labels = torch.arange(SAMPLES) % world.classes
    teacher = load(world.exact(student.process), shape=world.shape, classes=world.classes)
    way = Sampling.steps(student.process, STEPS, solver="ddim", guidance=SCALE)
    noise = Draws(SAMPLES, seed, "guided teacher")
    ends = draw_samples(teacher.denoiser, way, world.shape, labels, noise)

    def distance(samples: Tensor) -> float:
        of = range(world.classes)
        return sum(sliced_wasserstein(samples[labels == k], ends[labels == k], p=1) for k in of) / len(of)

    method, data = make(1.0 if ablation else SCALE), InfiniteData(world, labelled=True)
    model = trained(
        method, teacher, data, steps, seed, student=student, lr=lr, batch=batch, schedule="cosine"
    )
    plain, _ = world.sample_data(SAMPLES, Draws(SAMPLES, seed, "data"), labels)
    made = model.sample(SAMPLES, labels, seed=seed)
    claim = "w = 3, a mode each label: distance to the guided teacher's samples, of the student / of data"
    return [at_most(claim, distance(made) / distance(plain), 0.75)]

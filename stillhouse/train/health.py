"""Is the student still alive? A collapse into one colour shows in how much its samples differ from each
other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, move, pick, size
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import required
from stillhouse.model import Model
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.data import Data

COUNT = 32
FEW, LARGE = 8, 3 * 32 * 32  # samples of more numbers than this


class Probe:
    """Samples of fixed noise and conditions, and how diverse they are: the mean over pixels of the standard
    deviation over samples.

    Arguments:
        teacher: whose samples' shape it is.
        data: where the conditions come from; or conditions (N, …), a sample each.
        seed: of the noise.
    """

    def __init__(self, teacher: Model, data: Data | dict[str, Tensor] | Tensor, seed: int):
        self.shape, self.seed = tuple(teacher.shape), seed
        large = math.prod(self.shape) > LARGE  # pictures of real size: few, and one at a time
        given: Condition = data if isinstance(data, dict | Tensor) else None
        self.count = (FEW if large else COUNT) if given is None else required(size(given), "No conditions.")
        self.chunk = 1 if large else self.count
        self.cond = data if isinstance(data, dict | Tensor) else data.examples(self.count)
        self.best, self.warned = 0.0, False

    def samples(self, model: Model, sampling: Sampling | None = None) -> Tensor:
        """Samples of the student, always from the same noise.

        Arguments:
            model: the student as it is.
            sampling: how it is sampled; None: its cheapest one.

        Returns:
            States, (count, *shape).
        """
        denoiser = model.denoiser
        device = denoiser.device
        walkers = {name: m for name, m in model.companions.items() if isinstance(m, Denoiser)}
        chosen = sampling or min(model.samplings.values(), key=lambda s: s.nfe(denoiser, networks=walkers))
        learning = {net: net.training for net in (denoiser, *walkers.values())}
        for net in learning:
            net.eval()
        try:
            made = []
            for start in range(0, self.count, self.chunk):
                cond = move(pick(self.cond, slice(start, start + self.chunk)), device)
                draws = Draws(self.chunk, self.seed, "probe", start, device=device)
                made.append(draw_samples(denoiser, chosen, self.shape, cond, draws, networks=walkers))
            return torch.cat(made)
        finally:
            for net, before in learning.items():
                net.train(before)

    def assess(self, samples: Tensor) -> tuple[dict[str, float], str]:
        """Health figures, and a warning (empty if all is well)."""
        diversity = float(samples.float().std(0).mean())
        health = {
            "health/diversity": diversity,
            "health/mean": float(samples.float().mean()),
            "health/largest": float(samples.abs().max()),
        }
        lost, warned = diversity < 0.2 * self.best, self.warned
        self.best, self.warned = max(self.best, diversity), lost
        if lost and not warned:
            return (
                health,
                f"the samples have become alike (diversity {diversity:.3g}, once {self.best:.3g}): the "
                "student may be collapsing.",
            )
        return health, ""

"""Is the student still alive? A collapse into one colour shows in how much its samples differ from each other."""

from __future__ import annotations

from torch import Tensor

from stillhouse.conditions import move
from stillhouse.draws import Draws
from stillhouse.model import Model
from stillhouse.samplers.sampling import draw_samples
from stillhouse.train.data import Data

COUNT = 32


class Probe:
    """Samples of fixed noise and conditions. ``diversity`` is the mean over pixels of the standard deviation over samples."""

    def __init__(self, teacher: Model, data: Data, seed: int):
        self.shape, self.cond, self.seed = tuple(teacher.shape), data.examples(COUNT), seed
        self.best, self.told = 0.0, False

    def samples(self, model: Model) -> Tensor:
        """``COUNT`` samples of the student's cheapest sampling, always from the same noise."""
        denoiser = model.denoiser
        device = next(denoiser.parameters()).device
        cheapest = min(model.samplings.values(), key=lambda s: s.nfe(denoiser))
        learning = denoiser.training
        denoiser.eval()
        try:
            return draw_samples(denoiser, cheapest, self.shape, move(self.cond, device), Draws(COUNT, self.seed, "probe", device=device))
        finally:
            denoiser.train(learning)

    def judge(self, samples: Tensor) -> tuple[dict[str, float], str]:
        """Health figures, and a warning (empty if all is well)."""
        diversity = float(samples.float().std(0).mean())
        health = {"health/diversity": diversity, "health/mean": float(samples.float().mean()), "health/largest": float(samples.abs().max())}
        lost, told = diversity < 0.2 * self.best, self.told
        self.best, self.told = max(self.best, diversity), lost
        if lost and not told:
            return (
                health,
                f"the samples have become alike (diversity {diversity:.3g}, once {self.best:.3g}): the student may be collapsing.",
            )
        return health, ""

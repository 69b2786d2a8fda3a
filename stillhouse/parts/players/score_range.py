"""What students that move along two scores share: where the scores are compared, and how fast the two players
learn."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stillhouse.parts.states.backward_simulation import backward_simulation
from stillhouse.parts.states.time_sampler import uniform
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch, shared
from stillhouse.train.method import Method
from stillhouse.train.option import option
from stillhouse.train.recipe import Optim

# of dmd, dmd2, msd, sid, causvid and livetalk: no momentum, since the other player moves the target all the
# time
SCORE_OPTIM = {
    "student": Optim(lr=5e-4, betas=(0.0, 0.999), clip=10.0),
    "fake": Optim(lr=1e-3, betas=(0.0, 0.999), clip=10.0),
}


@dataclass
class ScoreRange(Method):
    """A method that compares two scores at times drawn uniformly from a range (Yin et al., 2023, arXiv
    2311.18828, eq. 7)."""

    score_t_min: float = option(
        0.02, "first time at which the scores are compared, as a share of [t_min, 1]", low=0, high=1
    )
    score_t_max: float = option(
        0.98, "last time at which the scores are compared, as a share of [t_min, 1]", low=0, high=1
    )

    def score_times(self, batch: Batch) -> Tensor:
        """Times (rows,) at which the scores are compared."""
        return uniform(self.process, batch.draws, self.score_t_min, self.score_t_max)


@dataclass
class OneCallScore(ScoreRange):
    """A :class:`ScoreRange` whose student begins with a call on pure noise; unless a method has it otherwise,
    that is the only one."""

    first_time: float = option(
        1.0, "time of the student's first call, whose input is pure noise of that level", low=0.01, high=1
    )

    @shared
    def samples(self, batch: Batch) -> Tensor:
        """What the student makes of noise, (rows, *shape)."""
        return backward_simulation(self.student, [self.first_time], batch.draws, batch.cond, batch.shape)

    def samplings(self) -> dict[int, Sampling]:
        return {1: Sampling([self.first_time, 0.0], "renoise")}

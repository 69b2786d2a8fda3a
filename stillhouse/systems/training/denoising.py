"""denoising: training a model from data, which is where teachers come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stillhouse.core.conditions import Condition, drop_condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.token_likelihood import nelbo, stratified
from stillhouse.parts.states.time_sampler import TIME_SAMPLERS, time_sampler
from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.method import Method
from stillhouse.train.option import option
from stillhouse.train.recipe import Optim


@dataclass
class Denoising(Method):
    """Denoising Diffusion Probabilistic Models. Ho, Jain & Abbeel, 2020 (arXiv 2006.11239).

    Plain denoising training, without a teacher: the network learns to predict what it is for (data, noise,
    velocity …) from noised data. Tokens are learned by their likelihood bound, at stratified times. With
    ``label_dropout`` it learns the unconditional answer as well, which guidance needs (Ho & Salimans, 2022,
    arXiv 2207.12598).
    """

    label_dropout: float = option(0.1, "share of samples whose condition is hidden", low=0, high=1)
    times: str = option("uniform", "law of the training times", choices=tuple(TIME_SAMPLERS))
    steps: int = option(64, "default number of sampling steps", low=1)
    solver: str = option(
        "dpm++", "default solver of samples (tokens: ancestral)", choices=("ddim", "heun", "dpm++", "unipc")
    )
    guidance: float = option(1.0, "default guidance scale of samples (1: none)", low=0)

    kind = "method"
    worlds = ("mixture", "digits", "mnist", "shapes", "text")
    needs = ("data",)
    processes = ("gaussian", "tokens", "bridge")
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=1e-3, schedule="cosine", warmup=100, clip=1.0)}
    free_steps = True

    def make_student(self, teacher: Denoiser) -> Denoiser:
        return teacher.copy()

    def samplings(self) -> dict[int, Sampling]:
        solver = "ancestral" if self.process.discrete else self.solver
        return {self.steps: Sampling.steps(self.process, self.steps, solver=solver, guidance=self.guidance)}

    def student_loss(self, batch: Batch) -> Tensor:
        if self.process.discrete:
            return nelbo(
                self.student,
                batch.data,
                stratified(self.process, batch.draws),
                batch.draws,
                self.condition(batch),
            )
        t = time_sampler(self.times, self.process, batch.draws)
        return denoising_loss(self.student, batch.data, t, batch.noise(), self.condition(batch))

    def condition(self, batch: Batch) -> Condition:
        """The batch's condition, without that of ``label_dropout`` of the rows."""
        if batch.cond is None:
            return None
        return drop_condition(batch.cond, batch.draws.uniform() < self.label_dropout, self.student.empty)

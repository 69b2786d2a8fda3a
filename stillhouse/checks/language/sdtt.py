"""sdtt: distilled by reverse KL onto its teacher's two steps, a masked model writes likelier texts in few; by
forward KL it doesn't."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_least, at_most
from stillhouse.checks.bench import trained
from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.discrete import Masked
from stillhouse.core.draws import Draws
from stillhouse.core.token_prediction import of_words
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.language.sdtt import SDTT
from stillhouse.train.data import InfiniteData
from stillhouse.worlds.base import get_world

WORLD = "text"
ABLATIONS = {
    "reverse": "Forward KL in its place: the optimum under the teacher's targets is their mean, which "
    "the model predicts already."
}
CONTRACT = Contract(
    options={"teacher_steps": 8, "rounds": 3, "teacher_ema": 0.5},
    process=Masked(6),
    kind="logits",
    world={"name": "text", "kind": "chain"},
)
SAMPLES = 8000
FIT, STEPS = 1500, 600


@dataclass
class Copied(SDTT):
    """The target is the teacher's first prediction: a network becomes the closed form."""

    def target(self, x_t: Tensor, t: Tensor, cond: Condition, draws: Draws) -> Tensor:
        return of_words(self.teacher(x_t, t, cond)).log_probs


def check(seed: int, ablation: str = "") -> list[Claim]:
    """Texts of the chain, whose exact denoiser is first distilled into a network; then three rounds from ``dt
    = 1/16``."""
    world = get_world(WORLD, kind="chain")
    process = Masked(6)

    def distilled(
        method: SDTT, teacher: Model, steps: int, lr: float, schedule: str, student: Denoiser | None = None
    ) -> Model:
        data = InfiniteData(world)
        return trained(
            method, teacher, data, steps, seed, student=student, batch=128, lr=lr, schedule=schedule, ema=0.0
        )

    exact = load(world.exact(process), shape=world.shape)
    network = world.network(process, seed, width=256, depth=2)
    before = distilled(Copied(16, rounds=1, divergence="forward_kl"), exact, FIT, 2e-3, "cosine", network)
    after = distilled(
        SDTT(16, rounds=3, divergence="forward_kl" if ablation else "reverse_kl"),
        before,
        STEPS,
        3e-4,
        "linear",
    )

    def measured(model: Model, steps: int) -> dict[str, float]:
        way = Sampling.steps(process, steps, solver="ancestral")
        with torch.no_grad():
            return world.measure(
                draw_samples(model.denoiser, way, world.shape, None, Draws(SAMPLES, seed, "samples", steps))
            )

    claims = []
    for steps, bound in ((2, 0.985), (1, 0.97)):
        new, old = measured(after, steps), measured(before, steps)
        claims.append(
            at_most(
                f"negative log-likelihood of {steps}-step texts, after / before",
                new["nll"] / old["nll"],
                bound,
            )
        )
        claims.append(
            at_least(
                "their bigram entropy, after / before", new["bigram_entropy"] / old["bigram_entropy"], 0.95
            )
        )
    return claims

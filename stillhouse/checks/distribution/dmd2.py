"""dmd2: a fake score that moves more often keeps up with a fast student; a critic on real data lifts the
student above its teacher."""

from __future__ import annotations

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.checks.bench import SAMPLES, Figures, distilled, figures
from stillhouse.checks.guided import NO_GUIDANCE, guided
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow
from stillhouse.systems.distribution.dmd2 import DMD2
from stillhouse.systems.training.denoising import Denoising
from stillhouse.train.data import InfiniteData
from stillhouse.worlds.mixture.layouts import make_mixture
from stillhouse.worlds.mixture.world import Mixture

WORLD = "mixture"
ABLATIONS = {
    "two-times": "The fake score moves once per student step, not five times.",
    "critic": "The critic on real data has no weight in the student's loss.",
    "guidance": NO_GUIDANCE,
}
CONTRACT = Contract(options={"steps": 2, "fake_per_student": 2})
UPDATES = 250  # of the student


def pretrained(world: Mixture, seed: int) -> Denoiser:
    """A network trained on the wrong data alone, as a teacher's copy would be."""
    student = world.network(Flow(), seed, width=64, depth=3, classes=0)
    run = distilled(Denoising(), world, 600, seed, network=student, data=InfiniteData(world), schedule="")
    return run.denoiser


def two_times(truth: Mixture, seed: int, ablated: bool) -> Claim:
    def swd(often: int) -> float:
        method = DMD2(first_time=0.7, fake_per_student=often, gan_weight=0.0)
        student = distilled(method, truth, UPDATES * often, seed, lr={"student": 2e-3, "fake": 1e-4})
        return figures(student.sample(SAMPLES, seed=seed), truth, seed).swd

    once = swd(1)
    return at_most(
        "slow fake: SWD with 5 fake steps per student step / with 1",
        (once if ablated else swd(5)) / once,
        0.75,
    )


def critic(truth: Mixture, seed: int, ablated: bool) -> list[Claim]:
    wrong = make_mixture(radius=3.4, std=0.5)
    start, data = pretrained(wrong, seed), InfiniteData(truth)

    def run(weight: float) -> Figures:
        method = DMD2(first_time=0.7, fake_per_student=3, gan_weight=weight, critic_weight=1.0)
        student = distilled(method, wrong, 3 * UPDATES, seed, network=start.copy(), data=data)
        return figures(student.sample(SAMPLES, seed=seed), truth, seed)

    without = run(0.0)
    lifted = without if ablated else run(2.0)
    teacher = figures(wrong.sample_data(SAMPLES, Draws(SAMPLES, seed, "teacher"))[0], truth, seed)
    return [
        at_most("wrong teacher: SWD with the critic / without", lifted.swd / without.swd, 0.75),
        at_most(
            "wrong teacher: SWD with the critic / of the teacher's own samples",
            lifted.swd / teacher.swd,
            0.85,
        ),
    ]


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The wrong teacher's ring is too small and too wide: radius 3.4 and deviation 0.5 in the place of 4 and
    0.3."""
    truth, claims = make_mixture(), []
    if ablation in ("", "two-times"):
        claims.append(two_times(truth, seed, ablation == "two-times"))
    if ablation in ("", "critic"):
        claims += critic(truth, seed, ablation == "critic")
    return claims + guided(
        lambda w: DMD2(first_time=0.7, fake_per_student=3, gan_weight=0.0, guidance=w),
        seed,
        450,
        ablation,
        lr={"student": 5e-4, "fake": 1e-3},
    )

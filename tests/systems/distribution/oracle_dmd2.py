"""The losses of dmd2, from Yin et al., 2024 (arXiv 2405.14867), sections 4.2-4.5."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from stillhouse.core.schedules import VE, Cosine, Flow
from tests.systems.oracle import Case, Given
from tests.systems.written import between, critic_error, falling, logits, matched, simulated


def samples(given: Given) -> Tensor:
    """Down to a random one of the grid's times."""
    options = given.options
    calls = given.draws("depth").one_integer(1, options["steps"] + 1)
    times = falling(given, options["first_time"], options["steps"])[:calls]
    return simulated(given, times, given.draws("samples"), 1.0 if options["unit_noise"] else None)


def student_loss(given: Given) -> Tensor:
    x, own = samples(given), given.draws("student")
    matching = matched(given, x, own)
    return matching + given.options["gan_weight"] * softplus(-logits(given, x, own)).mean()


def fake_loss(given: Given) -> Tensor:
    x, own = samples(given).detach(), given.draws("fake")
    t, eps = between(given, 0, 1, own.uniform()), own.normal(*given.shape)
    denoising = given.denoising(given.net("fake"), x, t, eps)
    return denoising + given.options["critic_weight"] * critic_error(given, x, own)


WHOLE = {"steps": 3, "guidance": 2.5, "gan_weight": 0.3, "critic_weight": 0.7, "first_time": 0.8}
CASES = [
    Case(player, loss, process, kind, {**WHOLE, **more}, embedded=embedded)
    for player, loss in (("student", student_loss), ("fake", fake_loss))
    for process, kind, embedded, more in (
        (Flow(), "velocity", False, {}),
        (Cosine(), "v", True, {}),
        (VE(), "edm", False, {"steps": 1}),
        (Cosine(), "eps", False, {"steps": 1, "unit_noise": True, "first_time": 0.4}),
    )
]

"""The losses of ctm, from Kim et al., 2023 (arXiv 2310.02279, eq. 5-9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from stillhouse.core.schedules import VE, Cosine, Flow
from tests.systems.oracle import Case, Given
from tests.systems.written import between, ddim, heun

TOTAL, JOINS = 24, 0.5


def jump(given: Given, net: nn.Module, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """``G(x, t -> s) = Phi(x, t -> s; g(x, t, s))``, eq. 5."""
    return ddim(given, x, t, s, net(x, t, given.cond, s=s).x0)


def to_clean(given: Given, x: Tensor, s: Tensor) -> Tensor:
    """The slow copy's jump to the lowest level."""
    return jump(given, given.net("ema.target"), x, s, given.at(given.process.t_min))


def landing(given: Given) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """The state ``x_t``, the times of the teacher's segment, ``s``, and the student's jump carried to the
    clean end. The segment's length has ``P(n) ~ n``; ``i`` and ``j`` are uniform over what it leaves."""
    own, count = given.draws("samples"), given.options["levels"]
    grid = torch.linspace(1, given.process.t_min, count)
    most = min(given.options["segment"], count - 1)
    mass = own.one_uniform(0, most * (most + 1) / 2)
    n = next(n for n in range(1, most + 1) if mass < n * (n + 1) / 2)
    i = own.integers(0, count - n)
    j = i + n + (own.uniform() * (count - n - i)).floor().long()
    times, s = [grid[i + k] for k in range(n + 1)], grid[j]
    x_t = given.noise(given.x, times[0], own.normal(*given.shape))
    return x_t, times, s, to_clean(given, jump(given, given.student, x_t, times[0], s), s)


def target(given: Given, x: Tensor, times: list[Tensor], s: Tensor) -> Tensor:
    """Teacher to ``u``, student to ``s``, slow copy to the end."""
    with torch.no_grad():
        for t, u in zip(times[:-1], times[1:], strict=True):
            x = heun(given, lambda x, t: given.teacher(x, t, given.cond).x0, x, t, u)
        return to_clean(given, jump(given, given.student, x, times[-1], s), s)


def denoising_loss(given: Given) -> Tensor:
    """Of the zero-length jump: half of the rows over the noisier 70 % of the grid, half log-normal."""
    own = given.draws("student")
    grid = between(given, 0, 1, 1 - 0.7 * own.uniform())
    half = own.uniform() < 0.5
    normal = given.process.time(1.2 - 1.2 * own.normal()).clamp(given.process.t_min, 1 - 1e-6)
    t = torch.where(half, grid, normal)
    return given.denoising(given.student, given.x, t, own.normal(*given.shape))


def logits(given: Given, x: Tensor) -> Tensor:
    """Of clean samples, on the teacher's features at a low noise level."""
    return given.net("critic")(given.middle(given.teacher, x, given.at(max(given.process.t_min, 0.05))))


def share(given: Given, main: Tensor, other: Tensor, low: float, high: float) -> Tensor:
    """Which makes two losses' gradients at the last layer equal, within bounds (VQGAN's rule)."""
    last = given.student.net.output.weight
    sizes = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (main, other)]
    return (sizes[0] / (sizes[1] + 1e-4)).clamp(low, high)


def student_loss(given: Given) -> Tensor:
    x_t, times, s, x = landing(given)
    loss = main = (x - target(given, x_t, times, s)).square().mean()
    if given.options["denoising"]:
        other = denoising_loss(given)
        loss = loss + share(given, main, other, 0, 1e4) * other
    if given.step >= JOINS * TOTAL:
        adversarial = -logits(given, x).mean()
        loss = loss + share(given, main, adversarial, 0.01, 10) * adversarial
    return loss


def critic_loss(given: Given) -> Tensor:
    real, made = logits(given, given.x), logits(given, landing(given)[-1].detach())
    return relu(1 - real).mean() + relu(1 + made).mean()


WHOLE = {"levels": 9, "segment": 6, "critic_from": JOINS}  # a segment of two steps is drawn, of three below
CASES = [
    Case(player, loss, process, kind, {**WHOLE, **more}, embedded=embedded, within=within, total=TOTAL)
    for player, loss, process, kind, within, embedded, more in (
        ("student", student_loss, VE(), "edm", 12, False, {}),
        ("student", student_loss, Flow(), "velocity", 14, True, {"segment": 20}),
        ("student", student_loss, Cosine(), "v", 11, False, {}),
        ("student", student_loss, Cosine(), "v", 16, False, {"denoising": False}),
        ("critic", critic_loss, VE(), "edm", 13, True, {}),
        ("critic", critic_loss, Flow(), "velocity", 15, False, {}),
    )
]

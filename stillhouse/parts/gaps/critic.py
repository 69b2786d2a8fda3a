"""Discriminators that read a denoiser's own features of a noised sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.errors import StillhouseError, unknown
from stillhouse.models.taps import until
from stillhouse.train.method import Method


def middle_of(denoiser: Denoiser) -> str:
    """The name, inside a denoiser, of the submodule that a critic reads; raises :class:`StillhouseError`
    where the network names none."""
    middle = getattr(denoiser.net, "middle", "")
    if not middle:
        raise StillhouseError(
            f"A {type(denoiser.net).__name__} names no `middle` submodule for a critic to read; set that "
            "attribute or use no critic."
        )
    return f"net.{middle}"


def feature_source(method: Method) -> Denoiser:
    """Whose features a critic of ``method`` reads: the teacher's; a closed form has none, and the student's
    first state gives them."""
    closed = isinstance(method.teacher, ExactDenoiser)
    return method.frozen_copy(method.student, "feature_net") if closed else method.teacher


def features(denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Condition = None) -> Tensor:
    """The features of the middle block at ``(x_t, t)``; the rest of the network is not computed.

    Arguments:
        denoiser: whose network names its middle block, see :func:`middle_of`.
        x_t: states, (B, *shape).
        t: times in [0, 1], (B,).
        cond: the condition of the B rows; None for none.

    Returns:
        Features: (B, C, H, W) of a U-Net, (B, N, C) of a transformer, (B, C) of an MLP.
    """
    return _picture(until(denoiser.get_submodule(middle_of(denoiser)), lambda: denoiser(x_t, t, cond)))


def _picture(found: Any) -> Tensor:
    """The picture's part of a block's output: joint blocks of text and picture give both, the picture
    last."""
    picture: Tensor = found[-1] if isinstance(found, tuple) else found
    return picture


def encoder_of(denoiser: Denoiser) -> list[str]:
    """The names of the blocks up to the middle one, in their order; the middle alone where blocks have other
    names than ours."""
    middle = middle_of(denoiser)
    stem, _, last = middle.rpartition(".")
    if last.isdigit():
        return [f"{stem}.{i}" for i in range(int(last) + 1)]
    return [*(f"net.down.{i}" for i, _ in enumerate(getattr(denoiser.net, "down", ()))), middle]


def features_at(
    denoiser: Denoiser, names: Sequence[str], x_t: Tensor, t: Tensor, cond: Condition = None
) -> list[Tensor]:
    """The features of several blocks at ``(x_t, t)``, in the order in which they run; what comes after the
    last is not computed.

    Arguments:
        denoiser: evaluated once, up to the last of the blocks.
        names: its submodules, in the order in which they run, see :func:`encoder_of`.
        x_t: states, (B, *shape).
        t: times in [0, 1], (B,).
        cond: the condition of the B rows; None for none.

    Returns:
        The output of each block: (B, C, H, W), (B, N, C) or (B, C).
    """
    kept: list[Tensor] = []
    hooks = [
        denoiser.get_submodule(name).register_forward_hook(lambda _m, _i, out: kept.append(_picture(out)))
        for name in names[:-1]
    ]
    try:
        last = until(denoiser.get_submodule(names[-1]), lambda: denoiser(x_t, t, cond))
        return [*kept, _picture(last)]
    finally:
        for hook in hooks:
            hook.remove()


class Head(nn.Module):
    """Features to one logit a sample: images (B, C, H, W) through strided 4x4 convolutions down to 1x1,
    tokens (B, N, C) and vectors (B, C) through two layers (Yin et al., 2024, arXiv 2405.14867, appendix)."""

    __call__: Callable[..., Tensor]  # as forward; nn.Module leaves it open

    def __init__(self, channels: int, side: int = 1):
        super().__init__()
        layers: list[nn.Module] = []
        while side > 1:
            layers += [
                nn.Conv2d(channels, channels, 4, 2, 1),
                nn.GroupNorm(math.gcd(8, channels), channels),
                nn.SiLU(),
            ]
            side //= 2
        self.down = nn.Sequential(*layers)
        self.out = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        """Logits (B,), positive for real."""
        if h.dim() == 4:
            h = self.down(h).mean((2, 3))
        elif h.dim() == 3:
            h = h.mean(1)
        logits: Tensor = self.out(h).squeeze(1)
        return logits


def head_for(denoiser: Denoiser, shape: tuple[int, ...], states: int = 1) -> Head:
    """A head that fits the features of ``denoiser`` on samples of ``shape``, those of ``states`` of them side
    by side.

    Arguments:
        denoiser: evaluated once, at zeros, to find the size of its features.
        shape: of one sample.
        states: how many states' features are joined along the channels.

    Returns:
        A new head, on the CPU.
    """
    middle_of(denoiser)
    with torch.no_grad():
        device = next(
            denoiser.net.parameters()
        ).device  # the network's own: an adapter that is off has no weights
        h = features(denoiser, torch.zeros(1, *shape, device=device), torch.full((1,), 0.5, device=device))
    return Head(states * h.shape[channel_of(h)], min(h.shape[-2:]) if h.dim() == 4 else 1)


def channel_of(h: Tensor) -> int:
    """Where the channels of features are: last in tokens (B, N, C), second elsewhere."""
    return 2 if h.dim() == 3 else 1


class JumpCritic(nn.Module):
    """A critic of where a jump landed, given where it began (``P(x_s, x_t)``) or not (``P(x_s)``): one
    backbone, a head for each.

    Given the start it keeps the teacher's map, since at its optimum the jumps from *every* state have the
    teacher's distribution; without it only their distribution as a whole (Lin, Wang & Yang, 2024, arXiv
    2402.13929, section 3.2-3.3). ``backbone``: a denoiser that learns with the heads; its middle features are
    read.
    """

    __call__: Callable[..., list[Tensor]]

    def __init__(self, backbone: Denoiser, shape: tuple[int, ...]):
        super().__init__()
        self.backbone, self.pair, self.alone = (
            backbone,
            head_for(backbone, shape, 2),
            head_for(backbone, shape),
        )

    def forward(
        self, landed: list[Tensor], s: Tensor, start: tuple[Tensor, Tensor] | None, cond: Condition = None
    ) -> list[Tensor]:
        """Logits of where several jumps landed that began at one state.

        Arguments:
            landed: the ends of the jumps, each (B, *shape).
            s: their times in [0, 1], (B,).
            start: the state ``x_t`` (B, *shape) and its time ``t`` (B,) at which they began; None: only the
                landing is judged.
            cond: the condition of the B rows; None for none.

        Returns:
            Logits (B,) of each of ``landed``, positive for real.
        """
        seen = [features(self.backbone, x, s, cond) for x in landed]
        if start is None:
            return [self.alone(h) for h in seen]
        began = features(self.backbone, *start, cond)
        return [self.pair(torch.cat([h, began], channel_of(h))) for h in seen]


LOSSES = ("softplus", "hinge", "least_squares")


def discriminator_loss(real: Tensor, fake: Tensor, kind: str = "softplus") -> Tensor:
    """The critic's own loss.

    Arguments:
        real: logits of real samples, any shape, positive for real.
        fake: logits of the student's samples, any shape.
        kind: ``softplus``, the non-saturating loss; ``hinge``; ``least_squares`` on probabilities, ``(mean
            (s(real) - 1)^2 + mean s(fake)^2) / 2`` with the sigmoid ``s``.

    Returns:
        A scalar. Raises :class:`StillhouseError` for an unknown kind.
    """
    if kind == "softplus":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "least_squares":
        return 0.5 * (torch.sigmoid(-real).square().mean() + torch.sigmoid(fake).square().mean())
    raise unknown("adversarial loss", kind, LOSSES)


def generator_loss(fake: Tensor, kind: str = "softplus") -> Tensor:
    """The student's side of :func:`discriminator_loss`.

    Arguments:
        fake: logits of the student's samples, any shape, positive for real.
        kind: as in :func:`discriminator_loss`.

    Returns:
        A scalar. Raises :class:`StillhouseError` for an unknown kind.
    """
    if kind == "softplus":
        return F.softplus(-fake).mean()
    if kind == "hinge":
        return -fake.mean()
    if kind == "least_squares":
        return torch.sigmoid(-fake).square().mean()
    raise unknown("adversarial loss", kind, LOSSES)

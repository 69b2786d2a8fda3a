"""Guidance as a denoiser around a denoiser: it composes, and is no flag of any method.

``D^w = D(none) + w (D(c) - D(none))``; ``w = 1`` is no guidance (papers that count from 0 are translated at
the border).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.core.conditions import Condition, expand, move, size
from stillhouse.core.denoiser import Denoiser, Wrapped
from stillhouse.core.errors import require
from stillhouse.core.prediction import Prediction
from stillhouse.core.token_prediction import TokenPrediction


def in_place_of(cond: Condition, negative: Condition) -> Condition:
    """What guidance moves away from under ``cond``.

    Arguments:
        cond: the condition of B rows.
        negative: of B rows or one; None for the empty condition.

    Returns:
        ``negative`` with B rows, and the parts of ``cond`` that it has none of, such as a picture; or None.
    """
    if negative is None or cond is None:
        return None
    rows, first = size(cond) or 1, next(iter(cond.values())) if isinstance(cond, dict) else cond
    negative = move(negative, first.device)
    negative = expand(negative, rows) if size(negative) == 1 else negative
    return {**cond, **negative} if isinstance(cond, dict) and isinstance(negative, dict) else negative


def takes_guidance(denoiser: Denoiser) -> bool:
    """Whether the network takes the guidance scale as an input, and so needs no second evaluation; seen
    through wrappers, but for a :class:`Guided` one, whose scale is given already."""
    inner: nn.Module = denoiser
    while isinstance(inner, Denoiser):
        if isinstance(inner, Guided):
            return False
        inner = inner.net
    config = getattr(inner, "config", None)
    # ours, and the two entries by which Diffusers' networks declare it
    return isinstance(config, Mapping) and any(
        config.get(key) for key in ("guidance_input", "guidance_embeds", "time_cond_proj_dim")
    )


def at_scale(denoiser: Denoiser, scale: float) -> Denoiser:
    """The denoiser at exactly this scale, as a sampler gives it.

    Arguments:
        denoiser: any.
        scale: ``w``; a network that takes it as an input is given 1 as well, and not left to its default.

    Returns:
        The guided denoiser; the denoiser itself at 1, unless its network takes the scale.
    """
    if takes_guidance(denoiser):
        return Guided(denoiser, torch.tensor(float(scale)))
    return denoiser if scale == 1 else Guided(denoiser, scale)


class Guided(Wrapped):
    """Classifier-free guidance (Ho & Salimans, 2022, arXiv 2207.12598), at the cost of a second evaluation;
    a network that takes the scale as an input is given it, and evaluated once.

    ``scale``: ``w``, a number or a tensor (B,) or (). The number 1 names none: the denoiser as it is, so that
    a network which takes the scale is left to its own default; a tensor is given as it is, its ones as well.
    ``negative``: the condition to move away from, of B rows or one; by default that of the denoiser, which is
    mostly the empty one. ``interval``: times ``[low, high]`` in which guidance acts (Kynkäänniemi et al.,
    2024, arXiv 2404.07724); outside, and at ``w = 1``, one evaluation is spent instead of two. ``rescale`` in
    [0, 1]: scale the standard deviation of the guided estimate back to the conditional one's (Lin et al.,
    2023, arXiv 2305.08891, eq. 15-16). Raises :class:`StillhouseError` for a negative condition or a rescale
    of a network that takes the scale as an input, for there is no second estimate.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float | Tensor,
        negative: Condition = None,
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
    ):
        require(0 <= rescale <= 1, f"Guidance rescale must lie in [0, 1], not {rescale}.")
        require(
            interval[0] <= interval[1], f"A guidance interval runs from low to high time, not {interval}."
        )
        super().__init__(denoiser)
        self.scale, self.interval, self.rescale = scale, interval, rescale
        self.negative = denoiser.negative_condition if negative is None else negative
        self.as_input = takes_guidance(denoiser)
        require(
            not self.as_input or (self.negative is None and rescale == 0),
            "The network takes the guidance scale as an input and is evaluated once: there is no second "
            "estimate for a negative prompt or a rescale of guidance; leave them away.",
        )

    @property
    def learner(self) -> Denoiser:
        """What is trained to be seen under this guidance: the denoiser inside, without any; itself where the
        scale is an input, for the network must learn at the scale that it is evaluated at."""
        return self if self.as_input else self.plain

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition = None, **extra: Any) -> Prediction:
        if not torch.is_tensor(self.scale) and self.scale == 1:
            return self.plain(x_t, t, cond, **extra)
        low, high = self.interval
        inside = (t >= low) & (t <= high)
        if self.as_input:
            w = self._scales(x_t, torch.promote_types(x_t.dtype, torch.float32))
            acts = inside if inside.dim() == 1 else inside.any(1)
            return self.plain(x_t, t, cond, **{**extra, "guidance": torch.where(acts, w, torch.ones_like(w))})
        pred = self.plain(x_t, t, cond, **extra)
        if cond is None or not bool(inside.any()):
            return pred
        empty = self.plain(x_t, t, in_place_of(cond, self.negative), **extra)
        w = self._scales(x_t, pred.raw.dtype).reshape(-1, *[1] * (t.dim() - 1))
        w = torch.where(inside, w, torch.ones_like(w))
        w = w.reshape(*w.shape, *[1] * (pred.raw.dim() - w.dim()))
        # every kind is affine in x0 at a given x_t, and the weights w and 1 - w sum to one: mixing raw
        # outputs mixes all views. Mixed logits of tokens are the geometric mean of their distributions
        mixes = type(pred) in (Prediction, TokenPrediction)
        guided = pred.replace(empty.raw + w * (pred.raw - empty.raw)) if mixes else _mix(pred, empty, w)
        if self.rescale == 0:
            return guided
        dims = tuple(range(1, x_t.dim()))
        rescaled = guided.x0 * (
            pred.x0.std(dims, keepdim=True) / guided.x0.std(dims, keepdim=True).clamp_min(1e-8)
        )
        return guided.with_x0(self.rescale * rescaled + (1 - self.rescale) * guided.x0)

    def _scales(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The scale of each row of ``x``, (B,)."""
        return torch.as_tensor(self.scale, dtype=dtype, device=x.device).expand(len(x))


def _mix(pred: Prediction, empty: Prediction, w: Tensor) -> Prediction:
    return pred.with_x0(empty.x0 + w * (pred.x0 - empty.x0))

"""The exact denoiser of finitely many data: a softmax over all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, as_tensor, pick
from stillhouse.core.denoiser import ExactDenoiser
from stillhouse.core.errors import require
from stillhouse.core.process import Process, expand_to


class FiniteDenoiser(ExactDenoiser):
    """Exact posterior mean when the data are ``N`` points: ``sum_i softmax_i(-|x_t - alpha x_i|^2 / (2
    sigma^2)) x_i``.

    ``data``: (N, …); ``labels``: (N,) or ``None``. ``cond``: labels (B,), -1 or ``None`` for all points. At
    ``sigma = 0`` it is the nearest point, at ``alpha = 0`` the mean of all. Works in chunks of ``chunk``
    states, so that memory stays at ``chunk x N``. A subclass with conditions or times of its own overrides
    :meth:`allowed` or :meth:`logits`.
    """

    points: Tensor
    squares: Tensor
    labels: Tensor

    def __init__(self, process: Process, data: Tensor, labels: Tensor | None = None, chunk: int = 512):
        super().__init__(process)
        self.register_buffer("points", data.flatten(1))
        self.register_buffer("squares", data.flatten(1).double().square().sum(1))
        self.register_buffer("labels", torch.zeros(len(data), dtype=torch.long) if labels is None else labels)
        self.shape, self.chunk = tuple(data.shape[1:]), chunk
        self.classes = 0 if labels is None else int(labels.max()) + 1

    def allowed(self, cond: Condition, rows: int) -> Tensor | None:
        """Which points agree with a condition.

        Arguments:
            cond: the condition of the rows; None for none.
            rows: number of states.

        Returns:
            Of bool, (rows, N); None for all points.
        """
        if cond is None:
            return None
        require(self.classes > 0, "This denoiser's data has no labels, so it takes no condition.")
        labels = as_tensor(cond)[:, None]
        return (labels < 0) | (labels == self.labels)

    def logits(self, x_t: Tensor, t: Tensor, allowed: Tensor | None) -> Tensor:
        """``log q(x_t | x_i)``, up to a number for each row.

        Arguments:
            x_t: states, (B, *shape).
            t: times in [0, 1], (B,).
            allowed: which points count, (B, N); None for all.

        Returns:
            (B, N); of a point that isn't allowed, any number.
        """
        x, points = x_t.flatten(1), self.points.to(x_t)
        alpha, sigma = (
            expand_to(f(t), x).reshape(-1, 1).expand(len(x), 1)
            for f in (self.process.alpha, self.process.sigma)
        )
        # |x|^2 is common to all points and drops out of the softmax, so the distances are one matrix product
        near = alpha * (x @ points.T) - 0.5 * alpha**2 * self.squares.to(x)
        among = near if allowed is None else near.masked_fill(~allowed, -torch.inf)
        # below a sigma of 1e-6 the nearest point has all the weight; the floor keeps the gradient in t
        # finite, too
        return (near - among.amax(1, keepdim=True).detach()) / (sigma**2).clamp_min(1e-12)

    def mean(self, x_t: Tensor, t: Tensor, cond: Condition = None) -> Tensor:
        """The posterior mean ``E[x_0 | x_t, cond]``.

        Arguments:
            x_t: states, (B, …).
            t: times in [0, 1], (B,).
            cond: labels, (B,), with -1 for all points; None for all points throughout.

        Returns:
            Clean estimates, (B, …).

        Raises:
            StillhouseError: for a condition where the data has no labels.
        """
        rows = len(x_t)
        if torch.is_tensor(cond):
            cond = cond.expand(rows)
        x, t = x_t.to(torch.promote_types(x_t.dtype, torch.float32)), t.expand(rows, *t.shape[1:])
        points = self.points.to(x)
        means = []
        for part in (slice(i, i + self.chunk) for i in range(0, rows, self.chunk)):
            allowed = self.allowed(pick(cond, part), len(x[part]))
            logits = self.logits(x[part], t[part], allowed)
            if allowed is not None:
                logits = logits.masked_fill(~allowed, -torch.inf)
            means.append(logits.softmax(1) @ points)
        return torch.cat(means).reshape(x_t.shape).to(x_t.dtype)

"""The mixture seen through a bridge: noisy, shrunken copies of its points, and the exact way back."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.bridge import Bridge, degraded, unconditional
from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require, required_type
from stillhouse.core.prediction import divide
from stillhouse.core.process import Process, expand_to
from stillhouse.worlds.mixture.world import Mixture

PAIRS = {"train": 16384, "test": 4096}


class BridgedDenoiser(ExactDenoiser):
    """Exact posterior mean of the residual ``x - y``, for ``x`` of a mixture of Gaussians and ``y = shrink x
    + blur n``.

    Conditioned on ``y``, it is the mixture's posterior given ``y`` that is noised: ``r_t + alpha y = alpha x
    + sigma eps``. With ``blind`` it is the posterior given ``x_t = r_t + y = (alpha + eta shrink) x +
    sqrt(sigma^2 + (eta blur)^2) eps`` alone, and ``y`` is only subtracted from its mean.
    """

    means: Tensor
    variances: Tensor
    log_weights: Tensor

    def __init__(self, process: Bridge, world: BridgedMixture, blind: bool):
        super().__init__(process)
        self.shrink, self.blur, self.blind = world.shrink, world.blur, blind
        if blind:
            self.call = unconditional
        self.register_buffer("means", world.means)
        self.register_buffer("variances", world.stds**2)
        self.register_buffer("log_weights", world.weights.log())

    def mean(self, x_t: Tensor, t: Tensor, cond: Condition = None) -> Tensor:
        """The posterior mean ``E[r_0 | x_t, y]``, or with ``blind`` ``E[r_0 | x_t]``, finite at both ends of
        time.

        Arguments:
            x_t: residuals ``r_t``, (B, D).
            t: times in [0, 1], (B,).
            cond: the degraded points ``y`` as ``{"image": (B, D)}``, which are needed.

        Returns:
            Clean residuals, (B, D).
        """
        y, r = degraded(cond).double(), x_t.double()
        bridge, time = self.process, t.double()
        assert isinstance(bridge, Bridge)
        eta, sigma = expand_to(bridge.eta(time), r), expand_to(bridge.sigma(time), r)
        alpha = 1 - eta
        means, variances, log_weights = self.means, self.variances, self.log_weights.expand(len(r), -1)
        if self.blind:
            signal, noise, seen = alpha + eta * self.shrink, (sigma**2 + (eta * self.blur) ** 2).sqrt(), r + y
        else:
            means, variances, log_weights = self.given(y)
            # alpha and sigma may vanish together: what counts is their ratio
            size = (1 + expand_to(bridge.ratio(time), r) ** 2).sqrt()
            signal = 1 / size
            noise, seen = (1 - signal**2).sqrt(), divide(r + alpha * y, (alpha**2 + sigma**2).sqrt())
        return (_expected(seen, signal, noise, means, variances, log_weights) - y).to(x_t.dtype)

    def given(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mixture given ``y`` (B, D): means (B, K, D), variances (K,) and log weights (B, K), not
        normalised."""
        spread = self.shrink**2 * self.variances + self.blur**2
        away = y[:, None] - self.shrink * self.means
        means = self.means + (self.shrink * self.variances / spread)[:, None] * away
        log_weights = self.log_weights - 0.5 * (y.shape[1] * spread.log() + away.square().sum(-1) / spread)
        return means, self.variances * self.blur**2 / spread, log_weights


def _expected(
    seen: Tensor, signal: Tensor, noise: Tensor, means: Tensor, variances: Tensor, log_weights: Tensor
) -> Tensor:
    """``E[x | signal x + noise eps = seen]`` (B, D) for a mixture with its own ``means`` (B, K, D) and
    ``log_weights`` (B, K) in each row."""
    v = signal**2 * variances + noise**2
    away = seen[:, None] - signal[..., None] * means
    share = (log_weights - 0.5 * (seen.shape[1] * v.log() + away.square().sum(-1) / v)).softmax(-1)
    return (share[..., None] * (means + (signal * variances / v)[..., None] * away)).sum(1)


class BridgedMixture(Mixture):
    """Points of a mixture and their degraded copies ``y = shrink x + blur n``: each ``y`` may have come from
    several modes.

    A label is the number of a pair, of 16,384 and after them 4,096 for tests; :meth:`condition` gives its
    ``y``. ``blind``: the closed form is that of the unconditional kind of bridge, which is a function of the
    state alone.
    """

    cond_kind = "image"
    infinite = False
    default_process = {"name": "brownian", "scale": 0.6}
    default_kind = "x0"

    def __init__(
        self,
        means: Tensor,
        stds: Tensor,
        weights: Tensor,
        labels: Tensor,
        blind: bool = False,
        shrink: float = 0.6,
        blur: float = 1.2,
    ):
        super().__init__(means, stds, weights, labels)
        require(
            shrink > 0 and blur > 0,
            f"A degraded point is a positive share of the clean one and noise, not {shrink} and {blur}.",
        )
        self.shrink, self.blur, self.blind = shrink, blur, blind
        n = sum(PAIRS.values())
        draws = Draws(n, "bridged")
        self._clean_points, self._modes = super().sample_data(n, draws)
        self._degraded = shrink * self._clean_points + blur * draws.normal(*self.shape)
        self.classes, self.class_names = 0, ()
        self.network_defaults = {**self.network_defaults, "image_cond": self.shape[0]}

    def exact(self, process: Process) -> BridgedDenoiser:  # type: ignore[override]
        bridge = required_type(
            process,
            Bridge,
            f"This world is bridged; its closed form is of a bridge, not of '{process.name}'.",
        )
        return BridgedDenoiser(bridge, self, self.blind)

    def _numbers(self, split: str) -> Tensor:
        require(split in PAIRS, f"A world has the splits 'train' and 'test', not '{split}'.")
        return (
            torch.arange(PAIRS["train"]) if split == "train" else PAIRS["train"] + torch.arange(PAIRS["test"])
        )

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """The clean points of a split and the numbers of their pairs."""
        labels = self._numbers(split)
        return self._clean_points[labels], labels

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Clean points and the numbers of their pairs, drawn with replacement.

        Arguments:
            n: points to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: numbers of pairs, (n,), with -1 for any of the training split; None for any throughout.

        Returns:
            Clean points, (n, D), and the numbers of their pairs, (n,).
        """
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        drawn = draws.integers(0, PAIRS["train"]).cpu()
        labels = drawn if labels is None else torch.where(labels.cpu() < 0, drawn, labels.cpu())
        return self._clean_points[labels], labels

    def condition(self, labels: Tensor | None) -> Condition:
        """``{"image": y}`` of the pairs ``labels`` (B,)."""
        return None if labels is None else {"image": self._degraded[labels.cpu()].to(labels.device)}

    def balanced_labels(self, n: int, split: str = "train") -> Tensor:
        """The first pairs of a split, each twice: what a model makes of the same ``y`` shows its diversity.

        Arguments:
            n: how many.
            split: ``train`` or ``test``.

        Returns:
            Numbers of pairs, (n,).
        """
        numbers = self._numbers(split)
        return numbers[torch.arange(n) // 2 % len(numbers)]

    def on_mode(self, samples: Tensor, within: float = 3.0) -> float:
        """The share of samples that lie on a mode.

        Arguments:
            samples: points, (B, D).
            within: standard deviations that a mode reaches.

        Returns:
            The share.
        """
        return float((self._nearest(samples)[0] <= within).double().mean())

    def diversity(self, samples: Tensor, labels: Tensor) -> float:
        """The chance that two samples of one pair lie nearest to different modes.

        Arguments:
            samples: points, (B, D).
            labels: numbers of their pairs, (B,); only those that occur twice count.

        Returns:
            The share of such couples.
        """
        order = labels.argsort(stable=True)
        mode, sorted_labels = self._nearest(samples)[1][order], labels[order]
        same = sorted_labels[1:] == sorted_labels[:-1]
        return float((mode[1:] != mode[:-1])[same].double().mean())

    def measure(
        self, samples: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """:meth:`Mixture.measure`, and the ``diversity`` of what is made of one degraded point.

        Arguments:
            samples: points, at least 4, (B, D).
            labels: numbers of their pairs, (B,); None, or no number twice, leaves out the ``diversity``.
            generator: for the random part of metrics; None for one that is the same every time.

        Returns:
            Values by name.
        """
        result = super().measure(samples, generator=generator)
        if labels is not None and len(labels.unique()) < len(labels):
            result["diversity"] = self.diversity(samples, labels)
        return result

"""``mixture``: labelled Gaussian mixtures in any dimension, whose denoiser is known in closed form for every
process."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, as_tensor, require_labels
from stillhouse.core.denoiser import ExactDenoiser
from stillhouse.core.draws import Draws, seed_of
from stillhouse.core.errors import require
from stillhouse.core.process import Process, expand_to
from stillhouse.metrics.distances import MMD, SWD
from stillhouse.metrics.metric import ACCURACY, Metric
from stillhouse.worlds.base import World, require_samples


class MixtureDenoiser(ExactDenoiser):
    """Exact posterior mean of a mixture of isotropic Gaussians ``sum_k w_k N(mu_k, s_k^2 I)``.

    Component ``k`` at time ``t`` is ``N(alpha mu_k, v_k I)`` with ``v_k = alpha^2 s_k^2 + sigma^2``; given
    ``k`` the mean of the clean data is ``mu_k + alpha s_k^2 / v_k (x_t - alpha mu_k)``, finite at both ends
    of time. Differentiable in ``x_t`` and ``t``, in forward mode as well.
    """

    means: Tensor
    variances: Tensor
    log_weights: Tensor
    log_share: Tensor

    def __init__(self, process: Process, means: Tensor, stds: Tensor, weights: Tensor, labels: Tensor):
        super().__init__(process)
        classes = int(labels.max()) + 1
        # one row per label and a last one, which label -1 finds, that allows every component
        allowed = torch.cat(
            [labels == torch.arange(classes)[:, None], torch.ones(1, len(labels), dtype=torch.bool)]
        )
        self.register_buffer("means", means.double())
        self.register_buffer("variances", stds.double() ** 2)
        self.register_buffer(
            "log_weights",
            weights.double().log() + torch.zeros(classes + 1, 1).masked_fill(~allowed, -math.inf),
        )
        self.register_buffer("log_share", torch.logsumexp(self.log_weights, 1, keepdim=True))

    def _joint(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """``log w_k N(x_t; alpha mu_k, v_k I)`` without its constant (B, K), each ``v_k`` (B, K), and
        ``alpha`` (B, 1)."""
        alpha, sigma = (expand_to(f(t), x_t).reshape(-1, 1) for f in (self.process.alpha, self.process.sigma))
        v = alpha**2 * self.variances.to(x_t) + sigma**2
        away = x_t[:, None] - alpha[..., None] * self.means.to(x_t)
        log_weights = (self.log_weights - self.log_share).to(x_t)
        prior = log_weights[-1] if cond is None else log_weights[as_tensor(cond)]
        return prior - 0.5 * (x_t.shape[1] * v.log() + (away**2).sum(-1) / v), v, alpha

    def mean(self, x_t: Tensor, t: Tensor, cond: Condition = None) -> Tensor:
        """The posterior mean ``E[x_0 | x_t, cond]``.

        Arguments:
            x_t: states, (B, D).
            t: times in [0, 1], (B,).
            cond: labels, (B,), with -1 for the whole mixture; None for the whole mixture throughout.

        Returns:
            Clean estimates, (B, D).
        """
        x = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
        joint, v, alpha = self._joint(x, t, cond)
        share, pull = joint.softmax(-1), alpha * self.variances.to(x) / v
        mean = (share * (1 - alpha * pull)) @ self.means.to(x) + (share * pull).sum(-1, keepdim=True) * x
        return mean.to(x_t.dtype)

    def log_prob(self, x_t: Tensor, t: Tensor, cond: Condition = None) -> Tensor:
        """``log p_t(x_t | cond)``, whose gradient in ``x_t`` is the score.

        Arguments:
            x_t: states, (B, D).
            t: times in [0, 1], (B,).
            cond: labels, (B,), with -1 for the whole mixture; None for the whole mixture throughout.

        Returns:
            Log densities in nats, (B,).
        """
        joint, _, _ = self._joint(x_t, t, cond)
        return joint.logsumexp(-1) - 0.5 * x_t.shape[1] * math.log(2 * math.pi)

    def class_log_probs(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``log p(c | x_t)`` of every label.

        Arguments:
            x_t: states, (B, D).
            t: times in [0, 1], (B,).

        Returns:
            Log probabilities, (B, classes).
        """
        whole = self._joint(x_t, t, None)[0].log_softmax(-1)
        outside = torch.isinf(self.log_weights[:-1])
        return whole[:, None].masked_fill(outside, -math.inf).logsumexp(-1)


class Mixture(World):
    """``sum_k weights_k N(means_k, stds_k^2 I)``: ``means`` (K, D), ``stds``, ``weights``, ``labels`` each
    (K,).

    Weights are normalised. Raises :class:`StillhouseError` for shapes that don't agree, and for stds or
    weights that aren't positive.
    """

    name = "mixture"
    metrics = (
        SWD,
        MMD,
        Metric("modes", "high", "", "modes with at least a quarter of their weight", "Modes held"),
        Metric("off_mode", "low", "share", "of samples far from every mode", "Off-mode share"),
        ACCURACY,
        Metric("diversity", "high", "share", "of pairs made of one given point that lie at different modes"),
    )
    infinite = True

    def __init__(self, means: Tensor, stds: Tensor, weights: Tensor, labels: Tensor):
        count = len(means)
        for what, values in (("stds", stds), ("weights", weights), ("labels", labels)):
            require(
                values.shape == (count,),
                f"A mixture of {count} components needs {count} {what}, not {tuple(values.shape)}.",
            )
        require(
            bool((stds > 0).all() and (weights > 0).all()),
            "The stds and weights of a mixture must be positive.",
        )
        require(bool((labels >= 0).all()), "The labels of a mixture's components count from 0.")
        self.means, self.stds, self.labels = means.double(), stds.double(), labels.long()
        self.weights = weights.double() / weights.double().sum()
        self.shape, self.classes = (means.shape[1],), int(labels.max()) + 1
        require(
            len(self.labels.unique()) == self.classes,
            "Every label of a mixture needs at least one component.",
        )
        self.class_names = tuple(f"class {i}" for i in range(self.classes))
        centre = self.weights @ self.means
        spread = (self.weights @ ((self.means - centre) ** 2)).mean() + self.weights @ self.stds**2
        self.sigma_data = float(spread.sqrt())
        self.network_defaults = {"name": "mlp", "dim": self.shape[0]}

    def exact(self, process: Process) -> MixtureDenoiser:
        return MixtureDenoiser(process, self.means, self.stds, self.weights, self.labels)

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """8,192 draws that are the same every time: the mixture has no other finite data."""
        require(split in ("train", "test"), f"A world has the splits 'train' and 'test', not '{split}'.")
        return self.sample_data(8192, Draws(8192, "mixture", split))

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fresh points and their labels.

        Arguments:
            n: points to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: of the points, (n,), with -1 for any; None for any throughout.

        Returns:
            Points, (n, D) float32, and their labels, (n,).
        """
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        asked = torch.full((n,), -1) if labels is None else labels
        shares = torch.cat(
            [
                self.labels == torch.arange(self.classes)[:, None],
                torch.ones(1, len(self.means), dtype=torch.bool),
            ]
        )
        steps = (shares * self.weights).cumsum(1)
        place = draws.uniform(dtype=torch.float64)[:, None] * steps[asked, -1:]
        component = (place >= steps[asked]).sum(1)
        x = self.means[component] + self.stds[component, None] * draws.normal(
            *self.shape, dtype=torch.float64
        )
        return x.float(), self.labels[component]

    def log_prob(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Exact log density of clean points.

        Arguments:
            x: points, (B, D).
            labels: whose components count, (B,), with -1 for all; None for the whole mixture.

        Returns:
            Log densities in nats, (B,) float64.
        """
        return self._clean.log_prob(x.double(), x.new_zeros(len(x)), labels)

    def class_log_probs(self, x: Tensor) -> Tensor:
        """Exact ``log p(c | x)`` of clean points, (B, classes)."""
        return self._clean.class_log_probs(x.double(), x.new_zeros(len(x)))

    @cached_property
    def _clean(self) -> MixtureDenoiser:
        from stillhouse.core.schedules import Flow

        return self.exact(Flow())

    def _nearest(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distance in standard deviations to the nearest mode (of the label, where given), and which one it
        is."""
        away = torch.cdist(x.double(), self.means) / self.stds
        if labels is not None:
            require_labels(labels, len(self.class_names))
            away = away.masked_fill(labels[:, None] != self.labels, math.inf)
        distance, mode = away.min(1)
        return distance, mode

    def _reach(self) -> float:
        """How many standard deviations still belong to a mode: 4 in 2-D, elsewhere the radius with the same
        mass outside."""
        from scipy.stats import chi2

        return float(float(chi2.isf(math.exp(-8), self.shape[0])) ** 0.5)

    def mode_shares(self, x: Tensor) -> Tensor:
        """The share of the samples ``x`` (B, D) that lies in each mode, (K,); what lies in none is not
        counted."""
        distance, mode = self._nearest(x)
        return torch.bincount(mode[distance <= self._reach()], minlength=len(self.means)) / len(x)

    def modes_held(self, x: Tensor, share: float = 0.25) -> int:
        """How many modes hold their part of the samples.

        Arguments:
            x: samples, (B, D).
            share: of a mode's weight that it must have at least.

        Returns:
            The number of modes.
        """
        return int((self.mode_shares(x) >= share * self.weights).sum())

    def off_mode(self, x: Tensor, labels: Tensor | None = None) -> float:
        """The share of samples outside every mode: farther than 4 standard deviations in two dimensions,
        elsewhere than the radius with the same mass outside.

        Arguments:
            x: samples, (B, D).
            labels: whose modes alone count for each, (B,), at least 0; None for all modes.

        Returns:
            The share.
        """
        return float((self._nearest(x, labels)[0] > self._reach()).double().mean())

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        """The share of samples whose most probable label is their own.

        Arguments:
            x: samples, (B, D).
            labels: what they were made for, (B,), at least 0.

        Returns:
            The share.
        """
        require_labels(labels, len(self.class_names))
        return float((self.class_log_probs(x).argmax(1) == labels).double().mean())

    def measure(
        self, samples: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """``swd`` (sliced W2) and ``mmd`` to as many fresh draws, ``modes`` held, ``off_mode`` mass,
        ``accuracy`` of given labels.

        With labels the fresh draws carry the same ones, so that an even choice of labels isn't counted as an
        error.

        Arguments:
            samples: points, at least 4, (B, D).
            labels: what the samples were made for, (B,); None leaves out the ``accuracy``.
            generator: for the fresh draws and the directions of ``swd``; None for one that is the same every
                time.

        Returns:
            Values by name.
        """
        from stillhouse.metrics.distances import mmd, sliced_wasserstein

        require_samples(self, samples, labels)
        samples, labels = samples.detach().cpu(), None if labels is None else labels.cpu()
        generator = generator or torch.Generator().manual_seed(seed_of("measure", self.name))
        n, seed = len(samples), int(torch.randint(2**31, (1,), generator=generator))
        true, _ = self.sample_data(n, Draws(n, "measure", seed), labels)
        result = {
            "swd": sliced_wasserstein(samples, true, generator=generator),
            "mmd": mmd(samples[:2000], true[:2000]),
            "modes": float(self.modes_held(samples)),
            "off_mode": self.off_mode(samples),
        }
        if labels is not None:
            result["accuracy"] = self.accuracy(samples, labels)
        return result

"""``control``: chunks of actions under a robot's observations, demonstrated by an expert who has two ways."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, as_parts
from stillhouse.core.denoiser import ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import extra, require, required, required_type, unknown
from stillhouse.core.process import Process, expand_to
from stillhouse.forms.views import Clips, Display
from stillhouse.io.data.lerobot import read_lerobot
from stillhouse.metrics.metric import Metric
from stillhouse.worlds.base import World, require_samples
from stillhouse.worlds.control import arena

HORIZON = 8  # actions of a chunk in the arena
EPISODES = {"train": 600, "test": 100}  # demonstrations
NEAR = 0.08  # how far the end of a chunk may lie from the expert's: one step's way
OBSERVATIONS = {"train": 4096, "test": 1024}  # of the bandit
NEIGHBOURS = 16
STD, WITHIN = (
    0.05,
    0.3,
)  # of the bandit's expert, and the distance from one of the two actions that still counts


class BanditDenoiser(ExactDenoiser):
    """Exact posterior mean of an action ``N(±(1, o), std² I)``, both signs alike, under an observation ``o``;
    in float64."""

    def mean(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The posterior mean ``E[x_0 | x_t, o]``.

        With ``v = alpha² std² + sigma²`` and ``m = (1, o)`` the first sign has the share ``sigmoid(2 alpha
        x·m / v)``, so that the mean is ``tanh(alpha x·m / v) m`` plus the shift towards ``x`` that both
        components have in common.

        Arguments:
            x_t: states, (B, 1, 2).
            t: times in [0, 1], (B,).
            cond: observations as ``{"features": (B, 1)}``, which are needed.

        Returns:
            Clean estimates, (B, 1, 2).

        Raises:
            StillhouseError: without observations.
        """
        needed = "The bandit's denoiser needs an observation for each sample."
        observed = required_type(cond, dict, needed).get("features")
        x, o = x_t.double(), required(observed, needed).double()
        alpha, sigma = (expand_to(f(t.double()), x) for f in (self.process.alpha, self.process.sigma))
        v, m = (alpha * STD) ** 2 + sigma**2, torch.stack([torch.ones_like(o), o], 2)
        side = torch.tanh(alpha * (x * m).sum(2, keepdim=True) / v) * m
        return (side + alpha * STD**2 / v * (x - alpha * side)).to(x_t.dtype)


class Control(World):
    """Action chunks (H, A) in [-1, 1] under observations ``{"features": (B, O)}``; a label is the number of a
    demonstration's row.

    ``task``: ``arena``, a point robot that goes around an obstacle on either side, O = 6, (H, A) = (8, 2),
    with a closed loop (:meth:`fleet`); or ``bandit``, its one-shot core, whose denoiser is exact: O = 1, (H,
    A) = (1, 2), an action ±(1, o). ``data``: a folder of one's own demonstrations instead
    (:func:`stillhouse.io.data.lerobot.read_lerobot`), cut into chunks of ``horizon`` actions; a tenth of its
    episodes is held out, ``scales`` holds how its numbers were scaled.
    """

    name = "control"
    metrics = (
        Metric("success", "high", "share", "of actions near one of the expert's"),
        Metric("valid", "high", "share", "of actions that an expert might take"),
        Metric("distance", "low", "", "of a chunk to the nearest that was shown in such a place"),
        Metric("left", "data", "share", "that takes the left of two ways", "Left way"),
    )
    cond_kind = "observation"

    def __init__(self, task: str = "arena", data: str = "", horizon: int = HORIZON):
        if task not in ("arena", "bandit"):
            raise unknown("task of the world 'control' named", task, ("arena", "bandit"))
        require(
            bool(data) or horizon == HORIZON,
            f"Only demonstrations of your own are cut at will; the arena's chunks are {HORIZON} long.",
        )
        self.task, self.sigma_data = "data" if data else task, 0.8 if task == "bandit" else 0.55
        self.shape, self.observation = (
            ((1, 2), 1) if task == "bandit" else ((HORIZON, arena.MOVES), arena.SEEN)
        )
        if data:
            self.shown = read_lerobot(data, horizon)
            self.scales = {name: scale.config() for name, scale in self.shown.scales.items()}
            self.shown_split = "test"
            self.shape, self.observation = tuple(self.shown.chunks.shape[1:]), self.shown.seen.shape[1]
        horizon, actions = self.shape
        spaces = {"features": self.observation}
        self.network_defaults = {
            "name": "temporal",
            "horizon": horizon,
            "actions": actions,
            "channels": (48, 96),
            **spaces,
        }
        if horizon % 2:
            self.network_defaults = {
                "name": "mlp",
                "dim": horizon * actions,
                "width": 128,
                "depth": 2,
                **spaces,
            }

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Observations (N, O) and chunks (N, H, A) of all rows, and the numbers of the rows of each split."""
        if self.task == "data":
            names = self.shown.episode.unique()
            require(len(names) > 1, "One episode is held out: demonstrations need two or more.")
            held = torch.isin(self.shown.episode, names[9::10] if len(names) > 9 else names[-1:])
            return (
                self.shown.seen,
                self.shown.chunks,
                {"train": (~held).nonzero()[:, 0], "test": held.nonzero()[:, 0]},
            )
        made = {split: self._made(split) for split in EPISODES}
        seen, actions = (torch.cat([made[split][i] for split in EPISODES]) for i in (0, 1))
        first = len(made["train"][0])
        return seen, actions, {"train": torch.arange(first), "test": torch.arange(first, len(seen))}

    def _made(self, split: str) -> tuple[Tensor, Tensor]:
        if self.task == "arena":
            return arena.chunks(arena.demonstrate(Draws(EPISODES[split], "arena", split)), HORIZON)
        n = OBSERVATIONS[split]
        draws = Draws(n, "bandit", split)
        seen = draws.uniform(-1, 1, 1)
        return seen, self._act(seen, draws)

    @staticmethod
    def _act(seen: Tensor, draws: Draws) -> Tensor:
        """Actions (B, 1, 2) of the bandit's expert."""
        sign = torch.where(draws.uniform() < 0.5, -1.0, 1.0)[:, None]
        return (sign * torch.cat([torch.ones_like(seen), seen], 1) + STD * draws.normal(2))[:, None]

    def _ids(self, split: str) -> Tensor:
        require(split in EPISODES, f"A world has the splits 'train' and 'test', not '{split}'.")
        return self._rows[2][split]

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """All chunks (N, H, A) of a split and the numbers of their rows (N,): every step of 600 episodes, or
        of 100 others."""
        ids = self._ids(split)
        return self._rows[1][ids], ids

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Chunks of the training split, drawn with replacement.

        Arguments:
            n: chunks to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: numbers of rows of either split, (n,), with -1 for any; None for any throughout.

        Returns:
            Chunks, (n, H, A), and the numbers of their rows, (n,).
        """
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        known = self._ids("train").to(draws.device)
        drawn = known[draws.integers(0, len(known))]
        ids = (
            drawn
            if labels is None
            else torch.where(labels.to(draws.device) < 0, drawn, labels.to(draws.device))
        )
        return self._rows[1][ids.cpu()].to(draws.device), ids

    def condition(self, labels: Tensor | None) -> Condition:
        """``{"features": (B, O)}``: the observations of rows ``labels`` (B,)."""
        if labels is None:
            return None
        seen = self._rows[0]
        low, high = int(labels.min()), int(labels.max())
        require(
            0 <= low and high < len(seen),
            f"Demonstration rows have the numbers 0 … {len(seen) - 1}, not {low if low < 0 else high}.",
        )
        return {"features": seen[labels.cpu()].to(labels.device)}

    def balanced_labels(self, n: int, split: str = "train") -> Tensor:
        """Rows of a split, evenly spread over it; from the start again where there are fewer.

        Arguments:
            n: how many.
            split: ``train`` or ``test``.

        Returns:
            Numbers of rows, (n,).
        """
        ids = self._ids(split)
        return ids[torch.arange(n) * len(ids) // n] if n <= len(ids) else ids[torch.arange(n) % len(ids)]

    def exact(self, process: Process) -> ExactDenoiser:
        """The bandit's posterior mean; the arena has no closed form."""
        require(
            self.task == "bandit",
            "Only task=bandit has a closed-form teacher; for the arena take the shipped one: --teacher "
            "control.",
        )
        return BanditDenoiser(process)

    def measure(
        self, samples: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """How good chunks are under the observations of their rows.

        Bandit: ``success``, the share near one of the two actions (0.3), and ``left``, the share of the first
        among those. Arena: ``valid``, the share of chunks that crash nowhere and end where one of the
        expert's two ways is by then (one step's way off at most), and ``left``, the share of the left way
        among those that begin before the obstacle. Own demonstrations: ``distance``, the mean over chunks of
        the root mean square to the nearest of the 16 training ones whose observations are nearest.

        Arguments:
            samples: chunks, at least 4, (B, H, A).
            labels: numbers of their rows, (B,), which are needed.
            generator: not read; nothing here is random.

        Returns:
            Values by name.

        Raises:
            StillhouseError: without labels.
        """
        require_samples(self, samples, labels)
        require(
            labels is not None,
            "An action is good or bad where something was seen: give the rows' numbers as labels.",
        )
        samples, seen = samples.detach().float().cpu(), as_parts(self.condition(labels))["features"].cpu()
        if self.task == "arena":
            return self._measured(samples, seen)
        if self.task == "data":
            known = self._ids("train")
            near = torch.cdist(seen, self._rows[0][known])
            near = known[near.topk(min(NEIGHBOURS, len(known)), largest=False).indices]
            away = (self._rows[1][near] - samples[:, None]).square().flatten(2).mean(2).sqrt()
            return {"distance": float(away.amin(1).mean())}
        wanted = torch.cat([torch.ones_like(seen), seen], 1)
        away = torch.stack([(samples[:, 0] - sign * wanted).norm(dim=1) for sign in (1, -1)])
        good = away.amin(0) <= WITHIN
        return {"success": float(good.float().mean()), "left": _share(away[0] < away[1], good)}

    @staticmethod
    def _measured(chunks: Tensor, seen: Tensor) -> dict[str, float]:
        """Of the arena."""
        places = arena.follow(seen, chunks)
        safe = ~torch.stack([arena.crashed(at) for at in places.unbind(1)], 1).any(1)
        ends = [
            arena.plan(seen, torch.full((len(seen),), way), chunks.shape[1])[:, -1] for way in (True, False)
        ]
        away = (places[:, -1, :2] - torch.stack(ends)).norm(dim=2)
        good = safe & (away.amin(0) <= NEAR)
        before = seen[:, 0] < seen[:, 4] - arena.CLEARANCE
        return {"valid": float(good.float().mean()), "left": _share(away[0] < away[1], good & before)}

    def floor(self, n: int, seed: int = 0) -> dict[str, float]:
        """The metrics of demonstrated chunks; of own demonstrations those held out, as they are measured
        against the others.

        Arguments:
            n: number of chunks.
            seed: of their draws.

        Returns:
            What :meth:`measure` returns for them.
        """
        draws = Draws(n, "floor", seed)
        if self.task != "data":
            return self.measure(*self.sample_data(n, draws))
        held = self._ids("test")
        return self.measure(*self.sample_data(n, draws, held[draws.integers(0, len(held))]))

    def fleet(self) -> arena.Arena:
        """Episodes of the arena for :func:`stillhouse.metrics.control.success`."""
        require(
            self.task == "arena",
            "Episodes are the arena's alone: the bandit acts once, and demonstrations have no environment.",
        )
        return arena.Arena()

    @property
    def display(self) -> Display:
        return Display(show=self._carried_out)

    def _carried_out(self, samples: Tensor, labels: Tensor | None = None) -> Clips | None:
        """Chunks carried out where rows ``labels`` were seen, (N, H + 1, 3, 48, 48): obstacle grey, goal
        green, robot red."""
        if self.task != "arena" or labels is None:
            return None
        seen = as_parts(self.condition(labels))["features"].cpu()
        places = arena.follow(seen, samples.detach().float().cpu().clamp(-1, 1))
        return Clips(arena.picture(torch.cat([seen[:, None], places], 1)))


def _share(what: Tensor, among: Tensor) -> float:
    """The share of ``what`` (B,) among the rows where ``among`` (B,) holds; 0 where there are none."""
    return float((what & among).sum() / among.sum().clamp_min(1))


def gym_env(**options: Any) -> Any:
    """The arena as an environment of gymnasium, ``stillhouse/Arena-v0``; needs ``stillhouse[control]``."""
    extra("gymnasium", "control")
    from stillhouse.worlds.control.arena_env import ArenaEnv

    return ArenaEnv(**options)

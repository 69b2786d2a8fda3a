"""How a policy does in a closed loop: it predicts a chunk of actions, the head of which is
carried out before it is given the next observations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from stillhouse import forms
from stillhouse.core.draws import seed_of
from stillhouse.core.errors import StillhouseError, require
from stillhouse.model import Model

HEAD = 6  # actions of a chunk that are carried out before the next observation


class Fleet(Protocol):
    """Episodes that run side by side.

    ``limit``: steps after which an episode is lost; ``won, lost, left``: (episodes,), bool.
    """

    limit: int
    won: Tensor
    lost: Tensor
    left: Tensor

    def reset(self, episodes: int, seed: int) -> Tensor:
        """Start all episodes anew.

        Arguments:
            episodes: how many, at least 1.
            seed: their first states follow from it.

        Returns:
            Observations, (episodes, O).
        """
        ...

    def step(self, actions: Tensor) -> Tensor:
        """Carry out ``actions`` (episodes, A) in [-1, 1] where an episode still runs; returns the
        observations then."""
        ...


def success(
    model: Model,
    world: Any,
    episodes: int = 256,
    seed: int = 0,
    *,
    steps: int | None = None,
    head: int = HEAD,
) -> dict[str, float]:
    """How a policy does in a closed loop: it predicts a chunk of actions, the head of which is carried out
    before it is given the next observations.

    Arguments:
        model: a policy of chunks (H, A), conditioned on ``{"features": observations}``.
        world: a world with a ``fleet()``, or a :class:`Fleet`.
        episodes: how many.
        seed: of the episodes' first states, which are the same for every policy, and of the policy's noise.
        steps: of the sampler; None: the model's own.
        head: actions carried out of each chunk, 1 … H.

    Returns:
        ``success``: share of episodes won; ``left``: share of the left way among them; ``lost``: share that
        ended badly before time was up; ``steps``: mean length of the won ones.

    Raises:
        StillhouseError: the model is no policy, ``head`` is out of range, or the environment raises.
    """
    fleet: Fleet = world.fleet() if hasattr(world, "fleet") else world
    require(
        forms.of(model).policy,
        f"A closed loop needs a policy of action chunks, not a model of {model.form}.",
    )
    horizon = model.shape[0]
    require(
        1 <= head <= horizon,
        f"Of a chunk of {horizon} actions 1 to {horizon} can be carried out, not {head}.",
    )
    seen, length, chunk = fleet.reset(episodes, seed), torch.zeros(episodes), torch.empty(0)
    for step in range(fleet.limit):
        running = ~(fleet.won | fleet.lost)
        if not running.any():
            break
        if step % head == 0:
            noise = seed_of("policy", seed, step) % 2**31
            chunk = model.sample(episodes, {"features": seen}, steps=steps, seed=noise).cpu()
        seen = fleet.step(chunk[:, step % head])
        length += running
    won = fleet.won
    among = won.sum().clamp_min(1)
    return {
        "success": float(won.float().mean()),
        "left": float((fleet.left & won).sum() / among),
        "lost": float(fleet.lost.float().mean()),
        "steps": float(length[won].sum() / among),
    }


class GymFleet:
    """Environments of gymnasium as a :class:`Fleet`, one an episode.

    An episode is won where ``info["is_success"]`` is true at its end, or, in environments without it, where
    it terminates with a positive reward; ``info["left"]`` is its way. Raises :class:`StillhouseError`, with
    episode and step, for an environment that raises.

    Arguments:
        make: makes one environment; its observations are vectors, or dicts of such.
        limit: steps after which an episode is lost, at least 1.
    """

    def __init__(self, make: Callable[[], Any], limit: int = 48):
        require(limit >= 1, f"An episode has at least one step, not {limit}.")
        self.make, self.limit = make, limit

    def reset(self, episodes: int, seed: int) -> Tensor:
        """Make the environments and start them.

        Arguments:
            episodes: how many, at least 1.
            seed: of the first environment; the next ones have the numbers after it.

        Returns:
            Observations, (episodes, O).
        """
        require(episodes >= 1, f"A closed loop needs at least one episode, not {episodes}.")
        self.won, self.lost, self.left = torch.zeros(3, episodes, dtype=torch.bool).unbind()
        self.envs, self.steps = [self.make() for _ in range(episodes)], 0
        self.seen = torch.stack(
            [
                vector(self._observed(i, partial(env.reset, seed=seed + i))[0])
                for i, env in enumerate(self.envs)
            ]
        )
        return self.seen

    def step(self, actions: Tensor) -> Tensor:
        self.steps += 1
        for i, env in enumerate(self.envs):
            if self.won[i] or self.lost[i]:
                continue
            seen, reward, ended, cut, info = self._observed(i, partial(env.step, actions[i].numpy()))
            self.seen = torch.cat([self.seen[:i], vector(seen)[None], self.seen[i + 1 :]])
            self.left[i] = bool(info.get("left", self.left[i]))
            if ended or cut:
                good = info.get("is_success", ended and float(reward) > 0)
                self.won[i], self.lost[i] = bool(good), not good
        return self.seen

    def _observed(self, episode: int, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except (
            Exception
        ) as error:  # an environment is foreign code: whatever goes wrong in it, its user hears where
            what = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
            where = f"in episode {episode} at step {self.steps}"
            raise StillhouseError(
                f"The environment raised {type(error).__name__} {where}: {what.rstrip('.')}."
            ) from error


def vector(seen: Any) -> Tensor:
    """An observation of gymnasium as one vector (O,) float32; the parts of a dict one after the other, by
    name."""
    parts = [seen[name] for name in sorted(seen)] if isinstance(seen, dict) else [seen]
    return torch.cat([torch.as_tensor(part, dtype=torch.float32).flatten() for part in parts])

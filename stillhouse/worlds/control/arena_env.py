"""The arena as an environment of gymnasium:
``gymnasium.make("stillhouse.worlds.control.arena_env:stillhouse/Arena-v0")``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from stillhouse.worlds.control import arena


class ArenaEnv(gymnasium.Env):
    """One robot of :class:`stillhouse.worlds.control.arena.Arena`. Reward: the way gained towards the goal,
    +1 on arrival, -1 at a crash.

    ``info``: ``is_success``, and ``left``, whether it passed the obstacle on the left.
    ``render_mode="rgb_array"`` gives pictures (side, side, 3) uint8.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None, side: int = 96):
        self.render_mode, self.side, self._arena = render_mode, side, arena.Arena()
        self.observation_space = spaces.Box(-1.0, 1.0, (arena.SEEN,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (arena.MOVES,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new episode.

        Arguments:
            seed: of the episode; None goes on with the environment's own random numbers.
            options: not read.

        Returns:
            The first observation, (6,) float32, and ``info``.
        """
        super().reset(seed=seed)
        start = int(self.np_random.integers(2**31)) if seed is None else seed
        seen = self._arena.reset(1, start)
        self._steps = 0
        return seen[0].numpy(), {"is_success": False, "left": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        before = self._far()
        seen = self._arena.step(torch.as_tensor(np.asarray(action), dtype=torch.float32)[None])
        self._steps += 1
        won, lost, left = bool(self._arena.won), bool(self._arena.lost), bool(self._arena.left)
        reward = before - self._far() + won - lost
        return (
            seen[0].numpy(),
            reward,
            won or lost,
            self._steps >= arena.LIMIT,
            {"is_success": won, "left": left},
        )

    def _far(self) -> float:
        return float((self._arena.seen[0, :2] - self._arena.seen[0, 2:4]).norm())

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        last = arena.picture(torch.stack(self._arena.path, 1), self.side)[0, -1]
        return ((last + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


gymnasium.register("stillhouse/Arena-v0", entry_point="stillhouse.worlds.control.arena_env:ArenaEnv")

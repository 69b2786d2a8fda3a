"""The arena: a point robot has to reach a goal behind a round obstacle, which it may pass on either side.
Many robots at once.

The plane is [-1, 1]², ``y`` runs up. An observation is the places of robot, goal and obstacle; an action is a
velocity in [-1, 1]², ``SPEED`` times which the robot moves in a step. It has won within ``REACH`` of the
goal, and lost when it touches the obstacle or time is up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.errors import require

SEEN, MOVES = 6, 2  # numbers of an observation and of an action
RADIUS, CLEARANCE = 0.4, 0.5  # of the obstacle, and of the circle around it that the expert keeps out of
SPEED, REACH, LIMIT = 0.08, 0.08, 48  # way of one step, distance that counts as arrived, steps of an episode
TREMBLE = 0.05  # standard deviation of the expert's hand
PAPER, OBSTACLE, GOAL, ROBOT, TRAIL = (
    (0.96, 0.96, 0.94),
    (0.35, 0.37, 0.42),
    (0.16, 0.62, 0.36),
    (0.85, 0.25, 0.18),
    (0.95, 0.72, 0.65),
)


def begin(draws: Draws) -> Tensor:
    """First observations (rows, 6): robot on the left, goal on the right, obstacle between them, none of them
    twice at one place."""
    low = torch.tensor([-0.7, -0.2, 0.75, -0.3, -0.05, -0.05])
    high = torch.tensor([-0.6, 0.2, 0.85, 0.3, 0.05, 0.05])
    return low + (high - low) * draws.uniform(0, 1, SEEN)


def move(seen: Tensor, action: Tensor) -> Tensor:
    """Observations after one step; the robot stays in the plane.

    Arguments:
        seen: observations, (B, 6).
        action: velocities, (B, 2), which are cut to [-1, 1].

    Returns:
        The observations then, (B, 6).
    """
    place = (seen[:, :2] + SPEED * action.clamp(-1, 1)).clamp(-1, 1)
    return torch.cat([place, seen[:, 2:]], 1)


def arrived(seen: Tensor) -> Tensor:
    """Whether the robots are at their goals, (B,)."""
    near: Tensor = (seen[:, :2] - seen[:, 2:4]).norm(dim=1) <= REACH
    return near


def crashed(seen: Tensor) -> Tensor:
    """Whether the robots touch their obstacles, (B,)."""
    near: Tensor = (seen[:, :2] - seen[:, 4:]).norm(dim=1) < RADIUS
    return near


def expert(seen: Tensor, left: Tensor) -> Tensor:
    """The expert's action: along the tangent of the circle of ``CLEARANCE`` on its side while the circle is
    between robot and goal; else straight to the goal.

    Arguments:
        seen: observations, (B, 6).
        left: whether the obstacle is passed on the left, else on the right, bool (B,).

    Returns:
        Velocities, (B, 2), of length 1 at most.
    """
    to_goal, to_obstacle = seen[:, 2:4] - seen[:, :2], seen[:, 4:] - seen[:, :2]
    far, away = to_goal.norm(dim=1, keepdim=True), to_obstacle.norm(dim=1, keepdim=True)
    straight = to_goal / far.clamp_min(1e-6)
    along = (to_obstacle * straight).sum(
        1, keepdim=True
    )  # how far ahead the obstacle's centre is, and how far off the line
    across = straight[:, :1] * to_obstacle[:, 1:] - straight[:, 1:] * to_obstacle[:, :1]
    turn = torch.where(left, 1.0, -1.0)[:, None].to(seen)
    # the centre lies ahead, and not yet so far on the other side that the straight line passes it where it
    # should
    blocked = (along > 0) & (along < far) & (-turn * across < CLEARANCE)
    angle = turn * torch.asin((CLEARANCE / away.clamp_min(1e-6)).clamp(max=1))
    ahead = to_obstacle / away.clamp_min(1e-6)
    tangent = torch.cat(
        [
            angle.cos() * ahead[:, :1] - angle.sin() * ahead[:, 1:],
            angle.sin() * ahead[:, :1] + angle.cos() * ahead[:, 1:],
        ],
        1,
    )
    return torch.where(blocked, tangent, straight * (far / SPEED).clamp(max=1))


def plan(seen: Tensor, left: Tensor, horizon: int) -> Tensor:
    """The way of an expert without tremor.

    Arguments:
        seen: observations at the start, (B, 6).
        left: whether the obstacle is passed on the left, bool (B,).
        horizon: steps.

    Returns:
        The robot's place after each step, (B, horizon, 2).
    """
    places, there = [], arrived(seen)
    for _ in range(horizon):
        seen = torch.where(there[:, None], seen, move(seen, expert(seen, left)))
        there = there | arrived(seen)
        places.append(seen[:, :2])
    return torch.stack(places, 1)


def follow(seen: Tensor, actions: Tensor) -> Tensor:
    """The observations along chunks of actions.

    Arguments:
        seen: observations at the start, (B, 6).
        actions: velocities, (B, H, 2), which are cut to [-1, 1].

    Returns:
        The observations after each action, (B, H, 6).
    """
    places = []
    for action in actions.unbind(1):
        seen = move(seen, action)
        places.append(seen)
    return torch.stack(places, 1)


@dataclass(frozen=True)
class Demonstrations:
    """``seen`` (E, LIMIT + 1, 6), ``actions`` (E, LIMIT, 2), zero after the goal; ``length`` (E,): steps
    until it; ``left`` (E,)."""

    seen: Tensor
    actions: Tensor
    length: Tensor
    left: Tensor


def demonstrate(draws: Draws) -> Demonstrations:
    """Episodes of the expert, ``draws.rows`` of them, with a random side each and normal noise of ``TREMBLE``
    on every action."""
    seen, left = begin(draws), draws.uniform() < 0.5
    length = torch.full((draws.rows,), LIMIT)
    places, actions = [seen], []
    for step in range(LIMIT):
        going = (length == LIMIT)[:, None]
        action = (expert(seen, left) + TREMBLE * draws.normal(MOVES)).clamp(-1, 1) * going
        seen = move(seen, action)
        length = torch.where((length == LIMIT) & arrived(seen), step + 1, length)
        places.append(seen)
        actions.append(action)
    return Demonstrations(torch.stack(places, 1), torch.stack(actions, 1), length, left)


def chunks(shown: Demonstrations, horizon: int) -> tuple[Tensor, Tensor]:
    """Every step of every episode, and the actions from it on. Where an episode ends inside a chunk the robot
    stays where it is.

    Arguments:
        shown: the episodes.
        horizon: actions of a chunk.

    Returns:
        Observations, (N, 6), and the actions that followed, (N, horizon, 2).
    """
    padded = torch.cat([shown.actions, shown.actions.new_zeros(len(shown.actions), horizon, MOVES)], 1)
    windows = padded.unfold(1, horizon, 1)[:, :LIMIT].transpose(2, 3)
    kept = torch.arange(LIMIT) < shown.length[:, None]
    return shown.seen[:, :LIMIT][kept], windows[kept]


class Arena:
    """Episodes of many robots at once, as :class:`stillhouse.metrics.control.Fleet`: an episode that is over
    stands still."""

    limit = LIMIT

    def reset(self, episodes: int, seed: int) -> Tensor:
        """Start new episodes.

        Arguments:
            episodes: how many, at least 1.
            seed: from which they all follow.

        Returns:
            The first observations, (episodes, 6).
        """
        require(episodes >= 1, f"A closed loop needs at least one episode, not {episodes}.")
        self.seen = begin(Draws(episodes, "arena", seed))
        self.won = torch.zeros(episodes, dtype=torch.bool)
        self.lost = torch.zeros(episodes, dtype=torch.bool)
        self.left = torch.zeros(episodes, dtype=torch.bool)
        self.path = [self.seen]
        return self.seen

    def step(self, actions: Tensor) -> Tensor:
        """Carry out ``actions`` (episodes, 2); returns the observations then, (episodes, 6)."""
        going = ~self.over
        passing = (self.seen[:, 0] < self.seen[:, 4]) & going
        self.seen = torch.where(going[:, None], move(self.seen, actions.to(self.seen)), self.seen)
        passing &= self.seen[:, 0] >= self.seen[:, 4]
        self.left = torch.where(passing, self.seen[:, 1] > self.seen[:, 5], self.left)
        self.lost |= going & crashed(self.seen)
        self.won |= going & ~self.lost & arrived(self.seen)
        self.path.append(self.seen)
        return self.seen

    @property
    def over(self) -> Tensor:
        """Which episodes have come to their end, (episodes,)."""
        return self.won | self.lost


def picture(paths: Tensor, side: int = 48) -> Tensor:
    """Moving pictures of episodes: the robot and the way that it came.

    Arguments:
        paths: observations, (B, T, 6).
        side: of the pictures, in pixels.

    Returns:
        Pictures in [-1, 1], (B, T, 3, side, side).
    """
    line = (torch.arange(side, dtype=torch.float32) + 0.5) * (2 / side) - 1
    x, y, blur = line, -line[:, None], side / 2

    def cover(places: Tensor, radius: float) -> Tensor:
        """How much of each pixel a disc covers, (…, side, side)."""
        apart = torch.hypot(x - places[..., :1, None], y - places[..., 1:2, None])
        return ((radius - apart) * blur + 0.5).clamp(0, 1)

    frames = torch.tensor(PAPER)[:, None, None].expand(*paths.shape[:2], 3, side, side)
    trail = cover(paths[..., :2], 0.035).cummax(1).values
    layers = (
        (OBSTACLE, cover(paths[..., 4:], RADIUS)),
        (GOAL, cover(paths[..., 2:4], REACH)),
        (TRAIL, trail),
        (ROBOT, cover(paths[..., :2], 0.07)),
    )
    for colour, mask in layers:
        frames = torch.lerp(frames, torch.tensor(colour)[:, None, None].expand_as(frames), mask[:, :, None])
    return 2 * frames - 1

"""The closed loop, with policies that are known by heart."""

import pytest
import torch

from stillhouse.core.denoiser import ExactDenoiser
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.metrics.control import GymFleet, success
from stillhouse.model import Model
from stillhouse.samplers.sampling import Sampling
from stillhouse.worlds.base import get_world
from stillhouse.worlds.control import arena
from stillhouse.worlds.control.world import gym_env


class Known(ExactDenoiser):
    """A policy that carries out ``act(seen) -> (B, 2)`` step by step in its head."""

    def __init__(self, act):
        super().__init__(Flow())
        self.act = act

    def mean(self, x_t, t, cond):
        seen, actions = cond["features"], []
        for _ in range(x_t.shape[1]):
            actions.append(self.act(seen))
            seen = arena.move(seen, actions[-1])
        return torch.stack(actions, 1)


def policy(act):
    return Model(Known(act), (8, 2), 0, {1: Sampling([1.0, 0.0], "renoise")}, cond_kind="observation")


def towards(left):
    return lambda seen: arena.expert(seen, torch.full((len(seen),), left))


@pytest.fixture(scope="module")
def world():
    return get_world("control")


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("head", [1, 4, 8])
def test_the_expert_wins_every_episode_on_its_side(world, left, head):
    found = success(policy(towards(left)), world, 50, head=head)
    assert found["success"] == 1 and found["left"] == left and found["lost"] == 0 and 18 < found["steps"] < 30


def test_the_mean_of_both_ways_gets_nowhere(world):
    """It stops where the two point away from each other; straight ahead is the obstacle; who does nothing
    runs out of time."""
    nothing = {"success": 0.0, "left": 0.0, "lost": 0.0, "steps": 0.0}
    assert (
        success(policy(lambda seen: (towards(True)(seen) + towards(False)(seen)) / 2), world, 50) == nothing
    )
    ahead = success(policy(lambda seen: torch.tensor([[1.0, 0.0]]).expand(len(seen), 2)), world, 50)
    assert ahead["success"] == 0 and ahead["lost"] == 1
    assert success(policy(lambda seen: torch.zeros(len(seen), 2)), world, 8) == nothing


def test_the_policy_looks_again_after_the_head_and_is_cut_off_at_the_limit(world):
    asked = []

    def still(seen):
        asked.append(len(seen))
        return torch.zeros(len(seen), 2)

    success(policy(still), world, 3, head=5)
    assert len(asked) == 8 * -(-arena.LIMIT // 5) and set(asked) == {3}


def test_environments_of_gymnasium_run_alike(world):
    pytest.importorskip("gymnasium")
    fleet = GymFleet(gym_env)
    mine = success(policy(towards(True)), fleet, 6)
    assert mine["success"] == 1 and mine["left"] == 1
    crashed = success(
        policy(lambda seen: torch.tensor([[1.0, 0.0]]).expand(len(seen), 2)), GymFleet(gym_env), 4
    )
    assert crashed["success"] == 0 and crashed["lost"] > 0


class Broken:
    """An environment that fails in its third step."""

    def __init__(self):
        self.steps = 0

    def reset(self, seed):
        return torch.zeros(6).numpy(), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 3:
            raise RuntimeError("the gripper is stuck.\nand more")
        return torch.zeros(6).numpy(), 0.0, False, False, {}


def test_an_environment_that_raises_is_told_in_one_sentence():
    with pytest.raises(StillhouseError) as caught:
        success(policy(lambda seen: torch.zeros(len(seen), 2)), GymFleet(Broken), 2)
    assert (
        str(caught.value)
        == "The environment raised RuntimeError in episode 0 at step 3: the gripper is stuck."
    )


def test_what_does_not_fit_is_refused(world):
    with pytest.raises(StillhouseError, match="1 to 8 can be carried out, not 9"):
        success(policy(towards(True)), world, 2, head=9)
    with pytest.raises(StillhouseError, match="at least one episode, not 0"):
        success(policy(towards(True)), world, 0)
    image = Model(Known(towards(True)), (1, 8, 8), 0, {1: Sampling([1.0, 0.0], "renoise")})
    with pytest.raises(StillhouseError, match="not a model of image"):
        success(image, world, 2)

"""The arena's physics and its two-way expert, and the bandit's exact denoiser."""

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import VE, Cosine, Flow
from stillhouse.worlds.base import get_world
from stillhouse.worlds.control.world import EPISODES, STD, arena, gym_env


@pytest.fixture(scope="module")
def world():
    return get_world("control")


@pytest.fixture(scope="module")
def bandit():
    return get_world("control", task="bandit")


def place(x, y, goal=(0.8, 0.0), obstacle=(0.0, 0.0)):
    return torch.tensor([[x, y, *goal, *obstacle]])


# -- the arena -------------------------------------------------------------------------------------
def test_a_step_moves_by_the_velocity_and_no_further_than_it_may():
    seen = arena.move(place(0.5, 0.5), torch.tensor([[0.5, -3.0]]))
    torch.testing.assert_close(seen[0, :2], torch.tensor([0.5 + 0.5 * arena.SPEED, 0.5 - arena.SPEED]))
    assert torch.equal(
        arena.move(place(0.99, 0.0), torch.tensor([[1.0, 0.0]]))[0, :2], torch.tensor([1.0, 0.0])
    )


@pytest.mark.parametrize("left", [True, False])
def test_the_expert_reaches_every_goal_on_the_side_it_chose_and_keeps_its_distance(left):
    seen = arena.begin(Draws(200, "begin"))
    way = torch.full((200,), left)
    places = arena.plan(seen, way, arena.LIMIT)
    assert bool(((places[:, -1] - seen[:, 2:4]).norm(dim=1) <= arena.REACH).all())
    apart = (places - seen[:, None, 4:]).norm(dim=2)
    assert float(apart.min()) > arena.CLEARANCE - 0.02
    beside = (places[..., 0] >= seen[:, None, 4]).float().argmax(1)  # the first step past the obstacle
    above = places[torch.arange(200), beside, 1] > seen[:, 5]
    assert bool((above == left).all())


def test_straight_ahead_hits_the_obstacle():
    seen = place(-0.8, 0.02)
    straight = torch.tensor([[[1.0, 0.0]]]).expand(1, 12, 2)
    assert bool(arena.crashed(arena.follow(seen, straight)[0]).any())


def test_demonstrations_take_both_ways_and_end_at_the_goal(world):
    shown = arena.demonstrate(Draws(300, "test"))
    assert 0.4 < float(shown.left.float().mean()) < 0.6
    assert bool(arena.arrived(shown.seen[:, -1]).all()) and not any(
        bool(arena.crashed(at).any()) for at in shown.seen.unbind(1)
    )
    seen, chunks = arena.chunks(shown, 8)
    assert len(seen) == int(shown.length.sum()) and chunks.shape == (len(seen), 8, 2)
    first = int(shown.length[0])
    assert torch.equal(chunks[first - 1, 0], shown.actions[0, first - 1]) and not chunks[first - 1, 1:].any()
    assert torch.equal(chunks[0], shown.actions[0, :8]) and torch.equal(seen[first], shown.seen[1, 0])


def test_the_data_is_valid_the_same_every_time_and_split(world):
    x, labels = world.data()
    again, _ = get_world("control").data()
    assert torch.equal(x, again) and x.abs().max() <= 1 and x.shape[1:] == world.shape
    held, rest = world.data("test")
    assert len(set(labels.tolist()) & set(rest.tolist())) == 0 and len(held) > 10 * EPISODES["test"]
    true = world.measure(held, rest)
    assert true["valid"] > 0.98 and 0.35 < true["left"] < 0.65
    mean = world.measure(torch.zeros_like(held), rest)  # a robot that does nothing
    assert mean["valid"] < 0.1
    others = world.measure(held.roll(500, 0), rest)
    assert others["valid"] < 0.3
    assert 0.5 < float(x.std()) < 0.6  # what EDM preconditioning is told


def test_what_is_heard_belongs_to_the_rows(world):
    x, labels = world.sample_data(50, Draws(50, "rows"))
    again, _ = world.sample_data(50, Draws(50, "other"), labels)
    assert torch.equal(x, again) and world.condition(labels)["features"].shape == (50, 6)
    assert torch.equal(world.condition(labels[:1])["features"], world.condition(labels)["features"][:1])
    assert len(world.balanced_labels(10)) == 10 and len(world.balanced_labels(5000, "test").unique()) == len(
        world.data("test")[0]
    )
    with pytest.raises(StillhouseError, match="rows have the numbers"):
        world.condition(torch.tensor([10**6]))
    with pytest.raises(StillhouseError, match="give the rows' numbers"):
        world.measure(x)


def test_frames_show_the_robot_on_its_way(world):
    x, labels = world.data("test")
    frames = world.display.view(x[:2], labels[:2]).clips
    assert frames.shape == (2, 9, 3, 48, 48) and float(frames.min()) >= -1 and float(frames.max()) <= 1
    moved = (frames[0, 0] - frames[0, -1]).abs().amax(0) > 0.2
    assert 10 < int(moved.sum()) < 400  # the robot and its trail, nothing else
    grey = (frames[0, 0] - (2 * torch.tensor(arena.OBSTACLE) - 1)[:, None, None]).abs().amax(0) < 0.02
    assert abs(float(grey.sum()) / 48**2 * 4 - 3.14 * arena.RADIUS**2) < 0.06  # its area in the plane


def test_episodes_that_are_over_stand_still():
    fleet = arena.Arena()
    fleet.reset(64, 3)
    for _ in range(4):
        seen = fleet.step(torch.tensor([[1.0, 0.0]]).expand(64, 2))
    assert bool(fleet.lost.any()) and not bool((fleet.lost & fleet.won).any())
    over = fleet.over.clone()
    again = fleet.step(torch.tensor([[0.0, 1.0]]).expand(64, 2))
    assert 0 < int(over.sum()) < 64 and torch.equal(again[over], seen[over])
    assert bool(((again - seen)[~over, 1] - arena.SPEED).abs().max() < 1e-6)
    first = arena.Arena().reset(64, 3)
    assert torch.equal(first, arena.Arena().reset(64, 3)) and not torch.equal(
        first, arena.Arena().reset(64, 4)
    )


def test_it_is_an_environment_of_gymnasium():
    pytest.importorskip("gymnasium")
    import gymnasium
    from gymnasium.utils.env_checker import check_env

    env = gym_env(render_mode="rgb_array", side=32)
    check_env(env, skip_render_check=True)
    made = gymnasium.make("stillhouse.worlds.control.arena_env:stillhouse/Arena-v0")
    seen, _ = made.reset(seed=5)
    total, left = 0.0, torch.tensor([True])
    for _ in range(arena.LIMIT):
        seen, reward, ended, cut, info = made.step(arena.expert(torch.tensor(seen)[None], left)[0].numpy())
        total += reward
        if ended or cut:
            break
    assert (
        ended and info == {"is_success": True, "left": True} and 2.2 < total < 2.7
    )  # the way to the goal, and 1 for being there
    env.reset(seed=1)
    assert env.render().shape == (32, 32, 3)


# -- the bandit ------------------------------------------------------------------------------------
@pytest.mark.parametrize("process", [Flow(), Cosine(), VE()])
def test_the_exact_denoiser_is_the_posterior_mean(bandit, process):
    exact, o, t = (
        bandit.exact(process),
        torch.tensor([[0.4]], dtype=torch.float64),
        torch.tensor([0.6], dtype=torch.float64),
    )
    x = torch.tensor([[[0.3, -0.2]]], dtype=torch.float64)
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    # by brute force: a fine grid around both actions
    side = torch.linspace(-1.6, 1.6, 1601, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    m = torch.tensor([1.0, 0.4], dtype=torch.float64)
    prior = torch.stack([-((grid - s * m) ** 2).sum(1) / (2 * STD**2) for s in (1, -1)]).logsumexp(0)
    weight = (prior - ((x[0] - alpha * grid) ** 2).sum(1) / (2 * sigma**2)).softmax(0)
    torch.testing.assert_close(exact(x, t, {"features": o}).x0[0, 0], weight @ grid, atol=1e-6, rtol=0)


def test_the_bandits_mean_action_fails_and_its_data_does_not(bandit):
    x, labels = bandit.data("test")
    assert bandit.measure(x, labels)["success"] > 0.999 and 0.45 < bandit.measure(x, labels)["left"] < 0.55
    assert bandit.measure(torch.zeros_like(x), labels) == {"success": 0.0, "left": 0.0}
    wanted = torch.cat([torch.ones(len(x), 1), bandit.condition(labels)["features"]], 1)[:, None]
    assert bandit.measure(wanted, labels) == {"success": 1.0, "left": 1.0}
    assert abs(float(x.std()) - bandit.sigma_data) < 0.05


def test_what_a_task_lacks_is_said(world, bandit):
    with pytest.raises(StillhouseError, match="Only task=bandit has a closed-form teacher"):
        world.exact(Flow())
    with pytest.raises(StillhouseError, match="Episodes are the arena's alone"):
        bandit.fleet()
    with pytest.raises(
        StillhouseError, match="no task of the world 'control' named 'aren'; did you mean 'arena'"
    ):
        get_world("control", task="aren")

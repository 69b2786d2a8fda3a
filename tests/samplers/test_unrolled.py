"""A walk as a sum of noise and answers gives what the sampler gives."""

import pytest
import torch

from stillhouse.core.bridge import Brownian, ResShift
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import VE, Cosine, Flow, ScaledLinearVP
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling, Stream
from stillhouse.samplers.unrolled import Given, Unrolled, plan_of
from stillhouse.worlds.base import get_world

ROWS = 5


def network(process, kind="velocity", **options):
    net = get_world("mixture").network(process, kind=kind, **{"width": 16, "depth": 1, **options})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return net


def off(net, sampling, label=True):
    """The largest difference between the graph and the sampler, in units of the samples' size."""
    told = {"label": torch.arange(ROWS)} if label else {}
    module = Unrolled(net, sampling, (2,), tuple(told))
    noises = [Draws(ROWS, "noise", i).normal(2) for i in range(module.plan.noises)]
    whole = torch.stack(noises, 1) if len(noises) > 1 else noises[0]
    cond = told["label"] if label else None
    with torch.no_grad():
        mine = module(*([whole] if module.plan.takes_noise else []), *told.values())
    expected = draw_samples(net, sampling, (2,), cond, Given(noises))
    return float((mine - expected).abs().max() / expected.abs().max()), module.plan


SOLVERS = [
    "ddim",
    {"name": "ddim", "eta": 0.7},
    "heun",
    "dpm++",
    "unipc",
    "renoise",
    {"name": "renoise", "gamma": 0.4},
    "leap",
]


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("process", [Flow(), Cosine(), VE(), ScaledLinearVP()], ids=lambda p: p.name)
def test_every_solver_on_every_process(solver, process):
    grid = [0.96, 0.6, 0.3, 0.0]
    difference, _ = off(network(process, "edm" if process.name == "ve" else "v"), Sampling(grid, solver))
    assert difference < 2e-5


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "velocity", "edm", "bounded", "score"])
def test_every_kind_of_network(kind):
    assert off(network(Cosine(), kind), Sampling([0.9, 0.5, 0.0], "renoise"))[0] < 1e-5


def test_guidance_is_two_calls_of_one_state_and_no_condition_is_one():
    net = network(Flow())
    difference, plan = off(net, Sampling([1.0, 0.5, 0.0], "ddim", guidance=3.0))
    assert difference < 2e-5 and [call.conditional for call in plan.calls] == [True, False] * 2
    assert plan.calls[0].state == plan.calls[1].state
    difference, plan = off(net, Sampling([1.0, 0.5, 0.0], "ddim", guidance=3.0), label=False)
    assert difference < 2e-5 and [call.conditional for call in plan.calls] == [False] * 2


def test_what_a_network_hears_as_numbers():
    net = network(Flow(), two_time=True)
    difference, plan = off(net, Sampling([1.0, 0.5, 0.0], "ddim"))
    assert difference < 2e-5 and [(c.numbers["t"], c.numbers["s"]) for c in plan.calls] == [
        (1.0, 0.5),
        (0.5, 0.0),
    ]
    net = network(Flow(), guidance_input=True)
    difference, plan = off(net, Sampling([1.0, 0.0], "ddim", guidance=2.0))
    assert difference < 2e-5 and [c.numbers for c in plan.calls] == [{"t": 1.0, "guidance": 2.0}]


def test_one_step_by_hand():
    """Flow, velocity: the sample is ``z - raw``."""
    plan = plan_of(network(Flow()), Sampling([1.0, 0.0], "renoise"), True)
    assert len(plan.calls) == 1 and plan.calls[0].state.noise == {0: 1.0} and plan.calls[0].state.pred == {}
    assert plan.sample.noise == pytest.approx({0: 1.0}) and plan.sample.pred == pytest.approx({0: -1.0})


def test_a_deterministic_student_hears_no_noise():
    net, still = network(Flow()), Sampling([1.0, 0.0], "renoise", start=0.0)
    module = Unrolled(net, still, (2,), ("label",))
    assert module.inputs == ("label",) and not module.plan.takes_noise
    labels = torch.arange(ROWS)
    with torch.no_grad():
        expected = draw_samples(net, still, (2,), labels, Draws(ROWS, "any"))
        torch.testing.assert_close(module(labels), expected)
    with pytest.raises(StillhouseError, match="neither noise nor a condition"):
        Unrolled(net, still, (2,))


@pytest.mark.parametrize("process", [Brownian(0.6), ResShift(steps=4)], ids=lambda p: p.name)
def test_bridges_start_from_their_image(process):
    world = get_world("photos")
    net = world.network(process, kind="x0", channels=(8, 8))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    sampling, image = Sampling([1.0, 0.5, 0.0], "bridge"), Draws(2, "image").normal(*world.shape)
    module = Unrolled(net, sampling, world.shape, ("image",))
    noises = [Draws(2, "noise", i).normal(*world.shape) for i in range(module.plan.noises)]
    with torch.no_grad():
        mine = module(torch.stack(noises, 1) if len(noises) > 1 else noises[0], image)
        expected = net.process.to_data(
            draw_samples(net, sampling, world.shape, {"image": image}, Given(noises)), {"image": image}
        )
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


def test_what_has_no_network_or_no_sums_is_refused():
    world = get_world("mixture")
    with pytest.raises(
        StillhouseError, match="Only a network of one's own can be unrolled, not a MixtureDenoiser"
    ):
        plan_of(world.exact(Flow()), Sampling([1.0, 0.0], "ddim"), False)
    with pytest.raises(StillhouseError, match="A stream keeps what it has made"):
        plan_of(network(Flow()), Sampling([1.0, 0.0], "ddim", stream=Stream(2)), False)

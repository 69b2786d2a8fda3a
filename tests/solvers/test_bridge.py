"""The stochastic step of a bridge: its marginals, its shown noise, its refusals."""

import pytest
import torch

from stillhouse.core.bridge import I2SB, Brownian, ResShift
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.prediction import X0, At, Prediction
from stillhouse.core.process import expand_to
from stillhouse.core.schedules import Flow
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers import make_solver
from stillhouse.solvers.bridge import Posterior

torch.set_num_threads(1)
BRIDGES = [Brownian(0.6), I2SB(), ResShift()]


class Knows(torch.nn.Module):
    """A denoiser that knows every ``r_0`` to be 1, and keeps what it was shown."""

    two_time = False

    def __init__(self, process):
        super().__init__()
        self.process, self.seen = process, []

    def forward(self, x, t, cond=None, **extra):
        self.seen.append(x)
        return Prediction(torch.ones_like(x), X0(), At(self.process, t, x))


def test_posterior_walk_keeps_a_gaussian_exact():
    """Shown the true ``r_0``, every step of the solver lands on the marginal of the bridge."""
    for bridge in BRIDGES:
        draws, s = Draws(40000, "walk"), torch.tensor([0.4], dtype=torch.float64)
        start = expand_to(bridge.alpha(torch.ones(1)), torch.ones(1, 1)) + bridge.start(draws, (1,))
        x = rollout(Knows(bridge), start, [1.0, 0.8, 0.4], Posterior(), draws=draws)
        assert x.mean().item() == pytest.approx(bridge.alpha(s).item(), abs=0.03)
        assert x.std().item() == pytest.approx(bridge.sigma(s).item(), rel=0.02)
        assert torch.equal(
            rollout(Knows(bridge), start, [1.0, 0.8, 0.0], Posterior(), draws=draws), torch.ones_like(x)
        )


def test_shown_noise_is_for_the_network_alone():
    """The state at the pinned end is 0: without noise the network sees that, with it its ``z``; the state
    goes on without ``z``."""
    for noise in (0.0, 1.5):
        knows = Knows(BRIDGES[0])
        x = rollout(knows, torch.zeros(20000, 1), [1.0, 1e-6], Posterior(noise), draws=Draws(20000, "z"))
        assert knows.seen[0].std().item() == pytest.approx(noise, rel=0.02)
        assert float((x - 1).abs().max()) < 0.01


def test_refusals():
    assert make_solver(Posterior(0.5).config()) == Posterior(0.5)
    with pytest.raises(StillhouseError, match="is 0 or more, not -1"):
        Posterior(-1.0)
    with pytest.raises(StillhouseError, match="'bridge' walks a bridge, not the process 'flow'"):
        rollout(Knows(Flow()), torch.zeros(2, 1), [1.0, 0.5], Posterior(), draws=Draws(2, "z"))

"""Sampling as a value: its config, its promised cost, and samples that are what they should be."""

import json
import math

import pytest
import torch

from stillhouse.core.denoiser import count_calls
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.guidance import Guided
from stillhouse.core.prediction import KINDS, At, Prediction
from stillhouse.core.schedules import VE, Cosine, Flow, LinearVP, ScaledLinearVP, Trig
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.rollout import rollout
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers import SOLVERS, make_solver
from stillhouse.solvers.base import History
from stillhouse.solvers.grids import uniform
from stillhouse.solvers.simple import GammaSampling, Renoise
from stillhouse.worlds.mixture.world import MixtureDenoiser

torch.set_num_threads(1)
MEANS = torch.tensor([[1.0, 0.5], [-0.8, 0.9], [0.2, -1.1]])


def exact(process):
    return MixtureDenoiser(process, MEANS, torch.full((3,), 0.1), torch.ones(3) / 3, torch.tensor([0, 1, 2]))


# those that walk from noise to data; tokens and bridges have their own (tests/solvers)
OF_NOISE = sorted(set(SOLVERS) - {"ancestral", "confidence", "psi", "bridge"})


def test_config_round_trips_through_json():
    sampling = Sampling.steps(VE(), 5, {"name": "ddim", "eta": 0.5}, {"name": "karras", "rho": 5.0}, 2.0)
    again = Sampling.from_config(json.loads(json.dumps(sampling.config())))
    assert again == sampling and len(again.times) == 6


@pytest.mark.parametrize("solver", OF_NOISE)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("process", [Flow(), Cosine(), VE()], ids=lambda p: p.name)
def test_promised_evaluations_are_those_made(solver, guidance, process):
    model, sampling = exact(process), Sampling.steps(process, 6, solver, guidance=guidance)
    for cond in (torch.zeros(8, dtype=torch.long), None):
        with count_calls(model) as nfe:
            draw_samples(model, sampling, (2,), cond, Draws(8, "nfe"))
        assert nfe() == sampling.nfe(model, conditional=cond is not None)


def test_promise_with_guidance_inside_the_model():
    plain, label = exact(Flow()), torch.zeros(8, dtype=torch.long)
    for model in (
        Guided(plain, 2.0, interval=(0.2, 0.6)),
        Guided(plain, 2.0, negative=label + 1),
        Guided(plain, 1.0),
    ):
        for guidance in (1.0, 2.0):
            sampling = Sampling.steps(Flow(), 5, "heun", guidance=guidance)
            with count_calls(model) as nfe:
                draw_samples(model, sampling, (2,), label, Draws(8, "nfe"))
            assert nfe() == sampling.nfe(model)


@pytest.mark.parametrize("solver", OF_NOISE)
@pytest.mark.parametrize("process", [Flow(), Trig(), VE()], ids=lambda p: p.name)
def test_samples_land_in_their_mode(solver, process):
    label = torch.arange(3).repeat(20)
    x = draw_samples(exact(process), Sampling.steps(process, 24, solver), (2,), label, Draws(60, "modes"))
    assert x.dtype == torch.float32 and x.shape == (60, 2)
    assert float((x - MEANS[label]).norm(dim=1).max()) < 0.6  # six standard deviations


def test_guidance_sharpens():
    """Overlapping modes: guidance moves samples of a label away from the others, as the guided score says."""
    model = MixtureDenoiser(
        Flow(),
        torch.tensor([[0.5, 0.0], [-0.5, 0.0]]),
        torch.full((2,), 0.5),
        torch.ones(2) / 2,
        torch.tensor([0, 1]),
    )
    label = torch.zeros(200, dtype=torch.long)
    plain, pushed = (
        draw_samples(
            model, Sampling.steps(Flow(), 16, "heun", guidance=w), (2,), label, Draws(200, "guided")
        )[:, 0].mean()
        for w in (1.0, 4.0)
    )
    assert float(plain) == pytest.approx(0.5, abs=0.1) and float(pushed) > 0.8


def test_starts_at_the_level_of_its_first_time_and_repeats():
    process, seen = VE(), []
    sampling = Sampling([0.8, 0.4, 0.0])
    model = exact(process)

    def hook(pred, s):
        seen.append((pred.at.x, float(s[0])))
        return pred

    first = draw_samples(model, sampling, (2,), None, Draws(6, "start"), hooks=[hook])
    expected = float(process.sigma(torch.tensor(0.8, dtype=torch.float64))) * Draws(6, "start").normal(2)
    torch.testing.assert_close(seen[0][0], expected)
    assert [s for _, s in seen] == [0.4, 0.0]
    assert torch.equal(first, draw_samples(model, sampling, (2,), None, Draws(6, "start")))
    assert not torch.equal(first, draw_samples(model, sampling, (2,), None, Draws(6, "other")))
    assert (
        first.is_inference()
        and draw_samples(model, sampling, (2,), None, Draws(6, "start"), dtype=torch.float64).dtype
        == torch.float64
    )


def test_renoise_keeps_the_marginal_and_gamma_0_is_ddim():
    model, x = exact(Flow()), Draws(16, "renoise").normal(2, dtype=torch.float64)
    ddim = rollout(model, x, uniform(5), make_solver("ddim"))
    torch.testing.assert_close(rollout(model, x, uniform(5), Renoise(0.0)), ddim, atol=1e-12, rtol=0)
    pred, s = model(x, torch.ones(16, dtype=torch.float64)), torch.full((16,), 0.5, dtype=torch.float64)
    fresh = Draws(16, "z2").normal(2, dtype=torch.float64)
    expected = Flow().noise(pred.x0, s, fresh)
    torch.testing.assert_close(
        rollout(model, x, [1.0, 0.5], Renoise(), draws=Draws(16, "z2")), expected, atol=1e-12, rtol=0
    )
    # gamma = 0.4: along the line to 0.6 s = 0.3, where x0 weighs 0.7 and the noise 0.3, then up to 0.5
    scale = 0.5 / 0.7
    partly = 0.5 * pred.x0 + scale * 0.3 * pred.eps + (0.25 - (scale * 0.3) ** 2) ** 0.5 * fresh
    torch.testing.assert_close(
        rollout(model, x, [1.0, 0.5], Renoise(0.4), draws=Draws(16, "z2")), partly, atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("process", [VE(), Flow(), Cosine(), Trig(), LinearVP(), ScaledLinearVP()])
@pytest.mark.parametrize("gamma", [0.2, 0.7])
def test_gamma_is_the_share_of_fresh_noise_on_every_process(process, gamma):
    """Of the noise's variance at the next time, gamma^2 is fresh; the deterministic part keeps the rest."""
    solver, s = GammaSampling(gamma), torch.tensor([0.6], dtype=torch.float64)
    middle = solver.middle(process, s)
    kept = (process.ratio(middle) / process.ratio(s)) ** 2
    torch.testing.assert_close(1 - kept, torch.full_like(kept, gamma**2), atol=1e-5, rtol=0)
    # a step with the noise known: the state at s is alpha x0 + sigma (sqrt(1 - gamma^2) eps + gamma z)
    x0, eps = (Draws(1, name).normal(2, dtype=torch.float64) for name in ("x0", "eps"))
    now = torch.tensor([0.9], dtype=torch.float64)
    x = process.noise(x0, now, eps)

    def predict(x, t, s):
        return Prediction(x0, KINDS["x0"](), At(process, t, x))

    stepped = solver.step(predict, x, now, s, History(process, left=1), Draws(1, "z"))
    z = Draws(1, "z").normal(2, dtype=torch.float64)
    mixed = math.sqrt(1 - gamma**2) * eps + gamma * z
    torch.testing.assert_close(stepped, process.noise(x0, s, mixed), atol=1e-3, rtol=1e-4)


def test_gamma_0_is_ddim_and_gamma_1_is_renoising():
    model, x = exact(Flow()), Draws(16, "gamma").normal(2, dtype=torch.float64)
    for gamma, other in ((0.0, make_solver("ddim")), (1.0, Renoise())):
        walked = rollout(model, x, uniform(5), GammaSampling(gamma), draws=Draws(16, "z"))
        torch.testing.assert_close(
            walked, rollout(model, x, uniform(5), other, draws=Draws(16, "z")), atol=1e-12, rtol=0
        )


@pytest.mark.parametrize(
    "arguments",
    [
        {"times": [1.0]},
        {"times": [0.0, 1.0]},
        {"times": [1.2, 0.0]},
        {"times": [1.0, 0.5, 0.5, 0.0]},
        {"times": [1.0, 0.0], "solver": "hein"},
        {"times": [1.0, 0.0], "solver": {"name": "renoise", "gamma": 1.5}},
        {"times": [1.0, 0.0], "guide": 2.0},
        {"solver": "ddim"},
    ],
)
def test_refuses(arguments):
    with pytest.raises(StillhouseError):
        Sampling.from_config(arguments)

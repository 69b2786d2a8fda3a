"""Walks through tokens: their law against enumeration, what they never change, and what they cost."""

import itertools

import pytest
import torch

from stillhouse.core.discrete import Masked, Uniform
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.rollout import rollout
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers import make_solver
from stillhouse.solvers.tokens import Ancestral, Confidence, Psi
from stillhouse.worlds.text.chain import Chain

torch.set_num_threads(1)
ROWS = [[0.9, 0.1], [0.2, 0.8]]
WORLD = Chain(transition=ROWS, length=2)
TEXTS = torch.tensor(list(itertools.product(range(2), repeat=2)))
TRUE = WORLD.log_prob(TEXTS).exp()
N = 20000


def shares(x: torch.Tensor) -> torch.Tensor:
    return torch.bincount(x[:, 0] * 2 + x[:, 1], minlength=4).double() / len(x)


def sampled(process, solver, steps, n=N, seed=0):
    return draw_samples(
        WORLD.exact(process),
        Sampling.steps(process, steps, solver=solver),
        (2,),
        None,
        Draws(n, seed, "walk"),
    )


def chi_square(x: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((shares(x) - expected) ** 2 / expected).sum() * len(x))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_masked_law_in_few_steps_is_known(steps):
    """Two tokens are drawn apart if they are unmasked in one step, which has probability ``sum_i (gap_i)^2``;
    else from the truth."""
    process = Masked(2)
    sigma = process.sigma(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
    together = ((sigma[:-1] - sigma[1:]) / sigma[0]).square().sum()
    pair = TRUE.reshape(2, 2)
    apart = (pair.sum(1)[:, None] * pair.sum(0)).flatten()
    expected = together * apart + (1 - together) * TRUE
    assert (
        chi_square(sampled(process, "ancestral", steps), expected) < 20
    )  # 3 degrees of freedom: one time in 6,000
    if steps == 1:
        assert chi_square(sampled(process, "ancestral", steps), TRUE) > 200  # a test that can tell


@pytest.mark.parametrize(
    "solver", ["ancestral", {"name": "psi", "kappa": 0.7}, {"name": "psi", "kappa": 0.0}]
)
@pytest.mark.parametrize(
    "process",
    [Masked(2), Uniform(2), Masked(2, "cosine"), Uniform(2, "cosine")],
    ids=lambda p: f"{p.name}-{p.schedule}",
)
def test_many_steps_draw_from_the_chain(process, solver):
    if solver == {"name": "psi", "kappa": 0.0}:
        # nothing but guesses noised afresh: both positions at once, so that their tie is lost
        pair = TRUE.reshape(2, 2)
        single = sampled(process, solver, 8, 3000)
        torch.testing.assert_close(shares(single).reshape(2, 2).sum(1), pair.sum(1), atol=0.05, rtol=0)
        return
    assert chi_square(sampled(process, solver, 128, 2000), TRUE) < 20


def test_a_mistake_is_forgotten_only_by_the_corrector():
    """Masked, from a text the chain hardly writes, half hidden: the ancestral walk keeps it, Psi draws it
    anew."""
    world = Chain(transition=[[0.99, 0.01], [0.01, 0.99]], length=3)
    process, n = Masked(2), 2000
    start = torch.tensor([[0, 1, 2]]).expand(n, 3)
    grid = torch.linspace(0.5, 0, 9, dtype=torch.float64)
    walks = {
        solver.name: rollout(world.exact(process), start, grid, solver, draws=Draws(n, solver.name))
        for solver in (Ancestral(), Psi(0.5))
    }
    assert (walks["ancestral"][:, :2] == torch.tensor([0, 1])).all()
    alike = {name: (x[:, 0] == x[:, 1]).double().mean() for name, x in walks.items()}
    assert alike["ancestral"] == 0 and alike["psi"] > 0.6


@pytest.mark.parametrize("solver", [Ancestral(), Confidence(), Confidence(0.0)])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_gaps_are_filled_and_the_rest_stays(solver, steps):
    world, process = Chain(), Masked(6)
    x, _ = world.sample_data(64, Draws(64, "x"))
    gaps = torch.rand(64, 12, generator=torch.Generator().manual_seed(0)) < 0.5
    way = Sampling.steps(process, steps, solver=solver.config())
    y = draw_samples(world.exact(process), way, (12,), None, Draws(64, "y"), start=torch.where(gaps, 6, x))
    assert torch.equal(y[~gaps], x[~gaps]) and (y < 6).all()
    noise = torch.randint(0, 6, (64, 12), generator=torch.Generator().manual_seed(1))
    assert (
        world.measure(y)["nll"] < world.measure(torch.where(gaps, noise, x))["nll"] - 0.5 and (y != x).any()
    )


def test_confidence_unmasks_by_the_schedule_the_surest_first():
    world, process, seen = Chain(), Masked(6), []
    x = process.start(Draws(16, "x"), (12,))
    grid = torch.linspace(1, 0, 5, dtype=torch.float64)
    rollout(
        world.exact(process),
        x,
        grid,
        Confidence(0.0),
        draws=Draws(16, "y"),
        record=lambda x, _t: seen.append(x.clone()),
    )
    assert [int((x == 6).sum(1).unique()) for x in seen] == [12, 9, 6, 3, 0]
    # without noise on the order, what is unmasked had a higher probability than what was drawn and put back
    exact = world.exact(process)(seen[1], torch.full((16,), 0.75)).log_probs
    taken = (seen[1] == 6) & (seen[2] != 6)
    chosen = exact.gather(-1, seen[2].clamp(max=5)[..., None])[..., 0][taken].mean()
    assert chosen > exact.amax(-1)[(seen[1] == 6)].mean() - 0.2


def test_confidence_is_likelier_and_less_varied():
    world, process = Chain(), Masked(6)
    found = {}
    for name in ("ancestral", "confidence"):
        way = Sampling.steps(process, 4, solver=name)
        found[name] = world.measure(draw_samples(world.exact(process), way, (12,), None, Draws(2000, "y")))
    assert found["confidence"]["nll"] < 0.9 * found["ancestral"]["nll"]
    assert found["confidence"]["bigram_entropy"] < found["ancestral"]["bigram_entropy"] - 0.1


def test_masks_left_by_a_grid_that_ends_early_become_the_likeliest_token():
    process = Masked(2)
    x = rollout(
        WORLD.exact(process),
        process.start(Draws(4000, "x"), (2,)),
        [1.0, 0.6],
        Ancestral(),
        draws=Draws(4000, "y"),
    )
    assert (x < 2).all()
    left = float(
        process.sigma(torch.tensor(0.6, dtype=torch.float64))
        / process.sigma(torch.tensor(1.0, dtype=torch.float64))
    )
    first = TRUE.reshape(2, 2).sum(0)  # of the second token: 0 is the likelier one
    expected = left * (first.argmax() == 0) + (1 - left) * first[0]
    assert float((x[:, 1] == 0).double().mean()) == pytest.approx(float(expected), abs=0.03)


def test_the_card_figures_of_the_exact_chain():
    """Negative log-likelihood at 4 and 2 steps (masked), at 4 steps (uniform), as the cards of sdtt and sddlm
    measured them."""
    world = Chain()
    for process, steps, expected in ((Masked(6), 4, 1.458), (Masked(6), 2, 1.788), (Uniform(6), 4, 1.541)):
        y = draw_samples(
            world.exact(process),
            Sampling.steps(process, steps, solver="ancestral"),
            (12,),
            None,
            Draws(3000, "y"),
        )
        assert world.measure(y)["nll"] == pytest.approx(expected, rel=0.015)


def test_solvers_are_named_saved_and_counted():
    for config in ("ancestral", {"name": "psi", "kappa": 0.5}, {"name": "confidence", "temperature": 2.0}):
        solver = make_solver(config)
        assert make_solver(solver.config()).config() == solver.config()
        assert Sampling.steps(Masked(2), 3, solver=config).nfe(WORLD.exact(Masked(2))) == 3
    same = [sampled(Uniform(2), "ancestral", 3, 50, seed) for seed in (0, 0, 1)]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: Psi(1.5), "must lie in"),
        (lambda: Confidence(-1.0), "give 0 or more"),
        (
            lambda: sampled(Uniform(2), "confidence", 2, 4),
            "works on masked tokens, not on states of the process 'uniform_tokens'",
        ),
        (lambda: make_solver({"name": "ancestral", "eta": 1}), "has no parameter eta"),
    ],
)
def test_bad_input_is_told(make, words):
    with pytest.raises(StillhouseError, match=words):
        make()


def test_a_model_of_numbers_is_refused():
    from stillhouse.worlds.mixture.layouts import make_mixture

    world = make_mixture()
    with pytest.raises(StillhouseError, match="works on tokens"):
        rollout(world.exact(Flow()), torch.zeros(2, 2), [1.0, 0.0], Ancestral(), draws=Draws(2, "x"))

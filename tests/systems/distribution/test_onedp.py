import torch

from stillhouse.api.evaluate import exact_teacher
from stillhouse.core.draws import Draws
from stillhouse.core.prediction import At
from stillhouse.core.schedules import VE, Cosine, Flow
from stillhouse.systems.distribution.onedp import OneDP
from stillhouse.train.batch import Batch
from stillhouse.train.data import Prompts
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.control.world import Control

ROWS = 16
WORLD = Control(task="bandit")
SEEN = WORLD.condition(WORLD.balanced_labels(ROWS))


def built(process=None, **options):
    method, process = OneDP(**options), process or Flow()
    student = WORLD.network(process, 0, width=16, depth=1)
    with torch.no_grad():
        for p in student.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    data = Prompts(WORLD.shape, WORLD.condition(WORLD.data()[1]))
    Trainer(method, exact_teacher(WORLD, process), data, Recipe(batch=ROWS), student=student, quiet=True)
    return method


def batch_of(turns=("student", "fake"), seed=0):
    return Batch(0, ROWS, (1, 2), None, SEEN, turns, lambda name: Draws(ROWS, seed, name))


def gradient(method, **batch):
    """What the student's loss pulls its actions by, and the actions."""
    given, kept = batch_of(**batch), []
    method.student.requires_grad_(True)
    method.student.register_forward_hook(lambda _m, _i, pred: kept.append(pred))
    given.player = "student"
    actions = method.actions(given)
    actions.retain_grad()
    given.memo["shared/actions"] = actions  # with its graph, as the student's turn finds it
    method.loss("student", given).backward()
    return actions.grad * actions.numel(), actions.detach()


def test_noise_goes_in_or_none_at_all():
    noisy, still = built(form="stochastic"), built(form="deterministic")
    first, second = (gradient(noisy, seed=s)[1] for s in (0, 1))
    assert not torch.allclose(first, second)
    first, second = (gradient(still, seed=s)[1] for s in (0, 1))
    assert torch.equal(first, second)
    sampling = still.samplings()[1]
    assert sampling.start == 0.0 and noisy.samplings()[1].start is None and sampling.times == [1.0, 0.0]


def test_training_meets_what_the_sampler_meets():
    from stillhouse.samplers.draw import draw_samples

    for form in ("stochastic", "deterministic"):
        method, given = built(form=form, first_time=0.8), batch_of()
        given.player = "student"
        made = method.actions(given).detach()
        drawn = draw_samples(method.student, method.samplings()[1], (1, 2), SEEN, Draws(ROWS, 0, "samples"))
        assert torch.equal(made, drawn)


def test_who_moves_and_when():
    order = [OneDP(fake_per_student=3).turns(i) for i in range(6)]
    assert order == [["fake"], ["fake"], ["fake", "student"]] * 2
    assert OneDP().turns(0) == [
        "fake",
        "student",
    ]  # the fake first: it starts as the teacher, and pulls nowhere
    still = built(form="deterministic")
    assert still.turns(0) == ["student"] and set(still.players) == {"student"} and not hasattr(still, "fake")


def test_a_fake_that_is_the_teacher_pulls_nowhere():
    method = built()
    method.fake = method.teacher
    g, _ = gradient(method)
    assert float(g.abs().max()) < 1e-6


def test_the_weight_is_alpha_squared_whatever_the_process():
    """Equal at equal signal-to-noise: 1 at the clean end, 1/2 at alpha = sigma, towards 0 in noise."""
    x = torch.zeros(3, 1, 2)
    for process in (Flow(), Cosine(), VE()):
        t = process.time(torch.tensor([5.0, 0.0, -4.0]))
        weight = OneDP().weight(At(process, t, x)).flatten()
        torch.testing.assert_close(
            weight, torch.sigmoid(2 * torch.tensor([5.0, 0.0, -4.0])), atol=1e-3, rtol=1e-2
        )


def test_the_deterministic_form_settles_near_a_mode_and_with_a_flatter_weight_further_off():
    """The expected pull on the line from the mean (0) to a mode (1), by quadrature over times and noise: why
    the weight is alpha^2."""
    exact, n = WORLD.exact(Flow()), 20_000
    draws, told = Draws(n, "quadrature"), {"features": torch.zeros(n, 1)}
    t, eps = draws.uniform(0.02, 0.95), draws.normal(1, 2)

    def pull(place, power):
        a = torch.tensor([[[place, 0.0]]]).expand(n, 1, 2)
        pred = exact(exact.process.noise(a, t, eps), t, told)
        return float(
            (OneDP().weight(pred.at) ** power * (a - pred.x0))[..., 0].mean()
        )  # positive: back towards the mean

    assert pull(0.1, 1.0) < -0.05 and pull(0.1, 0.5) < -0.05  # nobody stays at the mean itself
    assert pull(0.72, 1.0) < -0.01 and pull(0.82, 1.0) > 0.01  # alpha^2 comes within 0.3 of the mode
    assert pull(0.57, 0.5) < -0.01 and pull(0.67, 0.5) > 0.01  # alpha does not

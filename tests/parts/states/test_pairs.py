"""Teacher pairs, of a Gaussian whose ODE is solved on paper."""

import torch

from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Flow
from stillhouse.parts.states.pairs import teacher_pairs
from stillhouse.worlds.mixture.world import Mixture

MEANS, STD = [1.0, -0.5], 0.4


def teacher(process):
    """Two points of one deviation, each under its label."""
    means = torch.tensor(MEANS)[:, None].expand(2, 2).contiguous()
    return Mixture(means, torch.full((2,), STD), torch.full((2,), 0.5), torch.arange(2)).exact(process)


def test_a_pair_is_noise_and_the_end_of_its_path() -> None:
    labels = torch.tensor([0, 1, 0])
    means = torch.tensor([MEANS[i] for i in labels])[:, None]
    for process in (Flow(), VE()):
        made = teacher_pairs(teacher(process), (2,), Draws(3, "pairs"), labels)
        eps = Draws(3, "pairs").normal(2)
        assert torch.equal(made["eps"], eps) and torch.equal(made["cond"], labels)
        # along the ODE (x - alpha mean) / sqrt(alpha^2 std^2 + sigma^2) stays what it was
        noise = eps if process.name == "flow" else (80 * eps - means) / (STD**2 + 80**2) ** 0.5
        torch.testing.assert_close(made["x"], means + STD * noise, rtol=1e-3, atol=1e-3)


def test_heun_steps_are_as_many_as_are_wanted() -> None:
    exact, labels = teacher(Flow()), torch.tensor([0, 1, 0])
    adaptive = teacher_pairs(exact, (2,), Draws(3, "pairs"), labels)["x"]
    exact.calls = 0
    many = teacher_pairs(exact, (2,), Draws(3, "pairs"), labels, 40)["x"]
    assert 79 <= exact.calls <= 80
    few = teacher_pairs(exact, (2,), Draws(3, "pairs"), labels, 3)["x"]
    assert float((many - adaptive).abs().max()) < 2e-3 < float((few - adaptive).abs().max())


def test_conditions_of_several_tensors_and_none() -> None:
    exact = teacher(Flow())
    assert set(teacher_pairs(exact, (2,), Draws(3, "pairs"), None, 2)) == {"eps", "x"}
    from tests.parts.affine import Affine, affine

    class Named(Affine):
        def forward(self, x, t, cond=None, **extra):
            return super().forward(x, t, cond["label"])

    denoiser = affine(0.5, 2.0)
    denoiser.net = Named(0.5, 2.0)
    made = teacher_pairs(denoiser, (2,), Draws(3, "pairs"), {"label": torch.zeros(3)}, 2)
    assert set(made) == {"eps", "x", "cond.label"}

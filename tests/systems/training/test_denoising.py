"""denoising: which conditions are hidden, and how its models are sampled; its loss is in the oracle."""

import torch

from stillhouse.core.discrete import Masked
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.training.denoising import Denoising
from stillhouse.train.batch import Batch
from stillhouse.worlds.base import get_world

ROWS = 2048


def built(world="mixture", process=None, **options) -> Denoising:
    method, world, process = Denoising(**options), get_world(world), process or Flow()
    network = world.network(process, kind="logits" if process.discrete else "velocity")
    method.setup(network, method.make_student(network), world.shape, conditional=True, total=10)
    return method


def hidden(method, cond) -> torch.Tensor:
    batch = Batch(
        0, ROWS, (2,), None, cond, ("student",), lambda name: Draws(ROWS, 0, name), player="student"
    )
    return method.condition(batch)


def test_a_share_of_the_labels_is_hidden():
    labels = torch.arange(ROWS) % 4
    for share in (0.0, 0.25, 1.0):
        made = hidden(built(label_dropout=share), labels)
        assert bool(((made == labels) | (made == -1)).all())
        assert abs(float((made == -1).double().mean()) - share) < 0.04
    assert abs(float((hidden(built(), labels) == -1).double().mean()) - 0.1) < 0.03
    assert hidden(built(), None) is None


def test_a_share_of_0_hides_nothing_even_where_0_is_drawn(monkeypatch):
    monkeypatch.setattr(Draws, "uniform", lambda self, *_: torch.zeros(self.rows))
    labels = torch.arange(ROWS) % 4
    assert torch.equal(hidden(built(label_dropout=0.0), labels), labels)


def test_a_network_with_an_empty_condition_of_its_own_is_given_that():
    method, tokens = built(label_dropout=0.5), torch.zeros(ROWS, 3, 4)
    method.student.empty = torch.full((1, 3, 4), 7.0)
    gone = (hidden(method, tokens) == 7).flatten(1)
    assert bool((gone.all(1) == gone.any(1)).all()) and 0.45 < float(gone.double().mean()) < 0.55


def test_the_student_is_a_copy():
    method = built()
    assert method.student is not method.teacher
    assert all(p.requires_grad for p in method.student.parameters())
    assert not any(p.requires_grad for p in method.teacher.parameters())


def test_its_models_are_sampled_as_the_options_name_it():
    (way,) = built(steps=5, solver="heun", guidance=2.0).samplings().items()
    assert way == (5, Sampling.steps(Flow(), 5, solver="heun", guidance=2.0))
    (way,) = built("text", Masked(get_world("text").vocab), steps=5).samplings().values()
    assert way.solver == "ancestral"

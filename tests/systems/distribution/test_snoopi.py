import pytest
import torch

from stillhouse.core.conditions import expand, pick
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.io.pipelines import family_for
from stillhouse.io.pipelines.tiny import KINDS
from stillhouse.opening import load
from stillhouse.parts.players.negative import Negative, without
from stillhouse.parts.states.backward_simulation import backward_simulation
from stillhouse.parts.states.time_sampler import uniform
from stillhouse.systems.distribution.snoopi import Snoopi
from stillhouse.train.batch import Batch
from stillhouse.train.data import Prompts
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.mixture.layouts import make_mixture

torch.set_num_threads(1)
ROWS, WORDS = 6, 4


def word(*which: int) -> dict[str, torch.Tensor]:
    return {"tokens": torch.eye(WORDS)[torch.tensor(which)][:, None]}


def built(**options) -> tuple[Snoopi, Trainer]:
    """A student and a teacher of the same shaken network, the fake shaken on top of it."""
    world, method = make_mixture(), Snoopi(**{"first_time": 0.7, "rank": 2, **options})
    denoiser = world.network(Flow(), width=16, depth=4, classes=0, token_dim=WORDS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in denoiser.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
    teacher = load(denoiser, shape=world.shape)
    trainer = Trainer(
        method, teacher, Prompts(world.shape, word(0, 1, 2, 3)), Recipe(batch=ROWS, steps=4), quiet=True
    )
    return method, trainer


def shake(method: Snoopi) -> None:
    with torch.no_grad():
        for p in method.fake.parameters():
            p += 0.2


def batch_of(step: int = 0) -> Batch:
    return Batch(
        step,
        ROWS,
        (2,),
        None,
        word(0, 1, 2, 3, 0, 1),
        ("student", "fake"),
        lambda name: Draws(ROWS, step, name),
    )


def test_a_scale_of_one_is_plain_score_distillation():
    method, _ = built(low_guidance=1.0, high_guidance=1.0)
    shake(method)
    loss = method.loss("student", batch_of()).detach()
    batch = batch_of()
    samples, own = batch.stream("samples"), batch.stream("student")
    x = backward_simulation(method.student, [0.7], samples, batch.cond, (2,)).detach()
    t = uniform(method.process, own, 0.02, 0.98)
    eps = own.normal(2)
    with torch.no_grad():
        x_t = method.process.noise(x, t, eps)
        gap = method.teacher(x_t, t, batch.cond).eps - method.fake(x_t, t, batch.cond).eps
    share = (t**2 / (t**2 + (1 - t) ** 2))[:, None]
    torch.testing.assert_close(loss, 0.5 * (share * gap).square().mean())
    assert float(loss) > 1e-6


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.7])
def test_equal_scores_leave_the_student_where_it_is(scale):
    method, _ = built(low_guidance=scale, high_guidance=scale)
    assert float(method.loss("student", batch_of()).detach()) == 0.0  # the adapter has no effect yet


def test_scale_is_drawn_for_the_iteration_from_its_range_and_shared():
    method, _ = built()
    scales = [method.scale(batch_of(step)) for step in range(300)]
    assert 0.5 <= min(scales) < 0.6 and 3.9 < max(scales) <= 4.0
    assert method.scale(batch_of(5)) == scales[5]


def test_the_student_waits_for_a_fake_that_has_moved():
    assert [Snoopi().turns(i) for i in range(3)] == [["fake"], ["student", "fake"], ["student", "fake"]]


def test_a_negative_prompt_is_another_rows():
    """Of two rows it is always the other's; the weight is drawn from 0 up to the greatest."""
    method, _ = built(nasa=0.6)
    weights = []
    for step in range(200):
        pair = Batch(step, 2, (2,), None, word(0, 3), ("fake",), lambda name, step=step: Draws(2, step, name))
        prompts, weight = method.negative(pair)
        assert torch.equal(prompts["tokens"], word(3, 0)["tokens"])
        assert method.negative(pair)[1] == weight
        weights.append(weight)
    assert 0 <= min(weights) < 0.03 and 0.57 < max(weights) <= 0.6


def test_a_teacher_that_takes_the_scale_learns_no_negatives():
    world, sizes = make_mixture(), {"width": 16, "depth": 1, "classes": 0, "token_dim": WORDS}
    teacher = world.network(Flow(), guidance_input=True, **sizes)
    plain = world.network(Flow(), **sizes)
    with pytest.raises(StillhouseError, match="takes the guidance scale as an input"):
        Snoopi(nasa=0.5).setup(teacher, plain, world.shape, conditional=True)
    Snoopi(nasa=0.0, rank=0).setup(teacher, plain, world.shape, conditional=True)
    Snoopi(nasa=0.5, rank=0).setup(plain, plain.copy(), world.shape, conditional=True)


def test_negatives_come_from_the_users_rows_where_there_are_any():
    method, _ = built(nasa=1.0)
    method.negatives = word(2, 3)  # type: ignore[misc]
    drawn = torch.stack([method.negative(batch_of(step))[0]["tokens"] for step in range(20)])
    assert set(drawn.argmax(-1).flatten().tolist()) == {2, 3}
    assert drawn.shape == (20, ROWS, 1, WORDS)


def test_it_trains_with_negatives_and_is_saved_and_loaded(tmp_path):
    method, trainer = built(nasa=1.0)
    model = trainer.fit()
    model.save_pretrained(tmp_path)
    again, up = load(tmp_path), expand(word(2), ROWS)
    told = Negative(again.denoiser, word(0), 0.5)
    x, t = torch.randn(ROWS, 2), torch.full((ROWS,), 0.7)
    with torch.no_grad():
        assert torch.equal(told(x, t, up).x0, Negative(model.denoiser, word(0), 0.5)(x, t, up).x0)
        assert not torch.equal(told(x, t, up).x0, again.denoiser(x, t, up).x0)


def test_on_a_diffusers_pipeline_with_negatives():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = KINDS["sd"]()
    family = family_for(type(pipe).__name__)(pipe)
    teacher = load(family.denoiser(), shape=family.shape)
    prompts = family.encode(["a red circle", "a blue square", "a cat", "a dog"])
    method = Snoopi(rank=4, nasa=1.0)
    trainer = Trainer(
        method, teacher, Prompts(family.shape, prompts), Recipe(batch=2, steps=2, seed=0), quiet=True
    )
    student = trainer.fit()
    student.text = family
    cond = pick(prompts, slice(2))
    plain, steered = student.sample(2, cond, seed=1), without(student, "blue", 0.5).sample(2, cond, seed=1)
    assert torch.isfinite(steered).all() and float((plain - steered).abs().max()) > 1e-5
    assert torch.equal(student.sample(2, cond, seed=1), plain)

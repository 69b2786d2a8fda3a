import pytest
import torch

from stillhouse.adapters import Adapted
from stillhouse.core.conditions import pick
from stillhouse.core.denoiser import count_calls
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow
from stillhouse.io.pipelines import family_for
from stillhouse.io.pipelines.tiny import KINDS
from stillhouse.opening import load
from stillhouse.parts.gaps.vsd import vsd_gradient
from stillhouse.systems.distribution.swiftbrush import SwiftBrush
from stillhouse.train.batch import Batch
from stillhouse.train.data import NoData, Prompts
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.mixture.layouts import make_mixture

torch.set_num_threads(1)
ROWS = 8


def built(recipe=None, **options) -> tuple[SwiftBrush, Trainer]:
    world, method = make_mixture(), SwiftBrush(**{"first_time": 0.7, "rank": 2, **options})
    teacher = load(world.network(Flow(), width=16, depth=2), shape=world.shape, classes=world.classes)
    with torch.no_grad():
        for p in teacher.denoiser.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    return method, Trainer(
        method, teacher, NoData(world.shape, 8), recipe or Recipe(batch=ROWS, steps=6), quiet=True
    )


def batch_of(seed: int = 0) -> Batch:
    return Batch(
        seed, ROWS, (2,), None, torch.arange(ROWS), ("student", "fake"), lambda name: Draws(ROWS, seed, name)
    )


def test_a_fake_that_is_the_teacher_leaves_the_student_where_it_is():
    method, _ = built()
    assert float(method.loss("student", batch_of()).detach()) == 0.0  # the adapter has no effect yet


def test_the_student_waits_for_a_fake_that_has_moved():
    assert [SwiftBrush().turns(i) for i in range(3)] == [["fake"], ["student", "fake"], ["student", "fake"]]


def test_both_players_use_the_same_samples_and_one_call_of_the_student():
    method, _ = built()
    batch = batch_of()
    with count_calls(method.student) as calls:
        method.loss("student", batch)
        method.loss("fake", batch)
    assert calls() == 1


def test_teacher_keeps_every_bit_and_the_adapter_is_all_that_the_fake_saves():
    method, trainer = built()
    x, t, labels = torch.randn(ROWS, 2), torch.rand(ROWS), torch.arange(ROWS)
    before = trainer.teacher.denoiser(x, t, labels).raw
    student = trainer.fit()
    assert torch.equal(trainer.teacher.denoiser(x, t, labels).raw, before)
    assert isinstance(method.fake, Adapted) and not torch.equal(method.fake(x, t, labels).raw, before)
    saved = sum(v.numel() for v in method.players["fake"].state_dict().values())
    assert saved < sum(p.numel() for p in student.denoiser.parameters()) / 2


def test_prompt_is_dropped_from_the_fakes_lesson_alone():
    method, _ = built(dropout=1.0)
    heard = []
    method.fake.register_forward_pre_hook(lambda _m, args: heard.append(args[2] if len(args) > 2 else None))
    method.loss("fake", batch_of())
    assert heard == [None]
    heard.clear()
    method.loss("student", batch_of())
    assert [h is None for h in heard] == [False, True]  # told, and untold for guidance


def test_prompts_are_dropped_as_often_as_asked():
    method, _ = built(dropout=0.3)
    heard = []
    method.fake.register_forward_pre_hook(lambda _m, args: heard.append(args[2] is None))
    for seed in range(200):
        with torch.no_grad():
            method.loss("fake", batch_of(seed))
    assert 0.2 < sum(heard) / len(heard) < 0.4


@pytest.mark.parametrize("lora", [0, 2])
def test_on_a_diffusers_pipeline(lora, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = KINDS["sd"]()
    family = family_for(type(pipe).__name__)(pipe)
    teacher = load(family.denoiser(), shape=family.shape)
    prompts = family.encode(["a red circle", "a blue square", "a cat", "a dog"])
    method = SwiftBrush(rank=4)
    weight = family.network.mid_block.attentions[0].transformer_blocks[0].attn2.to_q.weight.clone()
    trainer = Trainer(
        method,
        teacher,
        Prompts(family.shape, prompts),
        Recipe(batch=2, steps=2, seed=0, lora=lora),
        quiet=True,
    )
    student = trainer.fit()
    x = student.sample(2, pick(prompts, slice(2)), seed=1)
    assert x.shape == (2, *family.shape) and torch.isfinite(x).all()
    assert isinstance(method.fake, Adapted) and isinstance(method.student, Adapted) == bool(lora)
    layers = {name.rpartition(".")[2] for name in method.fake.base.layers}
    assert layers == ({"to_q", "to_v"} if not lora else {"to_q", "to_k", "to_v", "0"})
    inner = family.network.mid_block.attentions[0].transformer_blocks[0].attn2.to_q
    assert torch.equal(getattr(inner, "base_layer", inner).weight, weight)
    t, eps = torch.full((2,), 0.5), torch.randn(2, *family.shape)
    assert (
        float(vsd_gradient(x, t, eps, method.teacher, method.fake, pick(prompts, slice(2))).abs().max()) > 0
    )

"""The run option ``lora``: the same methods, every copy of the teacher an adapter on its weights."""

import copy

import pytest
import torch

from stillhouse.adapters import Adapted
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.models import build_model
from stillhouse.opening import load
from stillhouse.systems.registry import find
from stillhouse.train.data import TensorData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe

DATA = TensorData(
    torch.randn(24, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 4, 4
)


def trainer(slug, out=None, steps=4, **recipe):
    net = build_model({"name": "unet", "channels": (8, 8), "classes": 4}, 0)
    torch.nn.init.normal_(net.output.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(net.mid.attention.out.weight, std=0.1, generator=torch.Generator().manual_seed(2))
    teacher = load(Denoiser(net, Flow()), shape=(1, 16, 16), classes=4)
    options = {
        "dmd2": {"fake_per_student": 2, "gan_weight": 0.1},
        "cm": {"levels": 4},
        "progressive": {"teacher_steps": 4},
    }[slug]
    settings = Recipe(
        **{
            "steps": steps,
            "batch": 8,
            "lora": 2,
            "lora_targets": "all",
            "save_every": 2,
            "log_every": 1,
            **recipe,
        }
    )
    return Trainer(find(slug)(**options), teacher, DATA, settings, out=out, quiet=True, device="cpu")


@pytest.mark.parametrize("slug", ["dmd2", "cm", "progressive"])
def test_the_base_never_moves_and_the_student_does(slug):
    run = trainer(slug)
    base = run.method.teacher
    assert isinstance(base, Adapted) and all(
        isinstance(m, Adapted) for m in [run.method.student, run.average.module]
    )
    before = {k: v.clone() for k, v in base.base.net.state_dict().items() if "lora" not in k}
    x, t = DATA.x[:4], torch.full((4,), 0.6)
    pred, start = base(x, t, DATA.cond[:4]).raw, run.method.student(x, t, DATA.cond[:4]).raw
    student = run.fit()
    assert torch.equal(base(x, t, DATA.cond[:4]).raw, pred)
    assert all(torch.equal(v, base.base.net.state_dict()[k]) for k, v in before.items())
    assert float((run.method.student(x, t, DATA.cond[:4]).raw - start).abs().max().detach()) > 1e-4
    assert student.parameters < 0.6 * sum(v.numel() for v in before.values())


def test_a_resumed_run_of_adapters_repeats_bit_for_bit(tmp_path):
    whole = trainer("dmd2", tmp_path / "whole").fit()
    first = trainer("dmd2", tmp_path / "cut")
    first.on_step = lambda run, step: setattr(run, "stopping", step == 1)
    with pytest.raises(StillhouseError, match="Stopped"):
        first.fit()
    again = trainer("dmd2", tmp_path / "cut").fit(resume=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.denoiser.parameters(), again.denoiser.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    "switch", [{"grad_accum": 2}, {"checkpoint_activations": True}, {"precision": "bf16"}]
)
def test_switches_work_with_adapters(switch):
    plain, switched = trainer("dmd2").fit(), trainer("dmd2", **switch).fit()
    gap = [
        float((a - b).abs().max())
        for a, b in zip(plain.denoiser.parameters(), switched.denoiser.parameters(), strict=True)
    ]
    assert max(gap) < (2e-2 if "precision" in switch else 1e-4)


def test_the_saved_student_is_a_plain_network_with_the_adapter_folded_in(tmp_path):
    student = trainer("cm").fit()
    student.save_pretrained(tmp_path)
    opened = load(tmp_path)
    assert type(opened.denoiser) is Denoiser
    torch.testing.assert_close(opened.sample(4, seed=3), student.sample(4, seed=3), atol=1e-5, rtol=1e-5)
    assert copy.deepcopy(student.denoiser).base is student.denoiser.base


def test_a_network_of_ones_own_is_refused():
    net = Denoiser(build_model({"name": "unet", "channels": (8, 8), "classes": 4}, 0), Flow())
    teacher = load(net, shape=(1, 16, 16), classes=4)
    with pytest.raises(StillhouseError, match="no network of your own"):
        Trainer(
            find("cm")(levels=4),
            teacher,
            DATA,
            Recipe(steps=1, batch=8, lora=2),
            student=net.copy(),
            quiet=True,
        )

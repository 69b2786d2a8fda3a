"""Settings of a run: what they refuse, and how a player's are put together."""

import math

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.train.player import Player, settings
from stillhouse.train.recipe import Optim, Recipe

BAD = [
    {"steps": 0},
    {"steps": 2.5},
    {"batch": 0},
    {"grad_accum": 0},
    {"keep_checkpoints": 0},
    {"log_every": 0},
    {"save_every": -1},
    {"grid_every": -1},
    {"precision": "fp8"},
    {"nonfinite": "ignore"},
    {"ema": 1.0},
    {"ema": -0.1},
    {"batch": 6, "grad_accum": 4},
    {"clip": math.nan},
    {"clip": -5.0},
    {"clip": -0.5},
    {"warmup": -7},
    {"warmup": 1.5},
    {"seed": 1.5},
    {"seed": "three"},
    {"save_every": 1.5},
    {"log_every": True},
    {"keep_checkpoints": math.inf},
    {"lr": {"student": math.inf}},
    {"lr": {"student": -1e-3}},
    {"lr": {"student": "fast"}},
    {"lr": 1e-3},
    {"weight_decay": math.nan},
    {"ema": math.nan},
    {"ema_half_life": -1.0},
    {"ema_ramp": 2.0},
    {"ema_power": -1.0},
    {"lora": 1.5},
    {"lora_alpha": -1.0},
    {"compile": "yes"},
    {"tensorboard": 1},
    {"optimiser": "lion"},
    {"schedule": "step"},
    {"betas": (0.9,)},
    {"betas": "ab"},
    {"betas": (0.9, 1.5)},
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_bad_run_option_is_refused_in_one_sentence(bad):
    with pytest.raises(StillhouseError) as caught:
        Recipe(**bad)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bad", [{"lr": 0.0}, {"name": "lion"}, {"schedule": "step"}, {"clip": -1.0}, {"warmup": -1}], ids=str
)
def test_a_bad_optimiser_is_refused(bad):
    with pytest.raises(StillhouseError):
        Optim(**bad)


def test_the_runs_settings_go_over_the_methods_and_its_over_the_default():
    own = Optim(
        lr=5e-4, name="radam", betas=(0.0, 0.99), clip=3.0, warmup=7, schedule="linear", weight_decay=0.1
    )
    assert settings("student", own, Recipe()) == own
    assert settings("student", None, Recipe()) == Optim()
    over = settings(
        "student", own, Recipe(lr={"student": 1e-2, "fake": 1.0}, clip=0.0, warmup=0, schedule="cosine")
    )
    assert over == Optim(
        lr=1e-2, name="radam", betas=(0.0, 0.99), clip=0.0, warmup=0, schedule="cosine", weight_decay=0.1
    )


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]),
        ("linear", [0.25, 0.5 * 0.9, 0.75 * 0.8, 0.7, 0.6, 0.1]),
        (
            "cosine",
            [
                0.25,
                0.5 * 0.5 * (1 + math.cos(math.pi * 0.1)),
                0.75 * 0.5 * (1 + math.cos(math.pi * 0.2)),
                *(0.5 * (1 + math.cos(math.pi * s)) for s in (0.3, 0.4, 0.9)),
            ],
        ),
    ],
)
def test_rates_rise_then_follow_the_schedule(schedule, rates):
    player = Player("student", torch.nn.Linear(2, 2), Optim(lr=1.0, warmup=4, schedule=schedule))
    assert [player.schedule(step, 10) for step in (0, 1, 2, 3, 4, 9)] == pytest.approx(rates)
    assert player.optimiser.param_groups[0]["lr"] == pytest.approx(rates[-1])


def test_gradients_are_clipped_to_the_norm_and_a_shared_weight_counts_once():
    layer = torch.nn.Linear(3, 3, bias=False)
    player = Player("student", torch.nn.ModuleList([layer, layer]), Optim(clip=0.5))
    assert len(player.parameters) == 1
    layer.weight.grad = torch.full((3, 3), 2.0)
    norm = player.gradient_norm()
    player.clip(norm)
    assert float(norm) == pytest.approx(6.0) and float(layer.weight.grad.norm()) == pytest.approx(
        0.5, rel=1e-4
    )


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_the_norm_and_the_clipping_are_torchs(clip):
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (5,), (), (3, 2, 2)]

    def learning() -> torch.nn.ParameterList:
        module = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(s)) for s in shapes])
        for p, g in zip(list(module)[:-1], grads, strict=True):  # the last one has none
            p.grad = g.clone()
        return module

    grads = [torch.randn(s, generator=generator) for s in shapes[:-1]]
    mine, its = Player("student", learning(), Optim(lr=1.0, clip=clip)), learning()
    norm = torch.nn.utils.clip_grad_norm_(its.parameters(), clip)
    assert torch.equal(mine.gradient_norm(), norm)
    mine.clip(norm)
    for a, b in zip(mine.parameters, its.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)

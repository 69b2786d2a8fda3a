"""The run's switches change how it is computed, not what."""

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.opening import load
from stillhouse.systems.training.denoising import Denoising
from stillhouse.train.data import InfiniteData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world


def trainer(dropout=0.0, **recipe):
    world = get_world("mixture")
    teacher = load(world.network(Flow(), width=16, depth=1, dropout=dropout), shape=world.shape, classes=8)
    return Trainer(
        Denoising(),
        teacher,
        InfiniteData(world, labelled=True),
        Recipe(**{"steps": 3, "batch": 8, **recipe}),
        quiet=True,
    )


def gap(a, b):
    pairs = zip(a.denoiser.parameters(), b.denoiser.parameters(), strict=True)
    return max((x - y).abs().max().item() for x, y in pairs)


def test_bf16_stays_close_and_keeps_float32_weights():
    """Two runs of one process may differ in precision."""
    plain, half = trainer().fit(), trainer(precision="bf16").fit()
    assert all(p.dtype == torch.float32 for p in half.denoiser.parameters())
    assert 0 < gap(plain, half) < 0.02
    assert gap(plain, trainer().fit()) == 0


def test_activation_checkpointing_changes_nothing():
    saved = trainer(checkpoint_activations=True)
    assert gap(trainer().fit(), saved.fit()) < 1e-6 and saved.method.student.net.checkpointing


def test_half_precision_is_refused_without_a_gpu():
    if not torch.cuda.is_available():
        with pytest.raises(StillhouseError, match="fp16.*GPU"):
            trainer(precision="fp16")


def test_a_player_s_rate_follows_its_schedule():
    player = trainer(schedule="linear", warmup=4, lr={"student": 1.0}).players["student"]
    rates = [player.schedule(step, 20) for step in range(20)]
    assert (
        rates[0] == pytest.approx(0.25)
        and rates[3] == pytest.approx(1 - 3 / 20)
        and rates[10] == pytest.approx(0.5)
    )
    player = trainer(schedule="cosine", warmup=0, lr={"student": 1.0}).players["student"]
    assert player.schedule(10, 20) == pytest.approx(0.5)


def test_dropout_repeats_itself_whatever_the_global_state():
    torch.manual_seed(1)
    first = trainer(dropout=0.5).fit()
    torch.manual_seed(2)
    assert gap(first, trainer(dropout=0.5).fit()) == 0 and gap(first, trainer().fit()) > 0

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.metrics import reader
from stillhouse.metrics.captions import CAPTIONS
from stillhouse.parts.targets.reward import find_reward, shortfall
from stillhouse.worlds.base import get_world


def test_good_enough_samples_give_no_gradient():
    worth = torch.tensor([0.5, 2.0, 1.0], requires_grad=True)
    loss = shortfall(worth, 1.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.5 / 3) and torch.allclose(
        worth.grad, torch.tensor([-1 / 3, 0, 0])
    )


def test_the_caption_reward_reads_the_caption_it_was_told(monkeypatch):
    class Spy(torch.nn.Module):
        def log_prob(self, images, captions):
            self.asked = captions
            return images.flatten(1).mean(1)

    spy = Spy()
    monkeypatch.setattr(reader, "load_reader", lambda: spy)
    ids = torch.tensor([0, 17, 23, 24, 999, len(CAPTIONS) - 1])
    cond = get_world("shapes").condition(ids)
    x = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    worth = find_reward("captions")(x, cond)
    worth.sum().backward()
    assert torch.equal(spy.asked, ids) and worth.shape == (6,) and x.grad.any()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("caption", "did you mean 'captions'"),
        ("no.such.module:f", "no.such.module:f"),
        ("stillhouse.parts.targets.reward:nothing", "no function 'nothing'"),
        ("stillhouse.parts.targets.reward:REWARDS", "no function 'REWARDS'"),
    ],
)
def test_a_reward_that_is_none_is_refused(name, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        find_reward(name)


def test_the_caption_reward_refuses_what_it_cannot_read():
    with pytest.raises(StillhouseError, match="captions of the world"):
        find_reward("captions")(torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))

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
        ("./no_such_file.py:f", "There is no file 'no_such_file.py' to take a reward from"),
        ("stillhouse.parts.targets.reward:nothing", "There is no 'nothing'"),
        ("stillhouse.parts.targets.reward:REWARDS", "REWARDS' is no function"),
    ],
)
def test_a_reward_that_is_none_is_refused(name, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        find_reward(name)


def test_the_caption_reward_refuses_what_it_cannot_read():
    with pytest.raises(StillhouseError, match="captions of the world"):
        find_reward("captions")(torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return x0.flatten(1).mean(1)", None),
        ("return x0.mean()", r"reward '.*rewards.py:r' gives one number a sample, .* shape \(3,\), not \(\)"),
        ("return 1.0", "not float"),
        ("return cond['tokens']", r"reward '.*' fails: TypeError: .* \(rewards.py, line 2\)"),
    ],
)
def test_a_function_of_ones_own_answers_or_fails_in_a_sentence(body, sentence, tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text(f"def r(x0, cond):\n    {body}\n")
    reward, x0 = find_reward(f"{file}:r"), torch.arange(6.0).reshape(3, 2).requires_grad_()
    if sentence is None:
        worth = reward(x0, None)
        worth.sum().backward()
        assert worth.tolist() == [0.5, 2.5, 4.5] and x0.grad.eq(0.5).all()
        return
    with pytest.raises(StillhouseError, match=sentence):
        reward(x0, None)

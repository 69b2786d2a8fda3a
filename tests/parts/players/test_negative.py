import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse.core.denoiser import Denoiser, count_calls
from stillhouse.core.errors import StillhouseError
from stillhouse.core.guidance import Guided
from stillhouse.core.schedules import Flow
from stillhouse.io.pipelines import family_for
from stillhouse.io.pipelines.tiny import KINDS
from stillhouse.models import build_model
from stillhouse.models.embed import Attention
from stillhouse.parts.players.negative import Negative, Subtracting

torch.set_num_threads(1)
ROWS = 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(net: torch.nn.Module) -> torch.nn.Module:
    """With weights that start at zero moved, so that everything has an effect."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
    return net


NETS = {
    "mlp": ({"name": "mlp", "width": 16, "depth": 4, "token_dim": 6}, (2,)),
    "dit": ({"name": "dit", "dim": 16, "depth": 2, "token_dim": 6}, (1, 8, 8)),
    "unet": ({"name": "unet", "channels": (8, 16), "attention": 1, "token_dim": 6}, (1, 8, 8)),
}


def ours(name: str = "mlp") -> tuple[Denoiser, Tensor, Tensor]:
    config, shape = NETS[name]
    return (
        Denoiser(shaken(build_model(config)).requires_grad_(True), Flow()),
        normal(ROWS, *shape),
        torch.tensor([0.2, 0.5, 0.9]),
    )


def test_attention_subtracts_before_the_output_projection_with_one_query():
    attention, x = Attention(8, 2, 5), normal(ROWS, 4, 8)
    tokens, other = normal(ROWS, 3, 5, seed=1), normal(ROWS, 3, 5, seed=2)
    weight = torch.tensor([0.0, 0.3, 1.0])
    signed = torch.stack([torch.ones(ROWS, 3), -weight[:, None].expand(-1, 3)], 1)
    signed[:, 1, 2] = -torch.inf  # the negative prompt has two tokens

    def heads(y: Tensor) -> Tensor:
        return y.unflatten(-1, (2, -1)).transpose(1, 2)

    def attended(told: Tensor) -> Tensor:
        key, value = map(heads, attention.key_value(told).chunk(2, -1))
        scores = (heads(attention.query(x)) @ key.transpose(-1, -2) / 2).softmax(-1)
        return (scores @ value).transpose(1, 2).flatten(2)

    expected = attention.out(attended(tokens) - weight[:, None, None] * attended(other[:, :2]))
    torch.testing.assert_close(attention(x, torch.stack([tokens, other], 1), signed), expected)


@pytest.mark.parametrize("name", NETS)
def test_every_cross_attention_is_told_and_nothing_else_is(name):
    denoiser, x, t = ours(name)
    tokens, other = normal(ROWS, 4, 6, seed=1), normal(ROWS, 2, 6, seed=2)
    cross = [m for n, m in denoiser.net.named_modules() if n.endswith("cross")]
    seen = []
    hooks = [m.out.register_forward_pre_hook(lambda _m, given: seen.append(given[0].detach())) for m in cross]
    Negative(denoiser, other, 0.4)(x, t, tokens)
    first, vector = seen[0], denoiser.net.embed(t, tokens, None, None)[0]
    seen.clear()
    denoiser(x, t, tokens)
    denoiser(x, t, other)
    plus, minus = seen[0], seen[len(cross)]
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2 * len(cross)
    both = {"tokens": tokens, "negative_tokens": other, "negative_weight": torch.full((ROWS,), 0.4)}
    assert torch.equal(denoiser.net.embed(t, both, None, None)[0], vector)
    if name == "mlp":  # its first cross-attention sees the same state whatever the prompt
        torch.testing.assert_close(first, plus - 0.4 * minus)
    assert float((first - plus).abs().max()) > 1e-3


@pytest.mark.parametrize("name", NETS)
def test_no_weight_is_the_plain_network(name):
    denoiser, x, t = ours(name)
    tokens, mask, other = (
        normal(ROWS, 4, 6, seed=1),
        torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool(),
        normal(1, 5, 6, seed=2),
    )
    plain = denoiser(x, t, {"tokens": tokens, "mask": mask}).raw
    zero = Negative(denoiser, other, torch.zeros(ROWS))(x, t, {"tokens": tokens, "mask": mask}).raw
    torch.testing.assert_close(zero, plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(
        Negative(denoiser, other, 0.5)(x, t).raw, denoiser(x, t).raw
    )  # no prompt, nothing to take away from
    some = Negative(denoiser, other, torch.tensor([0.0, 0.5, 0.0]))(
        x, t, {"tokens": tokens, "mask": mask}
    ).raw
    moved = (some - plain).detach().abs().flatten(1).amax(1)
    assert float(moved[1]) > 1e-3 and float(moved[[0, 2]].max()) < 1e-5


def test_it_costs_one_call_and_goes_inside_guidance():
    denoiser, x, t = ours()
    told = Negative(denoiser, normal(1, 2, 6, seed=2), 0.3)
    with count_calls(told) as calls:
        pred = told(x, t, normal(ROWS, 4, 6, seed=1))
    assert calls() == 1
    guided = Guided(told, 2.0)(x, t, normal(ROWS, 4, 6, seed=1))
    torch.testing.assert_close(guided.x0, 2 * pred.x0 - denoiser(x, t).x0)


@pytest.mark.parametrize("name", NETS)
def test_blocks_that_are_computed_again_hear_it_again(name):
    denoiser, x, t = ours(name)
    told, tokens = Negative(denoiser, normal(1, 2, 6, seed=2), 0.7), normal(ROWS, 4, 6, seed=1)
    made = []
    for checkpointing in (False, True):
        denoiser.net.checkpointing = checkpointing
        made.append(
            torch.autograd.grad(
                told(x, t, tokens).raw.square().sum(), list(denoiser.parameters()), allow_unused=True
            )
        )
    for one, two in zip(*made, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two)


def test_bad_input_is_told_in_one_sentence():
    denoiser, _, _ = ours()
    labelled = Denoiser(build_model({"name": "mlp", "classes": 3}), Flow())
    for make in (
        lambda: Negative(labelled, normal(1, 2, 6), 0.5),
        lambda: Negative(denoiser, torch.tensor([1]), 0.5),
        lambda: Negative(denoiser, None, 0.5),
        lambda: Negative(Guided(denoiser, 2.0), normal(1, 2, 6), 0.5),
        lambda: Negative(Denoiser(torch.nn.Linear(2, 2), Flow()), normal(1, 2, 6), 0.5),
    ):
        with pytest.raises(StillhouseError) as caught:
            make()
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


# -- Diffusers -------------------------------------------------------------------------------------


def opened(kind: str):
    """The reader of a tiny pipeline."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = KINDS[kind]()
    return family_for(type(pipe).__name__)(pipe)


class ByHand:
    """Attention with subtraction, written out, as a processor of Diffusers; self-attention is left plain."""

    def __init__(self, negative: Tensor | None, bias: Tensor | None, weight: float):
        self.negative, self.bias, self.weight = negative, bias, weight

    def attended(self, attn, x, told, bias=None):
        q, k, v = (
            y.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for y in (attn.to_q(x), attn.to_k(told), attn.to_v(told))
        )
        mask = None if bias is None else bias[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        if encoder_hidden_states is None:
            mixed = self.attended(attn, hidden_states, hidden_states)
        else:
            mixed = self.attended(attn, hidden_states, encoder_hidden_states, attention_mask)
            if self.negative is not None:
                mixed = mixed - self.weight * self.attended(attn, hidden_states, self.negative, self.bias)
        return attn.to_out[1](attn.to_out[0](mixed))


@pytest.fixture(scope="module")
def pipelines():
    return {kind: opened(kind) for kind in ("sd", "sdxl", "pixart_alpha")}


@pytest.mark.parametrize("kind", ["sd", "sdxl", "pixart_alpha"])
def test_diffusers_networks_subtract_as_written_out(kind, pipelines):
    family = pipelines[kind]
    denoiser, net = family.denoiser(), family.network
    cond, other = family.encode(["a red circle", "a dog"]), family.encode(["blue"])
    x, t = normal(2, *family.shape), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        plain = denoiser(x, t, cond).raw
        made = Negative(denoiser, other, 0.6)(x, t, cond).raw
        assert torch.equal(denoiser(x, t, cond).raw, plain)  # nothing is left behind
        tokens = other["tokens"].expand(2, -1, -1)
        bias = None
        if kind == "pixart_alpha":
            tokens = net.caption_projection(tokens)
            bias = ((1 - other["mask"].float()) * -10000.0)[:, None]
        for module in net.modules():
            if hasattr(module, "set_processor"):
                assert isinstance(module.processor, Subtracting)
                module.set_processor(ByHand(tokens, bias, 0.6))
        expected = denoiser(x, t, cond).raw
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    assert float((made - plain).abs().max()) > 1e-4


def test_diffusers_blocks_that_are_computed_again_hear_it_again():
    family = opened("sd")
    denoiser, net = family.denoiser(), family.network
    told = Negative(denoiser, family.encode(["blue"]), 0.8)
    cond, x, t = family.encode(["a red circle"]), normal(1, *family.shape), torch.tensor([0.5])
    made = []
    for checkpointing in (False, True):
        if checkpointing:
            net.enable_gradient_checkpointing()
        net.train()
        made.append(
            torch.autograd.grad(
                told(x, t, cond).raw.square().sum(), list(net.parameters()), allow_unused=True
            )
        )
    for one, two in zip(*made, strict=True):
        if one is not None:
            torch.testing.assert_close(one, two)


def test_a_network_without_cross_attention_is_refused():
    family = opened("sd3")
    with pytest.raises(StillhouseError, match="no cross-attention"):
        Negative(family.denoiser(), family.encode(["blue"]), 0.5)


@pytest.mark.parametrize("residual", [False, True])
def test_bias_skip_and_rescale_are_taken_away_once(residual: bool):
    """``(W Z + b [+ x]) / r``: what is subtracted is ``alpha W Z- / r``."""
    out = torch.nn.Linear(4, 3 if not residual else 4)

    class Attn:
        to_out = [out]
        residual_connection = residual
        rescale_output_factor = 2.0

    def plain(attn, hidden, tokens, mask=None, temb=None):
        return (
            out(tokens.mean(1, keepdim=True).expand(-1, hidden.shape[1], -1)) + (hidden if residual else 0)
        ) / 2

    x, tokens, other = normal(2, 5, 4), normal(2, 3, 4, seed=1), normal(2, 6, 4, seed=2)
    alpha = torch.tensor([0.3, 1.0])
    made = Subtracting(plain)(Attn(), x, tokens, negative=other, negative_weight=alpha)
    taken = alpha[:, None, None] * (other.mean(1, keepdim=True) @ out.weight.T) / 2
    torch.testing.assert_close(made, plain(None, x, tokens) - taken)
    assert torch.equal(Subtracting(plain)(Attn(), x, tokens), plain(None, x, tokens))

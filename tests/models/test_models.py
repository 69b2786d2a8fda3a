"""The contract that every reference network keeps: shapes, conditions, configuration, taps, checkpointing."""

import copy
import json
from pathlib import Path

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.models import MODELS, build_model
from stillhouse.models.embed import Embedding, Fourier, GroupNorm
from stillhouse.models.taps import taps

SMALL = {
    "mlp": {"name": "mlp", "dim": 3, "width": 32, "depth": 2},
    "unet": {"name": "unet", "channels": [8, 16], "heads": 2},
    "dit": {"name": "dit", "dim": 16, "depth": 2, "heads": 2},
    "video_dit": {"name": "video_dit", "channels": 1, "dim": 16, "depth": 2, "heads": 2},
}
NAMES = sorted(SMALL)
WITH_TOKENS = ["dit", "unet"]


def make(name, dtype=torch.float64, **options):
    """A network with random weights everywhere, the zero-initialised layers too, and an input batch for
    it."""
    net = build_model({**SMALL[name], **options}).to(dtype)
    g = torch.Generator().manual_seed(1)
    for p in net.parameters():
        if not p.any():
            p.data.normal_(std=0.1, generator=g)
    shape = {"mlp": (4, 3), "video_dit": (4, 2, 1, 8, 8)}.get(name, (4, 1, 16, 16))
    return net, torch.randn(shape, generator=g, dtype=dtype), torch.rand(4, generator=g, dtype=dtype)


def test_every_registered_model_is_tested():
    elsewhere = {
        "temporal": "models/test_temporal.py",
        "token_transformer": "models/test_tokens.py",
        "onehot": "worlds/test_chain.py",
        **dict.fromkeys(("gaussians", "voxels", "points", "plain"), "models/scenes"),
    }
    assert sorted({*MODELS} - {*elsewhere}) == NAMES
    assert all((Path(__file__).parents[1] / place).exists() for place in elsewhere.values())


@pytest.mark.parametrize("name", NAMES)
def test_output_has_the_shape_of_the_input_and_times_may_be_any_real_number(name):
    net, x, _ = make(name, torch.float32)
    out = net(x, torch.tensor([-1.6, 0.0, 1.0, 5.0]))
    assert out.shape == x.shape and out.dtype == torch.float32 and out.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_config_is_plain_data_and_builds_the_same_network(name):
    net, x, t = make(name, classes=3, two_time=True, dropout=0.1)
    again = build_model(json.loads(json.dumps(net.config))).double().eval()
    again.load_state_dict(net.state_dict())
    label = torch.tensor([0, 1, 2, -1])
    assert again.config == net.config and net.config["dropout"] == 0.1
    assert torch.equal(again(x, t, label), net.eval()(x, t, label))


@pytest.mark.parametrize("name", NAMES)
def test_each_sample_hears_its_own_label_and_minus_one_is_no_condition(name):
    net, x, t = make(name, classes=3)
    mixed = net(x, t, torch.tensor([2, -1, 0, -1]))
    empty = net(x, t)
    assert torch.allclose(mixed[[1, 3]], empty[[1, 3]], atol=1e-12)
    assert (mixed[[0, 2]] - empty[[0, 2]]).abs().amax() > 1e-3
    assert torch.equal(net(x, t, {"label": torch.tensor([2, -1, 0, -1])}), mixed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("label", "sentence"), [(3, "Label 3 is not among -1 (none), 0 … 2."), (-2, "Label -2 is not among")]
)
def test_a_label_out_of_range_is_named(name, label, sentence):
    net, x, t = make(name, classes=3)
    with pytest.raises(StillhouseError) as error:
        net(x, t, torch.tensor([0, label, 1, 2]))
    assert sentence in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_compiles_to_one_graph(name):
    net, x, t = make(name, torch.float32, classes=3)
    label = torch.tensor([0, 1, 2, -1])
    whole = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.allclose(whole(x, t, label), net(x, t, label), atol=1e-5)


def test_labels_are_not_looked_at_under_vmap():
    net, x, t = make("mlp", classes=3)
    label = torch.tensor([0, 1, 2, -1])
    one_by_one = torch.func.vmap(lambda x, t, c: net(x[None], t[None], c[None])[0])(x, t, label)
    assert torch.allclose(one_by_one, net(x, t, label), atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("extra", ["s", "guidance"])
def test_second_time_and_guidance_start_without_effect_and_are_heard_later(name, extra):
    option = {"s": "two_time", "guidance": "guidance_input"}[extra]
    net = build_model({**SMALL[name], option: True}).double()
    _, x, t = make(name)
    low, high = ({extra: torch.full((4,), value, dtype=torch.float64)} for value in (0.1, 0.9))
    assert torch.equal(net(x, t, **low), net(x, t, **high))
    trained, _, _ = make(name, **{option: True})
    assert (trained(x, t, **low) - trained(x, t, **high)).abs().amax() > 1e-4
    neutral = {"s": t} if extra == "s" else {"guidance": torch.ones_like(t)}
    assert torch.equal(trained(x, t), trained(x, t, **neutral))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "given",
    [
        {"s": torch.zeros(4)},
        {"guidance": torch.ones(4)},
        {"cond": torch.zeros(4).long()},
        {"cond": torch.zeros(4, 2, 5)},
    ],
)
def test_what_the_network_was_not_built_for_is_refused(name, given):
    net, x, t = make(name, torch.float32)
    with pytest.raises(StillhouseError, match="built without"):
        net(x, t, **given)


@pytest.mark.parametrize("name", WITH_TOKENS)
def test_masked_tokens_have_no_effect_and_no_tokens_is_no_condition(name):
    net, x, t = make(name, token_dim=5, classes=3)
    g = torch.Generator().manual_seed(2)
    tokens = torch.randn(4, 3, 5, generator=g, dtype=x.dtype)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]]).bool()
    out = net(x, t, {"tokens": tokens, "mask": mask})
    other = torch.where(mask[..., None], tokens, torch.randn(4, 3, 5, generator=g, dtype=x.dtype))
    assert torch.allclose(net(x, t, {"tokens": other, "mask": mask}), out, atol=1e-12)
    assert torch.allclose(out[1], net(x, t)[1], atol=1e-12)
    assert (out[2] - net(x, t)[2]).abs().amax() > 1e-3
    assert torch.equal(net(x, t, tokens), net(x, t, {"tokens": tokens}))
    label = torch.tensor([0, 1, 2, -1])
    assert (net(x, t, {"label": label, "tokens": tokens}) - net(x, t, tokens))[:3].abs().amax() > 1e-3


def test_condition_errors_name_what_is_wrong():
    net, x, t = make("dit", torch.float32, token_dim=5)
    with pytest.raises(StillhouseError, match=r"shape \(B, L, 5\), not \(4, 2, 4\)"):
        net(x, t, torch.zeros(4, 2, 4))
    with pytest.raises(StillhouseError, match="not prompt"):
        net(x, t, {"prompt": torch.zeros(4)})


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("mlp", (4, 2), "samples of 3 numbers, not of 2"),
        ("unet", (4, 1, 18, 16), "divisible by 4, not 18 x 16"),
        ("dit", (4, 1, 16, 14), "divisible by 4, not 16 x 14"),
    ],
)
def test_a_sample_of_the_wrong_size_is_refused(name, shape, sentence):
    net, _, _ = make(name, torch.float32)
    with pytest.raises(StillhouseError, match=sentence):
        net(torch.zeros(shape), torch.zeros(4))


def test_image_networks_take_other_sizes_than_square():
    for name in WITH_TOKENS:
        net, _, t = make(name)
        assert net(torch.zeros(4, 1, 8, 20, dtype=t.dtype), t).shape == (4, 1, 8, 20)


def test_mlp_takes_samples_of_any_shape():
    net, x, t = make("mlp")
    assert torch.equal(net(x.reshape(4, 1, 3), t).reshape(4, 3), net(x, t))


@pytest.mark.parametrize("name", NAMES)
def test_taps_give_features_with_their_graph_and_leave_no_hooks(name):
    net, x, t = make(name)
    out, seen = net.taps([net.middle], x, t)
    assert torch.equal(out, net(x, t))
    feature = seen[net.middle]
    assert net.middle_channels in feature.shape[1:] and feature.requires_grad
    feature.square().mean().backward()
    assert net.input.weight.grad.abs().sum() > 0 and net.output.weight.grad is None
    assert not any(module._forward_hooks for module in net.modules())


def test_unet_middle_is_the_lowest_level():
    net, x, t = make("unet")
    _, seen = net.taps(["mid", "down.0", "up.1"], x, t)
    assert seen["mid"].shape == (4, net.mid_channels, 4, 4) and net.mid_channels == 16
    assert seen["down.0"].shape == seen["up.1"].shape == (4, 8, 8, 8)


def test_tap_names_are_checked_and_hooks_removed_after_a_failure():
    net, x, t = make("unet")
    with pytest.raises(StillhouseError, match="no submodule 'midd'; did you mean 'mid'"):
        net.taps(["midd"], x, t)
    with pytest.raises(StillhouseError, match="'embed' gave no tensor"):
        net.taps(["embed"], x, t)
    with pytest.raises(StillhouseError, match="divisible"):
        taps(net, ["mid"], x[..., :3], t)
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_changes_no_gradient_and_keeps_fewer_activations(name):
    net, x, t = make(name, classes=3)
    label = torch.tensor([0, 1, 2, -1])

    def run(net):
        kept = 0

        def count(tensor):
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            out = net(x, t, label)
        out.square().sum().backward()
        return kept, [p.grad for p in net.parameters()]

    saving = copy.deepcopy(net)
    saving.checkpointing = True
    plain, thrifty = run(net), run(saving)
    assert thrifty[0] < 0.7 * plain[0]
    for a, b in zip(plain[1], thrifty[1], strict=True):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_a_block_can_be_replaced(name):
    net, x, t = make(name)
    blocks = net.up if name == "unet" else net.blocks

    class Gate(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, h, *told):
            return 0 * self.block(h, *told)

    before = net(x, t)
    blocks[-1] = Gate(blocks[-1])
    assert (net(x, t) - before).abs().amax() > 1e-3


def test_unknown_names_and_options_get_one_sentence():
    with pytest.raises(StillhouseError, match="no model 'unett'; did you mean 'unet'"):
        build_model({"name": "unett"})
    with pytest.raises(
        StillhouseError, match="option of the model 'mlp' named 'widht'; did you mean 'width'"
    ):
        build_model({"name": "mlp", "widht": 3})
    with pytest.raises(StillhouseError, match="can't be built"):
        build_model({"name": "unet", "channels": "wide"})
    with pytest.raises(StillhouseError, match="10 can't be split among 4"):
        build_model({"name": "unet", "channels": [8, 10]})


def test_first_weights_depend_on_the_seed_alone():
    state = torch.random.get_rng_state()
    one, same, other = (build_model(SMALL["mlp"], seed).input.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_as_weights_and_as_autocast(name):
    net, x, t = make(name, torch.float32, classes=3)
    exact = net(x, t)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(x, t)
    low = net.to(torch.bfloat16)(x.bfloat16(), t)
    for out in (mixed, low):
        assert (out - exact).norm() < 0.05 * exact.norm()


def test_time_features_are_tame():
    # no feature may move faster than the highest of its frequencies, 4 turns per unit
    t = torch.linspace(-1.6, 1.1, 2001, dtype=torch.float64, requires_grad=True)
    features = Fourier(32)(t)
    fastest = max(
        float(torch.autograd.grad(features[:, i].sum(), t, retain_graph=True)[0].abs().max())
        for i in range(32)
    )
    assert 8 * 3.1415 * 0.99 < fastest < 8 * 3.1416 * 1.001
    assert (
        torch.cdist(features, features) + torch.eye(2001) * 9
    ).min() > 1e-3  # and no two times look the same


def test_empty_condition_is_row_zero_of_the_label_table():
    embed = Embedding(8, classes=2).double()
    t = torch.zeros(3, dtype=torch.float64)
    vector, tokens, mask = embed(t, torch.tensor([-1, 0, 1]), None, None)
    assert tokens is None and mask is None
    assert torch.allclose(vector - embed.time(t), embed.label.weight[:3])


def test_group_norm_in_forward_mode_is_the_fused_one():
    norm = GroupNorm(2, 6).double()
    g = torch.Generator().manual_seed(3)
    norm.weight.data.normal_(generator=g)
    norm.bias.data.normal_(generator=g)
    rows, moved = (torch.randn(2, 9, 6, generator=g, dtype=torch.float64) for _ in range(2))

    def through(rows):
        return norm(rows.transpose(1, 2).reshape(2, 6, 3, 3))

    value, derivative = torch.func.jvp(through, (rows,), (moved,))
    assert torch.allclose(value, through(rows), atol=1e-12)
    h = 1e-6
    assert torch.allclose(
        derivative, (through(rows + h * moved) - through(rows - h * moved)) / (2 * h), atol=1e-8
    )

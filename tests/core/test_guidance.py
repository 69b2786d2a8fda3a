"""Guidance as a denoiser: identities, intervals, costs, composition."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.denoiser import Converted, Denoiser, count_calls
from stillhouse.core.discrete import Masked
from stillhouse.core.errors import StillhouseError
from stillhouse.core.guidance import Guided, at_scale, in_place_of
from stillhouse.core.prediction import KINDS
from stillhouse.core.schedules import VE, Cosine, Flow, LinearVP, ScaledLinearVP, Trig

ALL = [Flow(), Trig(), Cosine(), LinearVP(), ScaledLinearVP(), VE()]
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
T = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
LABEL, OTHER = torch.full((4,), 2), torch.full((4,), 1)


def network(net, x, t, cond):
    shift = 0.0 if cond is None else 0.7 * cond.to(x)[:, None]
    return torch.tanh(x.roll(1, 1) + t[:, None] + shift) + 0.2 * shift


def made(process, kind="velocity"):
    return Denoiser(torch.nn.Identity(), process, kind, call=network)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ALL), st.sampled_from(sorted(set(KINDS) - {"logits"})), st.floats(-1, 8))
def test_is_affine_in_every_view(process, kind, w):
    plain, t = made(process, kind), 0.3 + 0.6 * T
    pred, empty, guided = plain(X, t, LABEL), plain(X, t), Guided(plain, w)(X, t, LABEL)
    for view in ("x0", "eps", "velocity", "score"):
        a, b = getattr(pred, view), getattr(empty, view)
        torch.testing.assert_close(getattr(guided, view), b + w * (a - b), atol=1e-7, rtol=1e-7)


def test_scale_1_is_none_and_0_is_the_empty_condition():
    plain = made(Flow())
    torch.testing.assert_close(Guided(plain, 1.0)(X, T, LABEL).x0, plain(X, T, LABEL).x0, atol=0, rtol=0)
    torch.testing.assert_close(Guided(plain, 0.0)(X, T, LABEL).x0, plain(X, T).x0, atol=1e-14, rtol=0)
    torch.testing.assert_close(
        Guided(plain, 0.0, negative=OTHER)(X, T, LABEL).x0, plain(X, T, OTHER).x0, atol=1e-14, rtol=0
    )


def test_interval_and_scale_per_sample():
    plain, w = made(Flow()), torch.tensor([1.0, 2.0, 3.0, 4.0])
    guided = Guided(plain, w, interval=(0.3, 0.7))(X, T, LABEL).x0
    pred, empty = plain(X, T, LABEL).x0, plain(X, T).x0
    for i, scale in enumerate([1.0, 2.0, 3.0, 1.0]):
        torch.testing.assert_close(guided[i], empty[i] + scale * (pred[i] - empty[i]), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "arguments, cond, calls",
    [
        ({"scale": 3.0}, LABEL, 2),
        ({"scale": 1.0}, LABEL, 1),
        ({"scale": 3.0}, None, 1),
        ({"scale": 3.0, "interval": (0.9, 1.0)}, LABEL, 1),
        ({"scale": 3.0, "interval": (0.8, 1.0)}, LABEL, 2),
    ],
)
def test_costs(arguments, cond, calls):
    model = Guided(made(Flow()), **arguments)
    with count_calls(model) as nfe:
        model(X, T, cond)
    assert nfe() == calls


def test_composes_with_itself_and_with_conversion():
    plain = made(Flow())
    twice = Guided(Guided(plain, 2.0), 1.5)(X, T, LABEL).x0
    pred, empty = plain(X, T, LABEL).x0, plain(X, T).x0
    torch.testing.assert_close(twice, empty + 3.0 * (pred - empty), atol=1e-12, rtol=0)
    process, t = VE(), 0.4 + 0.5 * T
    inside, outside = Converted(Guided(plain, 3.0), process), Guided(Converted(plain, process), 3.0)
    for view in ("x0", "eps", "velocity"):
        torch.testing.assert_close(
            getattr(inside(X, t, LABEL), view), getattr(outside(X, t, LABEL), view), atol=1e-8, rtol=1e-8
        )


def test_rescale_brings_back_the_spread():
    plain = made(Flow(), "x0")
    pred, wild = plain(X, T, LABEL).x0, Guided(plain, 6.0)(X, T, LABEL).x0
    pulled, half = (Guided(plain, 6.0, rescale=r)(X, T, LABEL).x0 for r in (1.0, 0.5))
    torch.testing.assert_close(pulled.std(1), pred.std(1), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(half, (pulled + wild) / 2, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("arguments", [{"rescale": 1.5}, {"interval": (0.7, 0.2)}])
def test_refuses(arguments):
    with pytest.raises(StillhouseError):
        Guided(made(Flow()), 2.0, **arguments)


def test_tokens_are_guided_by_the_geometric_mean_of_their_distributions():
    told, untold = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    model = Denoiser(
        torch.nn.Identity(),
        Masked(5),
        "logits",
        call=lambda net, x, t, cond: untold if cond is None else told,
    )
    x, labels = torch.full((3, 4), 5), torch.zeros(3, dtype=torch.long)
    pred = Guided(model, 2.5)(x, torch.full((3,), 0.5), labels).log_probs
    mixed = 2.5 * told.log_softmax(-1) - 1.5 * untold.log_softmax(-1)
    torch.testing.assert_close(pred, mixed.log_softmax(-1))


def test_a_scale_of_zero_means_none_in_every_system_and_in_sampling(caplog):
    from stillhouse.opening import load
    from stillhouse.systems.registry import find, list_systems

    met = 0
    for row in list_systems():
        options = (
            [f.name for f in fields(find(row.slug)) if f.name.endswith("guidance")]
            if row.kind != "estimator"
            else []
        )
        low = {name: 0.0 for name in options if name != "high_guidance" or row.slug != "icd"}
        if low:
            caplog.clear()
            method = find(row.slug)(**low)
            assert all(getattr(method, name) == 1 for name in low), row.slug
            assert len(caplog.records) == len(low) and "read as 1, no guidance" in caplog.text
            met += 1
    assert met >= 18  # oss, distillation_pp and msd are no methods
    model = load("mixture")
    caplog.clear()
    assert torch.equal(model.sample(4, seed=1, guidance=0.0), model.sample(4, seed=1, guidance=1.0))
    assert model.sampling(guidance=0).nfe(model.denoiser) == model.sampling(guidance=1).nfe(model.denoiser)
    assert "of 0 is read as 1" in caplog.text


def takes_scale(default=3.5):
    """A network that is ideal under any scale that it is given, and the scales that it was given."""
    net, met = torch.nn.Identity(), []
    net.config = {"guidance_embeds": True}

    def call(net, x, t, cond, guidance=None):
        met.append(guidance)
        w = torch.full((len(x),), default).to(x) if guidance is None else guidance.to(x)
        empty, full = network(net, x, t, None), network(net, x, t, cond)
        return empty + w[:, None] * (full - empty)

    return Denoiser(net, Flow(), call=call), met


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Converted(d, Trig())], ids=["plain", "wrapped"])
def test_a_network_that_takes_the_scale_is_given_it_and_evaluated_once(wrap):
    model, met = takes_scale()
    each = torch.tensor([1.0, 2.0, 4.0, 7.0])
    for scale in (4.0, each):
        with count_calls(model) as nfe:
            given = Guided(wrap(model), scale)(X, T, LABEL)
        twice = Guided(wrap(made(Flow())), scale)(X, T, LABEL)
        torch.testing.assert_close(given.x0, twice.x0)
        assert nfe() == 1
    assert torch.equal(met[-1], each)
    Guided(model, 4.0, interval=(0.3, 0.7))(X, T, LABEL)
    assert met[-1].tolist() == [1, 4, 4, 1]
    torch.testing.assert_close(Guided(model, 1.0)(X, T, LABEL).raw, model(X, T, LABEL).raw)
    assert met[-1] is None  # its own default
    at_scale(model, 1.0)(X, T, LABEL)
    assert met[-1].tolist() == [1, 1, 1, 1]
    for more in ({"negative": OTHER}, {"rescale": 0.5}):
        with pytest.raises(StillhouseError, match="no second estimate"):
            Guided(model, 4.0, **more)


def test_a_denoiser_has_a_negative_condition_of_one_row():
    plain, moved = made(Flow()), made(Flow())
    moved.negative_condition = OTHER[:1]
    wanted = Guided(plain, 3.0, negative=OTHER)(X, T, LABEL).x0
    torch.testing.assert_close(Guided(moved, 3.0)(X, T, LABEL).x0, wanted)
    torch.testing.assert_close(Guided(moved.copy(), 3.0)(X, T, LABEL).x0, wanted)
    parts = in_place_of({"label": LABEL, "image": X}, {"label": OTHER[:1]})
    assert torch.equal(parts["label"], OTHER) and parts["image"] is X


def test_times_of_frames_are_guided_too():
    plain = Denoiser(
        torch.nn.Identity(),
        Flow(),
        call=lambda net, x, t, cond: x * t[..., None] + (0 if cond is None else 1),
    )
    x, t = torch.ones(2, 3, 5), torch.tensor([[0.1, 0.5, 0.9]] * 2)
    w = torch.tensor([2.0, 3.0])
    raw = Guided(plain, w, interval=(0.4, 1.0))(x, t, torch.zeros(2)).raw - x * t[..., None]
    assert raw[:, :, 0].tolist() == [[1, 2, 2], [1, 3, 3]]


def test_a_scale_of_one_is_the_denoiser_itself():
    denoiser = made(Flow())
    assert at_scale(denoiser, 1) is denoiser and at_scale(denoiser, 1.0) is denoiser
    for scale in (0.0, 2.0):
        guided = at_scale(denoiser, scale)
        assert isinstance(guided, Guided) and guided.scale == scale and guided.plain is denoiser


def test_an_interval_may_be_one_time():
    denoiser = made(Flow())
    t, cond = torch.tensor([0.5, 0.4], dtype=torch.float64), torch.tensor([1, 2])
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    plain, full = denoiser(x, t, cond).x0, Guided(denoiser, 3.0)(x, t, cond).x0
    guided = Guided(denoiser, 3.0, interval=(0.5, 0.5))(x, t, cond).x0
    torch.testing.assert_close(guided, torch.stack([full[0], plain[1]]))

"""Every kind of output in numbers, on a process whose four coefficients are all different."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from stillhouse.core.bridge import Scaled
from stillhouse.core.errors import StillhouseError
from stillhouse.core.prediction import EDM, KINDS, At, Bounded, Kind, Prediction, divide
from stillhouse.core.process import Process

A, S, DA, DS = 0.8, 0.5, -1.3, 0.7
T = 0.36


@dataclass(frozen=True)
class Fixed(Process):
    """Constant coefficients, neither variance-preserving nor of sum one."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.full_like(t, A)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.full_like(t, S)

    def dalpha(self, t: Tensor) -> Tensor:
        return torch.full_like(t, DA)

    def dsigma(self, t: Tensor) -> Tensor:
        return torch.full_like(t, DS)


X, RAW = torch.tensor([[1.7, -0.4]], dtype=torch.float64), torch.tensor([[0.6, 2.1]], dtype=torch.float64)
AT = At(Fixed(), torch.tensor([T], dtype=torch.float64), X)
DET = A * DS - S * DA


def rest(clean: Tensor) -> Tensor:
    """The noise that goes with a clean estimate."""
    return (X - A * clean) / S


def edm(data: float, boundary: float = 0.0) -> Tensor:
    """Karras et al., table 1, of ``y = x / alpha`` and ``s = sigma / alpha``."""
    y, s = X / A, S / A
    skip = data**2 / ((s - boundary) ** 2 + data**2)
    out = data * (s - boundary) / math.sqrt(s**2 + data**2)
    return skip * y + out * RAW


def bounded(inner: Tensor) -> Tensor:
    tau = 10 * (T * 50 - 1)
    return 0.5**2 / (tau**2 + 0.5**2) * X + tau / math.sqrt(tau**2 + 0.5**2) * inner


CLEAN = {
    "x0": RAW,
    "scaled": RAW,
    "eps": (X - S * RAW) / A,
    "score": (X + S * S * RAW) / A,
    "v": (A * X - S * RAW) / (A * A + S * S),
    "velocity": (DS * X - S * RAW) / DET,
}
NOISE = {
    "eps": RAW,
    "score": -S * RAW,
    "v": (S * X + A * RAW) / (A * A + S * S),
    "velocity": (A * RAW - DA * X) / DET,
}
SETTINGS = [
    *((KINDS[name](), CLEAN[name], NOISE.get(name, rest(CLEAN[name]))) for name in CLEAN),
    (EDM(), edm(0.5), rest(edm(0.5))),
    (EDM(1.3), edm(1.3), rest(edm(1.3))),
    (EDM(0.7, 0.1), edm(0.7, 0.1), rest(edm(0.7, 0.1))),
    (Bounded("eps", 50), bounded(CLEAN["eps"]), rest(bounded(CLEAN["eps"]))),
    (Bounded("v", 50), bounded(CLEAN["v"]), rest(bounded(CLEAN["v"]))),
]


@pytest.mark.parametrize("kind, clean, noise", SETTINGS, ids=[repr(kind[0])[:24] for kind in SETTINGS])
def test_the_views_of_an_output(kind: Kind, clean: Tensor, noise: Tensor) -> None:
    pred = kind.predict(RAW, AT)
    torch.testing.assert_close(pred.x0, clean)
    torch.testing.assert_close(pred.eps, noise)
    velocity, score = DA * clean + DS * noise, -noise / S
    torch.testing.assert_close(pred.velocity, velocity)
    torch.testing.assert_close(pred.score, score)
    if kind.__class__ is KINDS["score"]:
        assert pred.score is pred.raw
    if kind.__class__ is KINDS["velocity"]:
        assert pred.velocity is pred.raw
    assert kind.predict(RAW.float(), AT).raw.dtype == torch.float64


def test_targets() -> None:
    clean = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    eps = rest(clean)
    expected = {
        "x0": clean,
        "scaled": clean,
        "eps": eps,
        "score": -eps / S,
        "v": A * eps - S * clean,
        "velocity": DA * clean + DS * eps,
    }
    for name, target in expected.items():
        torch.testing.assert_close(KINDS[name]().target(clean, eps, AT), target)
    for kind in (EDM(), EDM(1.3), EDM(0.7, 0.1), Bounded("eps", 50), Bounded("v", 50)):
        made = kind.predict(kind.target(clean, eps, AT), AT)
        torch.testing.assert_close(made.x0, clean)


def test_what_the_networks_are_fed() -> None:
    for data in (0.5, 1.3):
        x, t = EDM(data).inputs(AT)
        torch.testing.assert_close(x, X / math.sqrt(S * S + (data * A) ** 2))
        assert float(t) == pytest.approx(math.log(S / A) / 4)
    torch.testing.assert_close(Scaled().inputs(AT)[0], X / math.sqrt(1 + S * S))
    for kind in (KINDS["v"](), Bounded("v", 50), Scaled()):
        assert torch.equal(kind.inputs(AT)[1], AT.t) and torch.equal(kind.time(Fixed(), AT.t), AT.t)
    torch.testing.assert_close(Bounded("edm", 50).inputs(AT)[0], EDM().inputs(AT)[0])
    assert torch.equal(Bounded("edm", 50).time(Fixed(), AT.t), EDM().time(Fixed(), AT.t))
    with pytest.raises(StillhouseError, match="prediction kind 'epz'; did you mean 'eps'"):
        Bounded("epz").inputs(AT)


def test_the_log_of_the_noise_is_cut_at_both_ends() -> None:
    class Ends(Fixed):
        def log_snr(self, t: Tensor) -> Tensor:
            return torch.tensor([math.inf, -math.inf, 30.0, -30.0, 12.0])

    assert EDM().time(Ends(), torch.zeros(5)).tolist() == [-5, 5, -5, 5, -3]


def test_division_by_nothing() -> None:
    over = divide(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 4.0, 1e-8]))
    assert over.tolist() == [0, 0.5, 0]
    other = divide(torch.tensor([1.0, 2.0]), torch.tensor([0.0, -4.0]), torch.tensor([7.0, 8.0]))
    assert other.tolist() == [7, -0.5]
    fine = torch.tensor([1e-8, 1e-15], dtype=torch.float64)
    assert divide(fine, fine).tolist() == [1, 0]
    x = torch.tensor([0.0], requires_grad=True)
    divide(torch.ones(1), x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0]  # and no nan


def test_other_estimates_at_the_same_state() -> None:
    pred = KINDS["v"]().predict(RAW, AT)
    assert torch.equal(pred.replace(2 * RAW).raw, 2 * RAW) and pred.replace(RAW).kind is pred.kind
    other = pred.with_x0(RAW)
    torch.testing.assert_close(other.x0, RAW)
    torch.testing.assert_close(other.eps, rest(RAW))
    both = pred.with_both(RAW, X)
    assert isinstance(both, Prediction) and both.x0 is RAW and both.eps is X

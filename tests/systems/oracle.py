"""Oracles: the losses of a system written out a second time, from its card or paper, and compared in float64.

``tests/systems/FAMILY/oracle_SLUG.py`` holds ``CASES``, one or more for each loss: other processes than
Flow, guidance other than 1, a teacher that takes the scale as an input, every stage, all terms on. A case's
function is given the players and the tensors that the loss had, and returns what it should have been. It may
call networks (``given.student(x_t, t, cond)`` and its views ``x0 eps velocity score raw``) and the schedule
(``given.process.alpha(t)``, ``.sigma(t)``), and draw random numbers by the names under which the loss draws
them. It uses nothing of ``stillhouse.parts`` and nothing of the method. Value and gradient must agree.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.api.runs import data_of
from stillhouse.checks.runner import load_check
from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.prediction import KINDS
from stillhouse.core.process import Process
from stillhouse.opening import load
from stillhouse.systems.registry import find
from stillhouse.train.batch import Batch
from stillhouse.train.loop import Trainer
from stillhouse.train.method import Method
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

ROWS, SEED = 6, 3


class Double(Draws):
    """Random numbers in float64, whatever precision is named."""

    def stream(self, *purpose: object) -> Draws:
        return Double(self.rows, *self.name, *purpose)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return super().normal(*shape, dtype=torch.float64)

    def uniform(
        self, low: float = 0.0, high: float = 1.0, *shape: int, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        return super().uniform(low, high, *shape, dtype=torch.float64)


def draws(name: str, rows: int = ROWS) -> Draws:
    """The stream ``name`` of an iteration, from its beginning."""
    return Double(rows, SEED, name)


@dataclass
class Given:
    """What a loss had. ``net`` gives any module of the run by its name in checkpoints (``fake``,
    ``ema.target``, ``frozen.teacher``): the module itself, or the list of a player's modules; state of the
    method's own (``state.NAME``) as the loss found it."""

    teacher: Denoiser
    student: Denoiser
    modules: Mapping[str, nn.Module]
    process: Process
    shape: tuple[int, ...]
    x: Tensor | None
    cond: Condition
    bank: Mapping[str, Any]
    options: Mapping[str, Any]
    step: int
    within: int
    draws: Callable[..., Draws] = draws

    def net(self, name: str, number: int = 0) -> Any:
        """A module: of a player the one of that number, in the order in which the method made them."""
        module = self.modules[name]
        return module[number] if isinstance(module, nn.ModuleList) else module

    def at(self, t: float) -> Tensor:
        """One time for all rows, (B,)."""
        return torch.full((ROWS,), t, dtype=torch.float64)

    def noise(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """``alpha x + sigma eps``, at times (B,), (B, F) or (), of a gaussian process."""
        t = t.reshape(*t.shape, *[1] * (x.dim() - t.dim()))
        return self.process.alpha(t) * x + self.process.sigma(t) * eps

    def guided(self, net: Denoiser, x_t: Tensor, t: Tensor, w: float, view: str = "x0") -> Tensor:
        """``D(none) + w (D(cond) - D(none))`` by two evaluations, or by one of a network that takes ``w``."""
        if getattr(net.net, "config", {}).get("guidance_input"):
            return getattr(net(x_t, t, self.cond, guidance=torch.full((len(x_t),), float(w)).double()), view)
        empty, full = getattr(net(x_t, t, None), view), getattr(net(x_t, t, self.cond), view)
        return empty + w * (full - empty)

    def denoising(self, net: Denoiser, x: Tensor, t: Tensor, eps: Tensor, **extra: Any) -> Tensor:
        """Mean squared error of the network's own output: noise, clean data, ``v`` or a velocity; of EDM's
        preconditioning the weighted one of the clean estimate."""
        pred = net(self.noise(x, t, eps), t, self.cond, **extra)
        time = t.reshape(*t.shape, *[1] * (x.dim() - t.dim()))
        alpha, sigma = self.process.alpha(time), self.process.sigma(time)
        (name,) = (name for name, kind in KINDS.items() if type(net.kind) is kind)
        if name == "edm":
            data = net.kind.sigma_data
            return ((sigma**2 + data**2) / (sigma * data) ** 2 * (pred.x0 - x).square()).mean()
        target = {"eps": eps, "x0": x, "v": alpha * eps - sigma * x, "velocity": eps - x}[name]
        return (pred.raw - target).square().mean()

    def middle(self, net: Denoiser, x_t: Tensor, t: Tensor) -> Tensor:
        """The output of the middle block of a network, which names it."""
        kept: list[Tensor] = []
        hook = net.net.get_submodule(net.net.middle).register_forward_hook(
            lambda _m, _i, out: kept.append(out)
        )
        net(x_t, t, self.cond)
        hook.remove()
        return kept[0]


Loss = Callable[[Given], Any]


@dataclass(frozen=True)
class Case:
    """One loss under one setting.

    ``player``: whose loss; ``bank``: the rows that the method stores, for which ``loss`` gives a dict of
    tensors. ``loss``: the oracle. ``options``: over those of the contract. ``embedded``: the teacher takes
    the guidance scale as an input. ``stage``, ``within``: which part of the run, and the iteration in it.
    ``method``: what makes the method, where it is not the system itself (a program's). ``world``,
    ``network``: over the contract's; an option of None is left out.
    """

    player: str
    loss: Loss
    process: Process | None = None
    kind: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    embedded: bool = False
    stage: int = 0
    within: int = 0
    world: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    method: Callable[..., Method] | None = None
    total: int = 24

    def label(self) -> str:
        """The case in a test's name."""
        process = "" if self.process is None else type(self.process).__name__
        options = ",".join(f"{k}={v}" for k, v in self.options.items())
        words = (self.player, f"stage{self.stage}", process, self.kind, options, "embedded" * self.embedded)
        return "-".join(word for word in words if word)

    def trainer(self, slug: str) -> Trainer:
        """A run of the method whose networks are small, of float64, and all different."""
        contract = load_check(slug).CONTRACT
        method = (self.method or find(slug))(**{**contract.options, **self.options})
        world = get_world(**{k: v for k, v in {**contract.world, **self.world}.items() if v is not None})
        sizes = {k: v for k, v in {**contract.network, **self.network}.items() if v is not None}
        if world.classes:
            sizes["classes"] = world.classes  # so that there is something for guidance to move away from
        if self.embedded:
            sizes["guidance_input"] = True
        process, kind = self.process or contract.process, self.kind or contract.kind
        network = stirred(world.network(process, kind=kind, **sizes), 1)
        teacher = load(network, shape=world.shape, classes=world.classes)
        teacher.cond_kind, teacher.world = world.cond_kind, world.name
        data = data_of(None, world, teacher, method, 0)
        trainer = Trainer(method, teacher, data, Recipe(steps=self.total, batch=ROWS), quiet=True)
        for number, (_, module) in enumerate(sorted(trainer.modules.items())):
            stirred(module, 2 + number)
        trainer.method.teacher.double()
        for module in trainer.modules.values():
            module.double()
        return trainer


def stirred(module: nn.Module, seed: int) -> Any:
    """Every weight moved, so that no two networks are equal and no layer is of zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return module


def as_double(value: Any) -> Any:
    """Tensors of floats as float64; a dict's one by one."""
    if isinstance(value, Mapping):
        return {k: as_double(v) for k, v in value.items()}
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def compare(slug: str, case: Case) -> None:
    """The method's value and gradients against the oracle's, in one iteration on the same tensors."""
    run, usual = case.trainer(slug), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # also what is made without a word on its type
    try:
        compare_losses(run, case)
    finally:
        torch.set_default_dtype(usual)


def compare_losses(run: Trainer, case: Case) -> None:
    """:func:`compare` of a run that stands."""
    method = run.method
    for stage in range(1, case.stage + 1):
        method.enter(stage)
        for number, (_, module) in enumerate(sorted(run.modules.items())):
            stirred(module, 50 * stage + number)  # stages begin with copies of one another
    step = sum(stage.length for stage in method.plan[: case.stage]) + case.within
    turns = tuple(method.turns(step))
    real = run.feed.batch(step, 0, turns)
    x, cond = as_double(real.x), as_double(real.cond)
    bank = as_double(method.bank_rows(draws("bank"), cond)) if method.bank_size else {}
    given = Given(
        method.teacher,
        method.student,
        {k: copy.deepcopy(m) if k.startswith("state.") else m for k, m in run.modules.items()},
        method.process,
        tuple(method.shape),
        x,
        cond,
        bank,
        {f.name: getattr(method, f.name) for f in fields(method)},
        step,
        case.within,
    )
    if case.player == "bank":
        assert method.bank_size, "this case stores nothing"
        expected = case.loss(given)
        assert bank.keys() >= expected.keys() and expected
        for name, value in expected.items():
            close(bank[name], value, name)
        return
    batch = Batch(
        step,
        ROWS,
        tuple(method.shape),
        x,
        cond,
        turns,
        draws,
        bank=(lambda stream: dict(bank)) if bank else None,
        within=case.within,
        parts=real.parts,
        views=real.views,
    )
    for name, player in run.players.items():
        player.learn(name == case.player)
    learning = run.players[case.player].parameters
    value = method.loss(case.player, batch)
    gradients = torch.autograd.grad(value, learning, allow_unused=True)
    expected = case.loss(given)
    wanted = torch.autograd.grad(expected, learning, allow_unused=True)
    size = max((float(g.abs().max()) for g in wanted if g is not None), default=0.0)
    assert size > 1e-8, "the oracle's gradient is zero: it compares nothing"
    close(value, expected, "value")
    for one, two, p in zip(gradients, wanted, learning, strict=True):
        zero = torch.zeros_like(p)
        close(zero if one is None else one, zero if two is None else two, "gradient", size)


def close(made: Tensor, expected: Tensor, what: str, size: float | None = None) -> None:
    """Equal but for rounding, relative to the largest entry."""
    size = float(expected.detach().abs().max()) if size is None else size
    torch.testing.assert_close(
        made, expected, rtol=1e-6, atol=1e-6 * size, check_dtype=False, msg=lambda text: f"{what}: {text}"
    )

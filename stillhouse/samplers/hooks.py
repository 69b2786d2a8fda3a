"""What is done to a clean estimate before the step, as plain data that is saved with a sampling.

A hook is ``hook(prediction, s) -> prediction`` for :func:`stillhouse.samplers.rollout.rollout`; its
description is a dictionary with its ``name`` and fields, which :func:`read_hook` turns into one for each
walk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.core.guidance import at_scale, takes_guidance
from stillhouse.core.prediction import Prediction


@dataclass
class Walked:
    """The walk that a hook acts in: the model's companions, the condition, a stream of its own random
    numbers, the grid."""

    networks: Mapping[str, Denoiser]
    cond: Condition
    draws: Draws
    times: Sequence[float]


class SavedHook:
    """A hook whose fields are plain data. ``networks``: names of the companions that it calls."""

    name: ClassVar[str]

    def apply(self, pred: Prediction, s: Tensor, walked: Walked) -> Prediction:
        """The corrected prediction.

        Arguments:
            pred: the prediction at ``(x_t, t)``.
            s: the times that the step leads to, (B,).
            walked: the walk that it is a step of.

        Returns:
            A prediction at the same state and time.
        """
        raise NotImplementedError

    def calls(
        self,
        asked: Sequence[float],
        times: Sequence[float],
        conditional: bool,
        companions: Mapping[str, Denoiser],
    ) -> int:
        """Further network evaluations of one walk.

        Arguments:
            asked: the times at which the solver evaluates the network, in order.
            times: the grid, falling, n + 1 numbers in [0, 1].
            conditional: whether the sample has a condition; guidance costs a second evaluation on one that
                has.
            companions: the model's companions by name.

        Returns:
            How many evaluations the hook adds, 0 by default.
        """
        return 0

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the companions it calls."""
        return ()


@dataclass
class Clip(SavedHook):
    """Clean estimates held within ``[-bound, bound]`` (Saharia et al., 2022, arXiv 2205.11487, section 2.3).

    ``quantile``: 1 clips at the bound (static thresholding); below, each sample is clipped at that quantile
    of its absolute values where this is above 1, or at ``most``, and divided by it (dynamic thresholding).
    ``keeps_noise``: the noise estimate stays as predicted, which Diffusers' DDIM does; else it is the one
    that goes with the clipped estimate.
    """

    quantile: float = 1.0
    bound: float = 1.0
    most: float | None = None
    keeps_noise: bool = False
    name = "clip"

    def __post_init__(self) -> None:
        require(0 < self.quantile <= 1, f"The quantile of clipping lies in (0, 1], not {self.quantile}.")
        require(self.bound > 0, f"The bound of clipping is above 0, not {self.bound}.")
        require(
            self.most is None or self.most >= 1,
            f"The highest level of clipping is 1 or more, not {self.most}.",
        )

    def apply(self, pred: Prediction, s: Tensor, walked: Walked) -> Prediction:
        x0 = self._clipped(pred.x0)
        return pred.with_both(x0, pred.eps) if self.keeps_noise else pred.with_x0(x0)

    def _clipped(self, x0: Tensor) -> Tensor:
        if self.quantile == 1:
            return x0.clamp(-self.bound, self.bound)
        level = torch.quantile(x0.flatten(1).abs().float(), self.quantile, dim=1).clamp(1, self.most).to(x0)
        level = level.reshape(-1, *[1] * (x0.dim() - 1))
        return x0.clamp(-level, level) / level


LEVELS = ("next", "same", "random")


@dataclass
class TeacherMix(SavedHook):
    """The student's estimate drawn towards a teacher's estimate at its own noised copy: Distillation++ (Park,
    Lee & Ye, 2024, arXiv 2412.08871).

    At the guided steps ``x <- (1 - strength) x + strength D_teacher(alpha_s x + sigma_s eps, s)``: one
    gradient step on a score-distillation loss at inference, all of its constants folded into ``strength``.

    ``network``: the companion that is the teacher. ``steps``: indices of the guided steps. ``guidance``: the
    teacher's scale. ``level``: the time at which the teacher is evaluated: the ``next`` time of the grid, the
    ``same`` one, or a ``random`` one. Nothing happens where that level is the clean end.
    """

    network: str = "teacher"
    strength: float = 0.5
    steps: tuple[int, ...] = (0,)
    guidance: float = 1.0
    level: str = "next"
    name = "distillation_pp"

    def __post_init__(self) -> None:
        self.steps = tuple(int(k) for k in self.steps)
        require(0 <= self.strength <= 1, f"The strength of a correction lies in [0, 1], not {self.strength}.")
        if self.level not in LEVELS:
            raise unknown("level of a correction", self.level, LEVELS)
        require(all(k >= 0 for k in self.steps), f"Steps are counted from 0, not {self.steps}.")

    @property
    def networks(self) -> tuple[str, ...]:
        return (self.network,)

    def _shown_at(self, t: float, times: Sequence[float]) -> float | None:
        """The time at which the teacher is evaluated for the estimate made at ``t``; None for a step that is
        not guided. It is the grid's next time, whatever time the solver's own jump leads to."""
        k = min(range(len(times) - 1), key=lambda i: abs(times[i] - t))
        end = {"next": times[k + 1], "same": times[k], "random": 1.0}[self.level]
        return end if k in self.steps and end > 0 else None

    def calls(
        self,
        asked: Sequence[float],
        times: Sequence[float],
        conditional: bool,
        companions: Mapping[str, Denoiser],
    ) -> int:
        teacher = companions.get(self.network)
        once = self.guidance == 1 or (teacher is not None and takes_guidance(teacher))
        each = 2 if conditional and not once else 1
        return each * sum(self._shown_at(t, times) is not None for t in asked)

    def apply(self, pred: Prediction, s: Tensor, walked: Walked) -> Prediction:
        t = pred.at.t
        end = self._shown_at(float(t.flatten()[0]), walked.times)
        if end is None:
            return pred
        teacher = walked.networks[self.network]
        level = torch.full_like(t, end)
        if self.level == "random":
            low = max(teacher.process.t_min, 1e-3)
            level = walked.draws.uniform(low, 1.0, dtype=torch.float64)
        x = pred.x0.float()
        probe = teacher.process.noise(x, level, walked.draws.normal_like(x))
        answer = at_scale(teacher, self.guidance)(probe.to(pred.x0), level, walked.cond).x0.float()
        return pred.with_x0(((1 - self.strength) * x + self.strength * answer).to(pred.x0))


HOOKS: dict[str, type[SavedHook]] = {kind.name: kind for kind in (Clip, TeacherMix)}


def read_hook(config: Mapping[str, Any]) -> SavedHook:
    """The hook that a dictionary describes; raises :class:`StillhouseError` for an unknown name or field."""
    fields = dict(config)
    name = str(fields.pop("name", ""))
    if name not in HOOKS:
        raise unknown("hook", name, HOOKS)
    try:
        return HOOKS[name](**fields)
    except TypeError as error:
        raise StillhouseError(f"The hook '{name}' can't be made from {fields}: {error}.") from error


def describe_hook(hook: SavedHook) -> dict[str, Any]:
    """A hook as plain data; the inverse of :func:`read_hook`."""
    fields = asdict(hook)  # type: ignore[call-overload]
    return {"name": hook.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}


def check_hooks(hooks: Sequence[Mapping[str, Any]]) -> None:
    """Refuse hooks that can't be made."""
    for hook in hooks:
        read_hook(hook)


def hook_calls(
    hook: Mapping[str, Any],
    asked: Sequence[float],
    times: Sequence[float],
    conditional: bool,
    companions: Mapping[str, Denoiser],
) -> int:
    """Evaluations that a hook adds to a walk; see :meth:`SavedHook.calls`.

    Arguments:
        hook: the hook as plain data, as :func:`read_hook` takes it.
        asked: the times at which the solver evaluates the network, in order.
        times: the grid, falling, n + 1 numbers in [0, 1].
        conditional: whether the sample has a condition.
        companions: the model's companions by name.

    Returns:
        How many evaluations the hook adds.
    """
    return read_hook(hook).calls(asked, times, conditional, companions)

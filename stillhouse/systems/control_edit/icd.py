"""icd: two few-step maps of one teacher, noise to image and image to noise: encode a picture, decode it under
another condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require, required
from stillhouse.core.flowmap import jump
from stillhouse.core.guidance import takes_guidance
from stillhouse.core.process import Process, expand_to
from stillhouse.model import Model
from stillhouse.parts.gaps.distances import elementwise_huber
from stillhouse.parts.gaps.score import fake_for
from stillhouse.parts.players.students import with_inputs
from stillhouse.parts.targets.consistency import guided_step
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.method import Method
from stillhouse.train.option import option
from stillhouse.train.published import ADAMW, CONSTANT, Published, Settings
from stillhouse.train.recipe import Optim


@dataclass
class ICD(Method):
    """Invertible Consistency Distillation. Starodubcev, Khoroshikh, Babenko & Baranchuk, 2024 (arXiv
    2406.14539, section 4).

    Time is cut into segments. The student, the reverse map, leads from anywhere in a segment to its lower end
    on the guided teacher's path; a second player, the forward map, to the upper end on the unguided path.
    Each is consistent along the teacher's DDIM steps, and each must undo the other across a segment (the
    preserve losses), so that what is encoded can be read back.
    """

    segments: int = option(4, "calls of either map", low=1)
    levels: int = option(50, "DDIM times of the grid", low=2)
    high_guidance: float = option(8.0, "largest guidance scale of the reverse map; 1: none is learnt", low=1)
    scales: int = option(5, "guidance scales it is trained at, evenly from 1", low=2)
    preserve: float = option(1.5, "weight of the preserve losses", low=0)

    kind = "method"
    worlds = ("shapes", "mixture")
    needs = ("teacher", "data")
    optim: ClassVar[dict[str, Optim]] = {
        "student": Optim(lr=7e-4, clip=1.0),
        "forward": Optim(lr=7e-4, clip=1.0),
    }
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "iCD (2406.14539), appendix A, Stable Diffusion 1.5, adapters, whose scales are 1, 8, 12, 16 and"
            " 20; of whole networks and of other families it is the nearest",
            lr={"student": 8e-6, "forward": 8e-6},
            options={"high_guidance": 20.0},
            run={**ADAMW, **CONSTANT, "weight_decay": 0.0, "clip": 1.0},
        ),
        "sdxl": Settings("of SDXL ten scales", options={"scales": 10}),
        "lora": Settings(
            "an adapter takes no scale as an input, so it learns one",
            options={"high_guidance": 1.0},
            run={"lora": 64, "lora_alpha": 64.0, "lora_targets": "blocks"},
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            2 * self.segments <= self.levels,
            f"{self.segments} segments need {2 * self.segments} levels or more, not {self.levels}.",
        )

    def make_student(self, teacher: Denoiser) -> Denoiser:
        return with_inputs(teacher, guidance_input=True) if self.high_guidance > 1 else teacher.copy()

    def build(self) -> None:
        require(
            self.conditional or self.high_guidance == 1,
            "Guidance moves away from the unconditional answer: it needs conditions.",
        )
        self.forward: Denoiser = self.player("forward", fake_for(self.teacher, self.student))
        self.companions = {"inverse": self.forward}
        self.times = level_times(self.process, self.levels)
        self.bounds = torch.tensor(boundaries(self.segments, self.levels))

    def plain_scale(self, model: Denoiser, rows: int) -> Tensor | None:
        """What a denoiser is given as the scale where there is no guidance.

        Arguments:
            model: either map, or the teacher.
            rows: how many.

        Returns:
            Ones, (rows,), for a network that takes the scale while scales are learnt; None for any other.
        """
        learnt = self.high_guidance > 1 and takes_guidance(model)
        return torch.ones(rows, device=model.device) if learnt else None

    def turns(self, step: int) -> list[str]:
        return ["student", "forward"]

    def student_loss(self, batch: Batch) -> Tensor:
        """The reverse map: consistent down to the lower boundary under every scale, and the inverse of the
        forward map without one."""
        times, bounds = self.times.to(batch.draws.device), self.bounds.to(batch.draws.device)
        k, w = batch.draws.integers(1, self.levels + 1), self.draw_scale(batch)
        t, s = times[k], times[k - 1]
        b = bounds[torch.searchsorted(bounds, k - 1, right=True) - 1]
        consistent = self.consistency(self.student, batch, t, s, times[b], b == k - 1, w)
        return consistent + self.preserve * self._undoing(self.student, batch, upwards=False)

    def forward_loss(self, batch: Batch) -> Tensor:
        """The forward map: consistent up to the upper boundary, without guidance, and the inverse of the
        reverse map."""
        times, bounds = self.times.to(batch.draws.device), self.bounds.to(batch.draws.device)
        k = batch.draws.integers(1, self.levels)
        t, s = times[k], times[k + 1]
        b = bounds[torch.searchsorted(bounds, k + 1)]
        consistent = self.consistency(self.forward, batch, t, s, times[b], b == k + 1, None)
        return consistent + self.preserve * self._undoing(self.forward, batch, upwards=True)

    def draw_scale(self, batch: Batch) -> Tensor | None:
        """A guidance scale a sample, from the list; None where none is learnt."""
        if self.high_guidance == 1:
            return None
        return 1 + (self.high_guidance - 1) * batch.draws.integers(0, self.scales) / (self.scales - 1)

    def consistency(
        self,
        model: Denoiser,
        batch: Batch,
        t: Tensor,
        s: Tensor,
        b: Tensor,
        arrived: Tensor,
        w: Tensor | None,
    ) -> Tensor:
        """The consistency loss of one map: from ``t`` its jump to the boundary ``b`` must land where it does
        from one teacher step on, at ``s``.

        Arguments:
            model: the map, either player.
            batch: gives data, noise and condition.
            t: times in (0, 1], (B,).
            s: the next level towards the boundary, (B,).
            b: times of the boundaries, (B,).
            arrived: whether ``s`` is the boundary, (B,): the target is then the state there.
            w: guidance scales, (B,); None for none.

        Returns:
            A scalar.
        """
        x_t = self.process.noise(batch.data, t, batch.noise())
        asked = self.plain_scale(self.teacher, batch.rows) if w is None else w
        w = self.plain_scale(model, batch.rows) if w is None else w
        with torch.no_grad():
            x_s = guided_step(self.teacher, x_t, t, s, batch.cond, 1.0 if asked is None else asked)
            on = jump(model, x_s, s.clamp_min(float(self.times[1])), b, batch.cond, w)
            target = torch.where(expand_to(arrived, x_s).bool(), x_s, on)
        return elementwise_huber(jump(model, x_t, t, b, batch.cond, w), target).mean()

    def _undoing(self, model: Denoiser, batch: Batch, upwards: bool) -> Tensor:
        """Across one segment, ``model`` must come back to a noised state from where the other map has taken
        it. No guidance.

        The lowest segment starts at the first level: without any noise nothing determines which noise it
        was.
        """
        bounds = self.bounds.to(batch.draws.device)
        j = batch.draws.integers(0, self.segments)
        low, high = (self.times.to(j.device)[i] for i in (bounds[j].clamp_min(1), bounds[j + 1]))
        here, there, other = (high, low, self.student) if upwards else (low, high, self.forward)
        x = self.process.noise(batch.data, here, batch.noise())
        with torch.no_grad():
            away = jump(other, x, here, there, batch.cond, self.plain_scale(other, batch.rows))
        back = jump(model, away, there, here, batch.cond, self.plain_scale(model, batch.rows))
        return elementwise_huber(back, x).mean()

    def samplings(self) -> dict[int, Sampling]:
        times = level_times(self.process, self.levels)[boundaries(self.segments, self.levels)]
        return {self.segments: Sampling(times.flip(0).tolist(), "ddim", (1 + self.high_guidance) / 2)}


def level_times(process: Process, levels: int) -> Tensor:
    """The grid of levels: 0, and rising times up to 1, evenly spaced from ``t_min``.

    Arguments:
        process: whose ``t_min`` begins the range, and whose table, if it is one, has the levels.
        levels: how many times follow level 0.

    Returns:
        Times, (levels + 1,).
    """
    times = process.on_table(torch.linspace(process.t_min, 1.0, levels + 1))
    times[0] = 0
    return times


def boundaries(segments: int, levels: int) -> list[int]:
    """Level numbers where segments meet, 0 and ``levels`` included.

    Arguments:
        segments: how many, of nearly equal size.
        levels: number of the last level.

    Returns:
        Rising numbers, ``segments + 1`` of them.
    """
    return [math.ceil(levels * j / segments) for j in range(segments + 1)]


def follow(
    model: Denoiser,
    x: Tensor,
    times: Sequence[float],
    cond: Condition = None,
    scales: Sequence[float] | None = None,
) -> Tensor:
    """States carried by a map's jumps.

    Arguments:
        model: either map.
        x: states at ``times[0]``, (B, *shape).
        times: rising or falling, in [0, 1].
        cond: the condition of the B rows; None for none.
        scales: guidance scale of each jump; None for a map that takes none.

    Returns:
        States at the last time, (B, *shape).
    """
    for i, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        w = None if scales is None else torch.full((len(x),), scales[i], device=x.device)
        here, there = (torch.full((len(x),), v, device=x.device) for v in (t, s))
        x = jump(model, x, here, there, cond, w)
    return x


def dynamic(times: Sequence[float], guidance: float, until: float, ramp: float = 0.0) -> list[float]:
    """Guidance that acts at low noise alone: its scale at each time.

    Guidance at high noise decides what is where, and would paint a new picture; at low noise it decides what
    it looks like.

    Arguments:
        times: in [0, 1].
        guidance: the scale up to ``until - ramp``.
        until: time above which the scale is 1.
        ramp: length of the straight line between the two; 0 for a step at ``until``.

    Returns:
        A scale for each time. Raises :class:`StillhouseError` for a negative ramp.
    """
    require(ramp >= 0, f"A ramp of guidance has a length of 0 or more, not {ramp}.")
    if ramp == 0:
        return [guidance if t <= until else 1.0 for t in times]
    return [1 + (guidance - 1) * min(max((until - t) / ramp, 0.0), 1.0) for t in times]


@torch.inference_mode()
def encode(model: Model, x: Tensor, cond: Condition = None, *, seed: int = 0) -> Tensor:
    """The noise at ``t = 1`` that the forward map finds for clean samples, by one call a segment.

    They are first noised to the lowest level. Raises :class:`StillhouseError` for a model without a forward
    map.

    Arguments:
        model: a student of icd.
        x: clean samples, (B, *shape).
        cond: their condition, B rows; None for none.
        seed: of the lowest level's noise.

    Returns:
        Noise, (B, *shape).
    """
    forward = required(
        model.networks.get("inverse"), "This model has no map from data to noise; distil one with icd."
    )
    times = _route(model)
    draws = Draws(len(x), seed, "encode", device=x.device)
    start = torch.full((len(x),), times[0], device=x.device)
    scales = [1.0] * len(times[1:]) if _learnt(model) and takes_guidance(forward) else None
    return follow(forward, model.denoiser.process.noise(x, start, draws.normal_like(x)), times, cond, scales)


@torch.inference_mode()
def decode(
    model: Model,
    noise: Tensor,
    cond: Condition = None,
    *,
    guidance: float = 1.0,
    until: float = 0.7,
    ramp: float = 0.0,
) -> Tensor:
    """Samples of given noise by the reverse map, one call a segment.

    Arguments:
        model: a student of icd.
        noise: states at ``t = 1``, (B, *shape).
        cond: the condition of the B rows; None for none.
        guidance: largest scale, see :func:`dynamic`; raises :class:`StillhouseError` for one that the model
            doesn't take.
        until: time above which there is no guidance.
        ramp: length of the scale's way from 1 to ``guidance``.

    Returns:
        Samples, (B, *shape).
    """
    times = model.sampling().times
    scaled = _learnt(model) and takes_guidance(model.denoiser)
    require(
        scaled or guidance == 1,
        f"This model has learnt no guidance; a scale of {guidance} means nothing to it.",
    )
    scales = dynamic(times[:-1], guidance, until, ramp) if scaled else None
    return follow(model.denoiser.eval(), noise, times, cond, scales)


def edit(
    model: Model,
    x: Tensor,
    source: Condition,
    target: Condition,
    *,
    guidance: float = 1.0,
    until: float = 0.7,
    ramp: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Samples under another condition: encoded under theirs, decoded under the other.

    Arguments:
        model: a student of icd.
        x: clean samples, (B, *shape).
        source: the condition that describes them, B rows.
        target: the condition of the result, B rows.
        guidance: as in :func:`decode`.
        until: as in :func:`decode`.
        ramp: as in :func:`decode`.
        seed: as in :func:`encode`.

    Returns:
        Samples, (B, *shape).
    """
    return decode(
        model, encode(model, x, source, seed=seed), target, guidance=guidance, until=until, ramp=ramp
    )


def _learnt(model: Model) -> bool:
    """Whether scales of guidance were learnt."""
    return bool(model.info["options"]["high_guidance"] > 1)


def _route(model: Model) -> list[float]:
    """The forward map's times: the lowest level, the boundaries, 1."""
    lowest = float(level_times(model.denoiser.process, model.info["options"]["levels"])[1])
    return [lowest, *reversed(model.sampling().times[:-1])]

"""The losses of livetalk, from Chern et al., 2025 (arXiv 2512.23576), and Self Forcing, Huang et al., 2025
(arXiv 2506.08009), algorithm 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.schedules import VE, Cosine, Flow
from tests.systems.oracle import Case, Given
from tests.systems.video.oracle_causvid import (
    chunk_levels,
    initialisation,
    score_gradient,
    score_times,
    teacher_path,
)
from tests.systems.written import pulled


def condition(given: Given, frames: Sequence[int], text: bool = True, sound: bool = True) -> Any:
    """The condition of some frames of a stream; the features of a clip's frames come over and over. Zeros are
    no sound, a mask without a True is no text."""
    if not isinstance(given.cond, dict):
        return given.cond if text else None
    features = given.cond["features"][:, [f % given.shape[0] for f in frames]]
    return {**given.cond, "mask": given.cond["mask"] & text, "features": features * sound}


def guided(given: Given, x_t: Tensor, t: Tensor, frames: Sequence[int], text: float, sound: float) -> Tensor:
    """``D(none) + w_txt (D(txt) - D(none)) + w_aud (D(txt, aud) - D(txt))``; a label is text."""
    net = given.teacher
    if net.net.config["guidance_input"]:
        return net(x_t, t, condition(given, frames), guidance=torch.full((len(x_t),), text).double()).x0
    empty, worded, full = (
        net(x_t, t, condition(given, frames, *parts)).x0
        for parts in ((False, False), (True, False), (True, True))
    )
    return empty + text * (worded - empty) + sound * (full - worded)


def given_frame(given: Given, x: Tensor, clean: Tensor) -> Tensor:
    """``x`` with the first frame of real clips in the place of its own."""
    return torch.cat([clean[:, :1], x[:, 1:]], 1)


def frame_times(given: Given, t: Tensor, frames: int, first: bool) -> Tensor:
    """A time a frame, the first one clean where it is given."""
    each = t[:, None].repeat(1, frames)
    if first:
        each[:, 0] = given.process.t_min
    return each


def causal(
    given: Given, x: Tensor, t: float, past: list[Tensor], frames: Sequence[int], first: bool
) -> Tensor:
    """The student's clean estimate of a chunk after clean ones: the whole is evaluated under its mask. A
    network of one block keeps of a frame what that frame alone has, so that dropped ones leave no trace."""
    size = x.shape[1]
    clean = torch.full((len(x), len(frames) - size), given.process.t_min).double()
    times = torch.cat([clean, frame_times(given, given.at(t), size, first)], 1)
    (block,) = given.student.net.blocks
    hook = block.attention.key_value.register_forward_hook(  # a cache is written without gradient
        lambda _m, _i, out: torch.cat([out[:, :-size].detach(), out[:, -size:]], 1)
    )
    made = given.student(torch.cat([*past, x], 1), times, condition(given, frames)).x0[:, -size:]
    hook.remove()
    return given_frame(given, made, given.x) if first else made


def stream(given: Given) -> Tensor:
    """The last clip of a stream of the student's own: one exit for all chunks, whose last calls alone have
    gradient; only ``sink`` first frames and the latest of a clip's length are looked back at."""
    options, own = given.options, given.draws("samples")
    chunk, clip, first = options["chunk"], given.shape[0], options["reference"]
    more = max(0, options["longest"] - clip) // chunk
    length = clip + chunk * given.draws("length").one_integer(0, more + 1)
    times = options["levels"][: given.draws("exit").one_integer(1, len(options["levels"]) + 1)]
    made: list[Tensor] = []
    for start in range(0, length, chunk):
        recent = clip - chunk - options["sink"] if start > clip - chunk else start
        kept = [f for f in range(start) if f < options["sink"] or f >= start - recent]
        frames, known = kept + list(range(start, start + chunk)), first and start == 0
        past = [torch.cat(made, 1)[:, kept].detach()] if kept else []
        x = given.process.sigma(given.at(times[0])[0]) * own.normal(chunk, *given.shape[1:])
        for t, s in zip(times[:-1], times[1:], strict=True):
            x = given_frame(given, x, given.x) if known else x
            with torch.no_grad():
                estimate = causal(given, x, t, past, frames, known)
                x = given.noise(estimate, given.at(s), own.normal(chunk, *given.shape[1:]))
        x = given_frame(given, x, given.x) if known else x
        made.append(causal(given, x, times[-1], past, frames, known))
    return torch.cat(made, 1)


def last_clip(given: Given) -> tuple[Tensor, list[int], bool]:
    """What is scored of a stream, the numbers of its frames, and whether the first one was given."""
    whole, clip = stream(given), given.shape[0]
    numbers = list(range(whole.shape[1] - clip, whole.shape[1]))
    return whole[:, -clip:], numbers, given.options["reference"] and numbers[0] == 0


def bank(given: Given) -> dict[str, Tensor]:
    w = given.options["path_guidance"]
    return teacher_path(given, lambda _, x, t: guided(given, x, t, range(given.shape[0]), w, w))


def ode_loss(given: Given) -> Tensor:
    levels = chunk_levels(given, given.draws("student"))
    if given.options["reference"]:
        levels[:, 0] = len(given.options["levels"])
    return initialisation(given, levels)


def matching_loss(given: Given) -> Tensor:
    """The first frame, where it is given, is clean in the states and certain in both scores."""
    (x, frames, first), own = last_clip(given), given.draws("student")
    t = score_times(given, own)
    with torch.no_grad():
        x_t = given.noise(x, t, own.normal(*given.shape))
        if first:
            x_t, t = given_frame(given, x_t, given.x), frame_times(given, t, given.shape[0], True)
        scales = given.options["guidance"], given.options["sound_guidance"]
        real = guided(given, x_t, t, frames, *scales)
        fake = given.net("fake")(x_t, t, condition(given, frames)).x0
        if first:
            real, fake = given_frame(given, real, given.x), given_frame(given, fake, given.x)
        g = score_gradient(x, real, fake)
    return pulled(x, g)


def fake_loss(given: Given) -> Tensor:
    """Denoising of the stream's last clip; with a given frame the velocity's error on the others."""
    x, frames, first = last_clip(given)
    x, own, net, process = x.detach(), given.draws("fake"), given.net("fake"), given.process
    t, eps = score_times(given, own), own.normal(*given.shape)
    x_t = given.noise(x, t, eps)
    if not first:
        return error_of(given, net, x, x_t, t, eps, frames)
    pred = net(
        given_frame(given, x_t, given.x),
        frame_times(given, t, given.shape[0], True),
        condition(given, frames),
    )
    time = t.reshape(-1, 1, 1, 1, 1)
    velocity = process.dalpha(time) * x + process.dsigma(time) * eps
    u = process.dalpha(time) * pred.x0 + process.dsigma(time) * (x_t - process.alpha(time) * pred.x0) / (
        process.sigma(time)
    )
    return (u - velocity)[:, 1:].square().sum() / x.numel()


def error_of(
    given: Given, net: Denoiser, x: Tensor, x_t: Tensor, t: Tensor, eps: Tensor, frames: Sequence[int]
) -> Tensor:
    """Plain denoising of the clip under its own frames' condition."""
    whole, given.cond = given.cond, condition(given, frames)
    value = given.denoising(net, x, t, eps)
    given.cond = whole
    return value


WHOLE = {
    "levels": (1.0, 0.75, 0.375),
    "path_guidance": 1.7,
    "guidance": 2.5,
    "shift": 3.0,
    "warmup": 0,
    "longest": 0,
}
LONG = {**WHOLE, "longest": 12, "sink": 2}
TALK = {"kind": "talking", "frames": None}
SOUND = {**WHOLE, "sound_guidance": 0.6, "longest": 16}
CASES = [
    Case(player, loss, process, kind, options, embedded, stage, within, world=world)
    for player, loss, stage in (
        ("bank", bank, 0),
        ("student", ode_loss, 0),
        ("student", matching_loss, 1),
        ("fake", fake_loss, 1),
    )
    for process, kind, options, embedded, within, world in (
        (Flow(), "velocity", LONG, False, 0, {}),
        (VE(), "edm", {**WHOLE, "reference": True}, False, 1, {}),
        (Cosine(), "v", {**SOUND, "sound_guidance": 2.5}, True, 2, TALK),
        (Flow(), "velocity", {**SOUND, "reference": True}, False, 3, TALK),
    )
]

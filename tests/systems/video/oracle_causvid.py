"""The losses of causvid, from Yin et al., 2024 (arXiv 2412.07772), algorithm 1, eq. 6 and section 4.2."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stillhouse.core.conditions import restored
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Cosine, Flow
from tests.systems.oracle import Case, Given
from tests.systems.written import pulled


def plainly(given: Given, x: Tensor, t: Tensor) -> Tensor:
    return given.guided(given.teacher, x, t, given.options["path_guidance"])


def teacher_path(given: Given, guided: Callable[..., Tensor] = plainly) -> dict[str, Tensor]:
    """Euler's method down the shifted grid, the levels among its times; the states at the levels and the
    end."""
    options, shift = given.options, given.options["shift"]
    even = [i / options["teacher_steps"] for i in range(options["teacher_steps"] + 1)]
    times = sorted({shift * t / (1 + (shift - 1) * t) for t in even} | set(options["levels"]))[::-1]
    x = given.process.sigma(given.at(1.0)[0]) * given.draws("bank").normal(*given.shape)
    kept = [x]
    with torch.no_grad():
        for t, s in zip(times[:-1], times[1:], strict=True):
            clean = guided(given, x, given.at(t))
            noise = (x - given.process.alpha(given.at(t)[0]) * clean) / given.process.sigma(given.at(t)[0])
            x = given.noise(clean, given.at(s), noise)
            if s in options["levels"] or s == 0:
                kept.append(x)
    return {"path": torch.stack(kept, 1)}


def chunk_levels(given: Given, own: Draws) -> Tensor:
    """The number of each frame's level, one for each chunk; that of the clean one is the last."""
    count, chunk, frames = len(given.options["levels"]) + 1, given.options["chunk"], given.shape[0]
    share = own.uniform(0, 1, -(-frames // chunk))
    return torch.stack([(count * share[:, f // chunk]).floor() for f in range(frames)], 1).long()


def times_of(given: Given, levels: Tensor) -> Tensor:
    """The frames' times, (B, F), in float32 as the method has them."""
    return torch.tensor([*given.options["levels"], given.process.t_min], dtype=torch.float32)[levels]


def initialisation(given: Given, levels: Tensor) -> Tensor:
    """Equation 6: each frame from its level on the teacher's path to the path's end; clean ones are context
    alone."""
    path = given.bank["path"]
    y = torch.stack([path[r, n, f] for r, own in enumerate(levels) for f, n in enumerate(own)])
    y = y.reshape(len(path), *given.shape)
    error = (
        given.student(y, times_of(given, levels), restored(dict(given.bank)).get("cond")).x0 - path[:, -1]
    ).square()
    noisy = (levels < len(given.options["levels"]))[..., None, None, None]
    return (noisy * error).sum() / error.numel()


def score_times(given: Given, own: Draws) -> Tensor:
    """One time a clip, of a table of 1000, shifted towards the noise; float32."""
    shift, t = given.options["shift"], own.integers(0, 1000) / 1000
    t = (shift * t / (1 + (shift - 1) * t)).clamp(0.02, 0.98)
    return given.process.t_min + (1 - given.process.t_min) * t


def score_gradient(x: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """The difference of two clean estimates of clips, over one number a clip."""
    return (fake - real) / (x - real).abs().mean((1, 2, 3, 4), keepdim=True)


def samples(given: Given) -> Tensor:
    """One causal call on real clips, every chunk at a level of its own."""
    t = times_of(given, chunk_levels(given, given.draws("levels")))
    x_t = given.noise(given.x, t, given.draws("samples").normal(*given.shape))
    return given.student(x_t, t, given.cond).x0


def ode_loss(given: Given) -> Tensor:
    return initialisation(given, chunk_levels(given, given.draws("levels")))


def matching_loss(given: Given) -> Tensor:
    """Both scores are of the whole clip at one time; clean chunks stay as they are."""
    x, own = samples(given), given.draws("student")
    t = score_times(given, own)
    with torch.no_grad():
        x_t = given.noise(x, t, own.normal(*given.shape))
        real = given.guided(given.teacher, x_t, t, given.options["guidance"])
        g = score_gradient(x, real, given.net("fake")(x_t, t, given.cond).x0)
    noisy = chunk_levels(given, given.draws("levels")) < len(given.options["levels"])
    return pulled(x, noisy[..., None, None, None] * g)


def fake_loss(given: Given) -> Tensor:
    own = given.draws("fake")
    t, eps = score_times(given, own), own.normal(*given.shape)
    return given.denoising(given.net("fake"), samples(given).detach(), t, eps)


WHOLE = {
    "levels": (1.0, 0.75, 0.375),
    "chunk": 3,
    "path_guidance": 1.7,
    "guidance": 2.5,
    "shift": 3.0,
    "fake_per_student": 1,
    "warmup": 0,
}
CASES = [
    Case(player, loss, process, kind, WHOLE, embedded, stage, world={"frames": 7})  # a chunk is cut
    for player, loss, stage in (
        ("bank", teacher_path, 0),
        ("student", ode_loss, 0),
        ("student", matching_loss, 1),
        ("fake", fake_loss, 1),
    )
    for process, kind, embedded in (
        (Flow(), "velocity", False),
        (Cosine(), "v", True),
        (VE(), "edm", False),
    )
]

"""What causal video students are made with: teacher paths, a level for each chunk, one score time for the
clip, their own rollouts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.adapters import Adapted
from stillhouse.core.conditions import Condition, flattened
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.process import Process, expand_to
from stillhouse.model import Codec
from stillhouse.models.video import video_network
from stillhouse.parts.gaps.score import dmd_gradient, fake_for, surrogate_loss
from stillhouse.parts.states.time_sampler import trained
from stillhouse.samplers.rollout import rollout
from stillhouse.samplers.sampling import Sampling, Stream
from stillhouse.samplers.streaming import Cached, Clamped, of_frames
from stillhouse.solvers.ddim import DDIM
from stillhouse.solvers.grids import shifted
from stillhouse.solvers.simple import Renoise


# -- who sees what ---------------------------------------------------------------------------------
def make_causal(student: Denoiser, chunk: int) -> None:
    """From now on a frame of ``student`` sees its own chunk and those before it; the weights stay what they
    are.

    Arguments:
        student: of a video network of its own, which is changed in place; raises :class:`StillhouseError` for
            an adapter.
        chunk: frames of a chunk.
    """
    require(
        not isinstance(student, Adapted),
        "A causal student can't share its network with a teacher that sees the clip; leave out --lora.",
    )
    video_network(student, "A causal student").see(chunk)


def whole_clip_fake(teacher: Denoiser, student: Denoiser) -> Denoiser:
    """The network to become the fake score (see :func:`stillhouse.parts.gaps.score.fake_for`), which sees the
    whole clip.

    Arguments:
        teacher: copied, unless it is a closed form.
        student: copied in the place of a closed form.

    Returns:
        A trainable copy, of a video network.
    """
    fake = fake_for(teacher, student)
    video_network(fake, "The fake score of a video").see(0)
    return fake


def check_levels(levels: Sequence[float], what: str) -> None:
    """Refuse times of a student's calls that don't fall from 1.

    Arguments:
        levels: the times.
        what: what they are, with which the error's sentence begins.
    """
    number = all(isinstance(s, int | float) and 0 < s <= 1 for s in levels)
    falling = number and all(s < t for t, s in zip(levels, levels[1:], strict=False))
    require(
        len(levels) > 0 and falling and levels[0] == 1,
        f"{what} are times that fall from 1, all above 0, not {list(levels)}.",
    )


def streaming(levels: Sequence[float], chunk: int, frames: int, sink: int = 0) -> Sampling:
    """How a student of clips of ``frames`` frames streams: re-noising from level to level, looking back no
    further than it did in training.

    Arguments:
        levels: falling times of the calls for a chunk.
        chunk: frames that are made together.
        frames: of a clip; 0 for a student that looks back as far as there is anything.
        sink: first frames that are kept for ever.

    Returns:
        The sampling, of as many calls a chunk as there are levels.
    """
    return Sampling([*levels, 0.0], "renoise", stream=Stream(chunk, max(0, frames - chunk), sink))


# -- the teacher's path ----------------------------------------------------------------------------
def trajectories(
    teacher: Denoiser,
    shape: tuple[int, ...],
    draws: Draws,
    cond: Condition,
    levels: Sequence[float],
    steps: int,
    shift: float = 1.0,
) -> dict[str, Tensor]:
    """States on the teacher's Euler path from pure noise.

    Arguments:
        teacher: of clips, under its guidance.
        shape: of one clip.
        draws: the source of randomness.
        cond: the condition of the draws' rows; None for none.
        levels: the K times whose states are kept, falling from 1.
        steps: of the time grid, to which the levels are added where they lie between its times.
        shift: of that grid towards the noise; 1 for none.

    Returns:
        ``path`` (rows, K + 1, *shape), the states at the levels and at the end; and the condition, flattened
        to tensors of a bank, if there is one.
    """
    grid = sorted({*shifted(steps, shift).tolist(), *levels}, reverse=True)
    states: list[Tensor] = []

    def record(x: Tensor, t: Tensor) -> None:
        if float(t) in levels or float(t) == 0:
            states.append(x)

    with torch.no_grad():
        rollout(teacher, teacher.process.start(draws, shape), grid, DDIM(), cond, record=record)
    return {"path": torch.stack(states, 1), **flattened(cond)}


# -- a level for each chunk ------------------------------------------------------------------------
def chunk_levels(draws: Draws, count: int, chunk: int, frames: int) -> Tensor:
    """The number of the level that each frame is at, drawn uniformly for each chunk by itself.

    Arguments:
        draws: the source of randomness.
        count: how many levels there are.
        chunk: frames of a chunk.
        frames: of a clip.

    Returns:
        Numbers in 0 … count - 1, (rows, frames) int64.
    """
    drawn = draws.uniform(0, count, -(-frames // chunk), dtype=torch.float64).long()
    return drawn.repeat_interleave(chunk, 1)[:, :frames]


def level_times(process: Process, levels: Sequence[float], index: Tensor) -> Tensor:
    """The times of numbered levels, the clean one coming last.

    Arguments:
        process: whose ``t_min`` is the clean level.
        levels: times of the others.
        index: numbers of levels, (B, F), in 0 … len(levels).

    Returns:
        Times, (B, F) float32.
    """
    return index.new_tensor([*levels, process.t_min], dtype=torch.float32)[index]


def ode_loss(
    student: Denoiser, path: Tensor, index: Tensor, levels: Sequence[float], cond: Condition
) -> Tensor:
    """ODE initialisation (Yin et al., 2024, arXiv 2412.07772, eq. 6): from states on the teacher's path to
    its end.

    Chunks at the clean level are context and have no loss, at the price of a smaller mean.

    Arguments:
        student: of clips, with a time for each frame.
        path: states at the K levels and at the end, (B, K + 1, F, …).
        index: the number of each frame's level, (B, F); K is the clean one.
        levels: the K times.
        cond: the condition of the B rows; None for none.

    Returns:
        A scalar.
    """
    rows, frames = (
        torch.arange(len(path), device=path.device)[:, None],
        torch.arange(path.shape[2], device=path.device),
    )
    pred = student(path[rows, index, frames], level_times(student.process, levels, index), cond).x0
    gap = (pred - path[:, -1]) ** 2
    return (expand_to(index < len(levels), gap) * gap).mean()


# -- the last clip of a longer stream ---------------------------------------------------------------
def last_clip(stream: Tensor, frames: int, codec: Codec | None) -> Tensor:
    """The end of a stream as a clip of its own (Huang et al., 2025, arXiv 2506.08009).

    An autoencoder that compresses time makes the first latent frame of a clip from a single picture, and any
    later one from several: so the first frame is decoded, with what is before it, and encoded as a picture.

    Arguments:
        stream: of a student, (B, L, …), longer than a clip.
        frames: of a clip.
        codec: between clips of pictures and latents; None where the stream is pictures itself.

    Returns:
        A clip, (B, frames, …); its first frame carries no gradient where there is a codec.
    """
    before, clip = stream.shape[1] - frames, stream[:, -frames:]
    if codec is None:
        return clip
    with torch.no_grad():
        first = codec.encode(codec.decode(stream[:, : before + 1])[:, -1:])
    return torch.cat([first, clip[:, 1:]], 1)


# -- the score difference --------------------------------------------------------------------------
def score_times(process: Process, draws: Draws, shift: float) -> Tensor:
    """One time per clip: uniform on a table of 1000, shifted towards the noise, kept in [0.02, 0.98] of
    ``[t_min, 1]``.

    Arguments:
        process: whose ``t_min`` begins the range.
        draws: the source of randomness.
        shift: the times' shift, ``shift t / (1 + (shift - 1) t)``; 1 for none.

    Returns:
        Times, (rows,).
    """
    t = draws.integers(0, 1000) / 1000
    t = (shift * t / (1 + (shift - 1) * t)).clamp(0.02, 0.98)
    return trained(process, process.t_min + (1 - process.t_min) * t)


def clip_matching(
    x: Tensor,
    real: Denoiser,
    fake: Denoiser,
    cond: Condition,
    draws: Draws,
    shift: float,
    learns: Tensor | None = None,
) -> Tensor:
    """A loss along the score difference of whole clips: one time and one normaliser for all frames of a clip.

    Arguments:
        x: the student's clips, (B, F, …), with its graph.
        real: the teacher, under its guidance.
        fake: the score of the student's clips.
        cond: the condition of the B rows; None for none.
        draws: the source of randomness.
        shift: of the score times towards the noise; 1 for none.
        learns: which frames move, (B, F); None: all. Real ones must not: where a whole clip is real, the
            teacher agrees and the normaliser is 0.

    Returns:
        A scalar.
    """
    t = score_times(real.process, draws, shift)
    g = dmd_gradient(x, t, draws.normal_like(x), real, fake, cond)
    return surrogate_loss(
        x, g if learns is None else torch.where(learns.reshape(*learns.shape, *[1] * (x.dim() - 2)), g, 0)
    )


# -- the student's own path ------------------------------------------------------------------------
def self_rollout(
    student: Denoiser,
    levels: Sequence[float],
    draws: Draws,
    cond: Condition,
    shape: Sequence[int],
    *,
    window: int = 0,
    sink: int = 0,
    known: Tensor | None = None,
    grad_from: int = 0,
) -> Tensor:
    """A clip that a causal student makes by itself, by chunks (Huang et al., 2025, arXiv 2506.08009,
    algorithm 1).

    Each chunk carries the gradient of its last call alone; finished and detached it goes into the cache, so
    that no gradient crosses chunks. Equal draws meet the states that a stream meets.

    Arguments:
        student: a causal denoiser of clips.
        levels: falling times of the calls for a chunk; fewer of them to exit early.
        draws: the source of randomness.
        cond: the condition of the draws' rows, of all frames; None for none.
        shape: of one clip, (F, C, H, W), of any length F.
        window: past frames that the cache keeps; 0 for all.
        sink: first frames that it keeps for ever.
        known: first frames that are given, (B, k, C, H, W), fewer than a chunk; None for none.
        grad_from: number of the first frame whose chunk carries gradient; those before it carry none.

    Returns:
        Clips, (rows, *shape).
    """
    length, *frame = shape
    cached = Cached(student, window, sink)
    size = cached.network.chunk
    made = []
    for number, first in enumerate(range(0, length, size)):
        chunk_cond = of_frames(cond, first, size)
        noise = student.process.start(draws, (size, *frame), levels[0])
        walked = Clamped(cached, known) if known is not None and number == 0 else cached
        with torch.set_grad_enabled(torch.is_grad_enabled() and first >= grad_from):
            made.append(
                rollout(walked, noise, [*levels, 0.0], Renoise(), chunk_cond, draws=draws, grad_last=True)
            )
        if first + size < length:
            cached.keep(made[-1].detach(), chunk_cond)
    return torch.cat(made, 1)[:, :length]

"""A causal video model as a stream: each chunk of frames is one ordinary walk, whose past is a cache of keys
and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser, Wrapped
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require, required
from stillhouse.core.guidance import takes_guidance
from stillhouse.core.prediction import Prediction
from stillhouse.models.video import KVCache, VideoDiT, video_network
from stillhouse.samplers.rollout import Hook, rollout
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers import make_solver

# one condition for the whole stream, or what makes that of chunk 0, 1, 2 …
ChunkCondition = Condition | Callable[[int], Condition]


class Cached(Wrapped):
    """A causal denoiser that is given one chunk of frames at a time and has the chunks before it in a cache.

    It is a denoiser like any other, so that a chunk is made by ``rollout(Cached(student), noise, grid,
    solver)``. Only :meth:`keep` changes the cache. ``window, sink``: as in
    :class:`stillhouse.models.video.KVCache`. Raises :class:`StillhouseError` for a network that is not
    causal, or a window that reaches further back than any in its training.
    """

    def __init__(self, denoiser: Denoiser, window: int = 0, sink: int = 0):
        super().__init__(denoiser)
        self.cache, net = KVCache(window, sink), self.network
        require(
            net.chunk > 0,
            "A stream needs a causal network; this one sees whole clips (distil a causal student first).",
        )
        reach = net.frames - net.chunk
        require(
            not net.frames or window <= max(reach, 0),
            f"A window of {window} frames and a chunk of {net.chunk} reach beyond the {net.frames} frames "
            "that this network learned from; "
            f"take a window of at most {reach}.",
        )

    @property
    def network(self) -> VideoDiT:
        return video_network(self, "A stream")

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition = None, **extra: Any) -> Prediction:
        """Predict one chunk, given what is in the cache.

        Arguments:
            x_t: the chunk's state, (B, chunk, C, H, W).
            t: times in [0, 1], (B,), or one a frame, (B, chunk).
            cond: the condition of the B rows for this chunk; None for none.
            extra: ``s`` and ``guidance``, as of :meth:`Denoiser.forward`.

        Returns:
            The prediction of the chunk, (B, chunk, C, H, W).
        """
        with self.network.remembering(self.cache):
            return self.plain(x_t, t, cond, **extra)

    @torch.no_grad()
    def keep(self, chunk: Tensor, cond: Condition = None, guidance: Tensor | None = None) -> None:
        """The clean pass: a finished chunk writes its keys and values into the cache, at the cost of one
        evaluation.

        Arguments:
            chunk: clean frames, (B, chunk, C, H, W); the network is evaluated at ``t_min``.
            cond: the condition of the B rows for this chunk; None for none.
            guidance: scales ``w``, (B,), 1 for none, for a network that takes them; None otherwise.
        """
        t = torch.full((len(chunk),), self.process.t_min, device=chunk.device)
        with self.network.remembering(self.cache, write=True):
            self.plain(chunk, t, cond, guidance=guidance)


class Clamped(Wrapped):
    """A denoiser of clips whose first frames are ``known`` (B, k, C, H, W).

    They take the place of the state's first frames, at the clean time, and of the prediction's: the
    reference-frame clamp of Chern et al., 2025 (arXiv 2512.23576). The denoiser must take times frame by
    frame.
    """

    def __init__(self, denoiser: Denoiser, known: Tensor):
        super().__init__(denoiser)
        self.known = known

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition = None, **extra: Any) -> Prediction:
        """Predict a clip, its first k frames being known.

        Arguments:
            x_t: states, (B, F, C, H, W); the first k frames are not read.
            t: times in [0, 1], (B,), or one a frame, (B, F).
            cond: the condition of the B rows; None for none.
            extra: ``s`` and ``guidance``, as of :meth:`Denoiser.forward`.

        Returns:
            The prediction, (B, F, C, H, W), whose clean estimate holds the known frames.
        """
        count = self.known.shape[1]
        frames = torch.arange(x_t.shape[1], device=x_t.device)
        each = torch.where(frames < count, self.process.t_min, t if t.dim() == 2 else t[:, None])
        pred = self.plain(torch.cat([self.known, x_t[:, count:]], 1), each, cond, **extra)
        return pred.with_x0(torch.cat([self.known, pred.x0[:, count:]], 1))


def of_frames(cond: Condition, first: int, count: int, wanted: int | None = None) -> Condition:
    """The part of a condition that belongs to some of the frames: feature vectors given frame by frame are
    cut.

    Arguments:
        cond: the condition of the B rows; only ``features`` of shape (B, F, C) in a dict are cut.
        first: number of the first frame, from 0.
        count: number of frames.
        wanted: how many of these are kept in the end; the last feature vector stands for the others where
            there are none. None for all.

    Returns:
        The condition with ``features`` (B, count, C); any other one as it is.

    Raises:
        StillhouseError: where the features end before the wanted frames do.
    """
    if not isinstance(cond, dict) or "features" not in cond or cond["features"].dim() != 3:
        return cond
    features = cond["features"]
    held, last = features.shape[1], first + (count if wanted is None else min(count, wanted))
    require(last <= held, f"The condition holds {held} frames, but frame {last} is wanted.")
    part = features[:, first : first + count]
    missing = part[:, -1:].expand(-1, count - part.shape[1], -1)
    return {**cond, "features": torch.cat([part, missing], 1) if missing.shape[1] else part}


def stream(
    model: Denoiser,
    sampling: Sampling,
    shape: Sequence[int],
    cond: ChunkCondition,
    draws: Draws,
    *,
    frames: int = 0,
    given: Tensor | None = None,
    start: Tensor | None = None,
    hooks: Sequence[Hook] = (),
    dtype: torch.dtype = torch.float32,
) -> Iterator[Tensor]:
    """A video as chunks that come as they are made; memory does not grow with length where there is a window.

    A chunk costs one evaluation per time of ``sampling`` and one clean pass, which is made when the next
    chunk is requested.

    Arguments:
        model: a causal student.
        sampling: how each chunk is walked; it has a stream, and neither saved hooks, a companion nor a number
            of blocks.
        shape: of one frame.
        cond: the condition of the rows for the whole stream, feature vectors per frame being cut to the
            chunk; a function of the chunk's number 0, 1, 2 … (a prompt that changes); or None for none.
        draws: the source of randomness, of as many rows as there are videos.
        frames: how many new ones to make, the last chunk being cut; 0 for no end.
        given: first frames to go on from, (rows, k, *shape), which are not repeated: whole chunks of them
            fill the cache, the rest is clamped; None for none.
        start: noise to walk from, (rows, frames, *shape), frames counted from the first given one; None to
            draw it.
        hooks: called between the clean estimate and the step, as in
            :func:`stillhouse.samplers.rollout.rollout`.
        dtype: of the states.

    Yields:
        Chunks (rows, up to the student's chunk, *shape).

    Raises:
        StillhouseError: at the first chunk, for a model or sampling that does not stream, and for given
        frames that don't fit.
    """
    how = required(
        sampling.stream, "This model makes whole clips; only a causal student's sampling is a stream."
    )
    times, solver = sampling.times, make_solver(sampling.solver)
    size = how.chunk
    leg = sampling.legs[0]
    require(
        not (leg.hooks or leg.network or leg.blocks),
        "A stream is walked by all blocks of the model's own network, without saved hooks; its sampling "
        "names others.",
    )
    require(frames >= 0, f"A stream has a number of frames, or 0 for no end, not {frames}.")
    require(
        sampling.guidance == 1 or takes_guidance(model),
        "A stream is walked without guidance; distil it into the student.",
    )
    cached = Cached(model, how.window, how.sink)
    require(
        cached.network.chunk == size,
        f"This student makes {cached.network.chunk} frames at a time, not {size}.",
    )
    scale = (
        torch.full((draws.rows,), sampling.guidance, device=draws.device) if takes_guidance(model) else None
    )

    # number of frames after the last one that is kept, from the first given one; None where there is no end
    end = frames + (0 if given is None else given.shape[1]) if frames else None

    def cond_of(number: int) -> Condition:
        first = number * size
        return cond(number) if callable(cond) else of_frames(cond, first, size, end and end - first)

    def keep(chunk: Tensor, number: int) -> None:
        with torch.inference_mode():
            cached.keep(chunk, cond_of(number), scale)

    def make(number: int, known: Tensor | None) -> Tensor:
        with torch.inference_mode():  # not around the loop: a generator would leave it on while it waits
            if start is None:
                noise = model.process.start(draws, (size, *shape), times[0], sampling.start, dtype)
            else:
                noise = start[:, number * size : (number + 1) * size]
            walked = cached if known is None else Clamped(cached, known)
            return rollout(
                walked, noise, times, solver, cond_of(number), draws=draws, guidance=scale, hooks=hooks
            )

    number, known = 0, None
    if given is not None:
        wanted = (draws.rows, *shape)
        found = (len(given), *given.shape[2:])
        require(
            found == wanted and given.shape[1] > 0,
            f"The given frames must be {wanted} each, at least one, not {tuple(given.shape)}.",
        )
        whole, rest = divmod(given.shape[1], size)
        for number, chunk in enumerate(given[:, : whole * size].split(size, 1) if whole else ()):
            keep(chunk, number)
        number, known = whole, given[:, whole * size :] if rest else None
    made = 0
    while not frames or made < frames:
        chunk = make(number, known)
        new = chunk if known is None else chunk[:, known.shape[1] :]
        yield new[:, : frames - made] if frames else new
        made += new.shape[1]
        keep(chunk, number)
        number, known = number + 1, None

"""Samples of a model: the legs of a sampling walked one after the other, from fresh noise to the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.prediction import Prediction
from stillhouse.core.process import Process, convert
from stillhouse.samplers.hooks import SavedHook, Walked, read_hook
from stillhouse.samplers.rollout import Hook, rollout
from stillhouse.samplers.sampling import Leg, Sampling
from stillhouse.samplers.streaming import stream
from stillhouse.solvers import make_solver
from stillhouse.solvers.simple import renoise_up

NONE: Mapping[str, Denoiser] = {}


def draw_samples(
    model: Denoiser,
    sampling: Sampling,
    shape: Sequence[int],
    cond: Condition,
    draws: Draws,
    hooks: Sequence[Hook] = (),
    *,
    dtype: torch.dtype = torch.float32,
    start: Tensor | None = None,
    networks: Mapping[str, Denoiser] = NONE,
) -> Tensor:
    """Samples ``(draws.rows, *shape)`` of ``model`` by ``sampling``, under ``inference_mode``.

    The walk starts from ``sigma(times[0]) z``, which is the prior at ``t = 1``; a student may start lower,
    from pure noise of the level it was trained to start at (or from ``sampling.start``).

    Arguments:
        model: the denoiser.
        sampling: how it is sampled.
        shape: of one sample; a stream makes clips of any number of frames.
        cond: the condition of the rows; None for none.
        draws: the source of randomness; its rows are those of the samples.
        hooks: beside those of the sampling, as in :func:`stillhouse.samplers.rollout.rollout`.
        dtype: of the states.
        start: the state (rows, *shape) to start from, such as a text with gaps; None for noise.
        networks: the model's companions by name, for samplings that name one.

    Returns:
        States at the end of the last leg; a stream's chunks one after the other.

    Raises:
        StillhouseError: where a leg wants a companion that is not there, or the legs don't fit together.
    """
    if sampling.stream:
        length, *frame = shape
        require(length >= 1, f"A clip has at least one frame, not {length}.")
        chunks = stream(
            model, sampling, frame, cond, draws, frames=length, start=start, hooks=hooks, dtype=dtype
        )
        return torch.cat(list(chunks), 1)
    with torch.inference_mode():
        x, before = start, None
        for number, leg in enumerate(sampling.legs):
            net = leg.walker(model, networks)
            sized = (
                (*shape[:-2], *leg.size) if leg.size else tuple(shape) if x is None else tuple(x.shape[1:])
            )
            if before is not None and x is not None:
                x = handed_on(x, *before, net.process, leg, sized, draws)
            elif x is None:
                x = net.process.start(draws, sized, leg.times[0], leg.start, dtype)
            x = _walk_leg(net, leg, x, cond, draws, hooks, networks, number)
            before = net.process, leg.times[-1]
        assert x is not None
        return x


def _walk_leg(
    net: Denoiser,
    leg: Leg,
    x: Tensor,
    cond: Condition,
    draws: Draws,
    hooks: Sequence[Hook] = (),
    networks: Mapping[str, Denoiser] = NONE,
    number: int = 0,
) -> Tensor:
    """Walk one leg.

    Arguments:
        net: the denoiser that walks.
        leg: its times, solver, guidance and saved hooks.
        x: states at its first time, (B, *shape).
        cond: the condition of the B rows; None for none.
        draws: the source of randomness; a saved hook has a stream of its own.
        hooks: called after the leg's own.
        networks: the companions that its hooks may call.
        number: of the leg, which names its hooks' streams of random numbers.

    Returns:
        The states at its last time, (B, *shape).
    """
    kept = [
        _bound(read_hook(hook), Walked(networks, cond, draws.stream("hook", number, i), leg.times))
        for i, hook in enumerate(leg.hooks)
    ]
    with _limited(net, leg.blocks):
        return rollout(
            leg.guided(net),
            x,
            leg.times,
            make_solver(leg.solver),
            cond,
            draws=draws,
            hooks=[*kept, *hooks],
        )


def _bound(hook: SavedHook, walked: Walked) -> Hook:
    for name in hook.networks:
        require(
            name in walked.networks,
            f"The hook '{hook.name}' wants the companion '{name}'; the model has "
            f"{', '.join(walked.networks) or 'none'}.",
        )

    def correct(pred: Prediction, s: Tensor) -> Prediction:
        return hook.apply(pred, s, walked)

    return correct


def handed_on(
    x: Tensor, process: Process, end: float, target: Process, leg: Leg, shape: Sequence[int], draws: Draws
) -> Tensor:
    """The state that a leg starts from, given where the leg before it ended.

    Arguments:
        x: the state at the end of the leg before, (B, …).
        process: the process of the leg before.
        end: the last time of the leg before, in [0, 1].
        target: the process of this leg.
        leg: this leg, whose first time the state is brought to.
        shape: of one state of this leg; only a clean state changes its size.
        draws: the source of randomness, where the leg starts above the end of the one before.

    Returns:
        The state, (B, *shape).

    Raises:
        StillhouseError: where a noisy state would have to change its size, or the leg would start below it.
    """
    if tuple(x.shape[1:]) != tuple(shape):
        require(end == 0, "A leg of another size starts from the clean end of the one before it.")
        x = F.interpolate(x, size=tuple(shape[-2:]), mode="bilinear", antialias=True, align_corners=False)
    t = torch.full((len(x),), end, dtype=torch.float64, device=x.device)
    s = torch.full_like(t, leg.times[0])
    if end == 0:
        return target.noise(x, s, draws.normal_like(x))
    if process.config() != target.config():
        x, t = convert(x, t, process, target)
    if torch.allclose(t, s, atol=1e-9):
        return x
    require(
        bool((t < s).all()), f"A leg can't start at {leg.times[0]:g}, below the end of the one before it."
    )
    return renoise_up(target, x, t, s, draws.normal_like(x))


@contextmanager
def _limited(denoiser: Denoiser, blocks: int | None) -> Iterator[None]:
    """Inside the block only the first ``blocks`` of a network's list of blocks are computed; None: all."""
    if blocks is None:
        yield
        return
    net: nn.Module = denoiser
    while isinstance(net, Denoiser):
        net = net.net
    name = next(
        (n for n in ("blocks", "transformer_blocks") if isinstance(getattr(net, n, None), nn.ModuleList)), ""
    )
    if not name:
        raise StillhouseError(
            f"A {type(net).__name__} has no list of blocks of which some could be left out."
        )
    whole: nn.ModuleList = getattr(net, name)
    require(blocks <= len(whole), f"This network has {len(whole)} blocks, not {blocks}.")
    setattr(net, name, whole[:blocks])
    try:
        yield
    finally:
        setattr(net, name, whole)

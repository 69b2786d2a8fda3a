"""Figures of clips (B, F, C, H, W): how far each frame and each clip is from a valid one, how far that drifts
with length, flicker."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.errors import require
from stillhouse.metrics.metric import Metric

DISTANCES = (
    Metric("frame_distance", "low", "", "of a frame to the nearest true one, squared"),
    Metric("clip_distance", "low", "", "of a clip to the nearest true one, squared"),
)
STEADINESS = (
    Metric("flicker", "one", "", "jerks from frame to frame over those of true clips"),
    Metric("change", "one", "", "motion from frame to frame over that of true clips"),
)
MOTION = Metric("motion_fidelity", "high", "share", "of clips or steps that move as their condition requires")

AT_ONCE = 4096  # rows compared with a bank at a time, so that memory stays small


def _clips(x: Tensor, what: str, least: int = 1) -> Tensor:
    require(x.dim() == 5, f"{what} are clips (B, F, C, H, W), not a tensor of shape {tuple(x.shape)}.")
    require(
        len(x) > 0 and x.shape[1] >= least,
        f"{what} need {least} frame(s) or more, not {x.shape[1]} in {len(x)} clip(s).",
    )
    return x.detach().float().cpu()


def _same_frames(x: Tensor, y: Tensor) -> None:
    require(
        x.shape[2:] == y.shape[2:],
        f"Frames of shape {tuple(x.shape[2:])} and {tuple(y.shape[2:])} can't be compared.",
    )


def nearest(rows: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest neighbour of each row in a bank.

    Arguments:
        rows: (N, …); everything after N is flattened to D numbers.
        bank: (M, …), D numbers each.

    Returns:
        Squared Euclidean distances, and which row of the bank it is; both (N,).
    """
    bank = bank.flatten(1).float()
    squares = bank.square().sum(1)
    found = [(squares - 2 * part @ bank.T).min(1) for part in rows.flatten(1).float().split(AT_ONCE)]
    least = torch.cat([f.values for f in found]) + rows.flatten(1).float().square().sum(1)
    return least.clamp_min(0), torch.cat([f.indices for f in found])


def frame_distances(clips: Tensor, frames: Tensor) -> Tensor:
    """How far frames are from true ones, along the length of a clip: a stream that stays as good as it began
    has a flat curve.

    Arguments:
        clips: (B, F, C, H, W) of any length F.
        frames: true ones, (M, C, H, W).

    Returns:
        Mean over the clips of each frame's squared distance to the nearest true one, (F,).
    """
    clips = _clips(clips, "Samples")
    _same_frames(clips, frames[None])
    distance, _ = nearest(clips.flatten(0, 1), frames.cpu())
    return distance.reshape(clips.shape[:2]).mean(0)


def clip_distance(clips: Tensor, bank: Tensor) -> float:
    """How far whole clips are from true ones.

    Arguments:
        clips: (B, F, C, H, W); of more than F' frames the first F' count.
        bank: true ones, (M, F', C, H, W).

    Returns:
        Mean squared distance to the nearest true clip.
    """
    clips = _clips(clips, "Samples", bank.shape[1])[:, : bank.shape[1]]
    _same_frames(clips, bank)
    return float(nearest(clips, bank.cpu())[0].mean())


def drift(curve: Tensor, start: int, end: int, width: int = 4) -> float:
    """How a curve over frames grew. Frames are counted from 1.

    Arguments:
        curve: one number a frame, (F,).
        start: last frame of the first window, at least ``width``.
        end: last frame of the second window, from ``start`` to F.
        width: frames of a window.

    Returns:
        The mean over the second window over that of the first; 1: as good at the end as at the start.
    """
    require(
        1 <= width <= start <= end <= len(curve),
        f"Drift compares {width} frames up to frame {start} with those up to {end}; the clip has "
        f"{len(curve)}.",
    )
    before, after = (float(curve[i - width : i].double().mean()) for i in (start, end))
    return after / max(before, 1e-12)


def flicker(clips: Tensor) -> float:
    """Root mean square of the second difference in time: 0 for a change at constant speed, large for frames
    that jump to and fro.

    Compare it with that of real clips, where things move at all.
    """
    clips = _clips(clips, "Samples", 3)
    return float((clips[:, 2:] - 2 * clips[:, 1:-1] + clips[:, :-2]).double().square().mean().sqrt())


def change(clips: Tensor) -> float:
    """Root mean square of the difference between neighbouring frames: 0 for a still picture."""
    clips = _clips(clips, "Samples", 2)
    return float(clips.diff(dim=1).double().square().mean().sqrt())


def motion(mass: Tensor) -> tuple[Tensor, Tensor]:
    """Where something is on a torus and how it moves: centres (B, F, 2), x and y, and steps (B, F - 1, 2),
    both in pixels.

    ``mass`` (B, F, H, W), not negative: how much of it lies in each pixel. Along each axis the centre is the
    angle of the first Fourier coefficient; a step is the shortest way from one centre to the next.
    """
    size = torch.tensor([mass.shape[3], mass.shape[2]], dtype=torch.float64)
    turns = []
    for profile in (mass.double().sum(2), mass.double().sum(3)):
        angle = 2 * torch.pi * torch.arange(profile.shape[2], dtype=torch.float64) / profile.shape[2]
        turns.append(
            torch.atan2((profile * angle.sin()).sum(2), (profile * angle.cos()).sum(2)) / (2 * torch.pi)
        )
    where = torch.stack(turns, 2)
    step = where.diff(dim=1)
    return (where % 1) * size, (step - step.round()) * size

"""livetalk: a student trained on its own streams, from a start that has converged, makes better clips and
does not drift."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.checks.bench import distilled
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.schedules import Flow
from stillhouse.metrics.video import drift
from stillhouse.model import Model
from stillhouse.systems.video.causvid import CausVid
from stillhouse.systems.video.livetalk import LiveTalk
from stillhouse.train.data import Data, InfiniteData
from stillhouse.worlds.clips.ring import RingClips

WORLD = "clips"
ABLATIONS = {
    "policy": "Not on-policy: the second stage trains on noised real clips (causvid), with as many "
    "iterations.",
    "start": "The second stage begins after a tenth of the first one's iterations.",
}
CONTRACT = Contract(
    options={
        "levels": (1.0, 0.6),
        "paths": 32,
        "teacher_steps": 4,
        "ode_share": 0.5,
        "warmup": 1,
        "fake_per_student": 1,
        "longest": 12,
    },
    world={"name": "clips", "kind": "ring", "frames": 6},
    network={"dim": 16, "depth": 1, "heads": 2},
)
START, OWN = 1500, 600  # iterations of the two stages
FRAMES, CHUNK, LONG, SAMPLES = 8, 4, 64, 256
RUNS = 2
# The fake score has to keep up with the student: it learns alone at first, and four times as fast after that.
MATCHING: dict[str, Any] = {"ode_share": 0.0, "chunk": CHUNK, "warmup": 150, "fake_per_student": 1}
RATES = {"student": 5e-4, "fake": 2e-3}


def trained(
    method: LiveTalk | CausVid,
    world: RingClips,
    student: Denoiser,
    steps: int,
    seed: int,
    data: Data | None = None,
) -> Model:
    """``steps`` iterations of one stage of ``method`` from ``student``, under the closed-form teacher of
    whole clips."""
    batch, rates = (32, {"student": 2e-3}) if method.ode_share == 1 else (64, RATES)
    return distilled(
        method, world, steps, seed, network=student, data=data, batch=batch, lr=rates, schedule="cosine"
    )


def stages(seed: int, ablation: str) -> tuple[Tensor, Tensor, Tensor]:
    """Of one run: clip distances along a stream after the second stage and after the first, and the frame
    distances of the former by frame."""
    world = RingClips(FRAMES, speeds=(1, 2))

    def begun(steps: int) -> Model:
        network = world.network(Flow(), seed, dim=48, depth=2, classes=0)
        method = LiveTalk(ode_share=1.0, chunk=CHUNK, paths=2048, teacher_steps=16)
        return trained(method, world, network, steps, seed)

    first = begun(START)
    student = (begun(START // 10) if ablation == "start" else first).denoiser.copy()
    if ablation == "policy":
        second = trained(CausVid(**MATCHING), world, student, OWN, seed, InfiniteData(world))
    else:
        second = trained(LiveTalk(**MATCHING, longest=FRAMES + CHUNK), world, student, OWN, seed)
    before, after = (model.sample(SAMPLES, frames=LONG, seed=seed) for model in (first, second))

    def off(clips: Tensor) -> Tensor:
        """Distance to the nearest true clip, of each window of a clip's length."""
        starts = range(0, LONG, FRAMES)
        return torch.tensor([world.clip_distance(clips[:, i : i + FRAMES]) for i in starts])

    return off(after), off(before), world.frame_curve(after)


def check(seed: int, ablation: str = "") -> list[Claim]:
    """A bump on a ring of 16 pixels at one of two speeds; training is on clips of 8 frames, measurement on
    streams of 64; distances are means of two runs.

    Half of the student's streams are a chunk longer than a clip, and only the other half score its first
    chunk, which has no past. Where two thirds are longer, that chunk is spoilt on some seeds.
    """
    runs = [stages(RUNS * seed + i, ablation) for i in range(RUNS)]
    after, before, frames = (torch.stack(of).mean(0) for of in zip(*runs, strict=True))
    return [
        at_most(
            "clip distance along a stream after the second stage / after the first",
            float(after.mean() / before.mean()),
            0.6,
        ),
        at_most("frame distance at frame 64 / at frame 8", drift(frames, FRAMES, LONG), 1.15),
    ]

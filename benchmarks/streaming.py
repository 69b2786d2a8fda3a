"""What a stream costs: a causal student's frames a second and first frame beside its teacher's whole clip,
and its memory over length.

    python -m benchmarks.streaming [--frames 12] [--steps 4] [--teacher-steps 32] [--guidance 3] [--rounds 9]
    [--threads 1]

One run alternates between the two. Networks are untrained, of the size of `clips`: time and memory don't
depend on their weights. The teacher walks the whole clip under guidance, two network calls a step; the
student makes two frames at a time in so many calls and a clean pass.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks.common import table
from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow
from stillhouse.metrics.timing import per_sample_time
from stillhouse.parts.video.clips import make_causal, streaming
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.samplers.streaming import Cached, stream
from stillhouse.worlds.base import get_world

CHUNK = 2


def streamed(
    student: Denoiser, how: Sampling, frame: tuple[int, ...], frames: int, cond: Condition
) -> tuple[float, float]:
    """Seconds of one stream until its first chunk and until its end."""
    began, first = time.perf_counter(), 0.0
    for _ in stream(student, how, frame, cond, Draws(1, "stream"), frames=frames):
        first = first or time.perf_counter() - began
    return first, time.perf_counter() - began


def whole(teacher: Denoiser, how: Sampling, shape: tuple[int, ...], cond: Condition) -> float:
    """Seconds of one clip of the teacher; all of its frames come at the end."""
    began = time.perf_counter()
    draw_samples(teacher, how, shape, cond, Draws(1, "clip"))
    return time.perf_counter() - began


def kept(student: Denoiser, how: Sampling, frame: tuple[int, ...], frames: int) -> tuple[int, float]:
    """Bytes in the cache after ``frames`` frames, and seconds of a call then."""
    cached, chunk = Cached(student, how.stream.window, how.stream.sink), torch.zeros(1, CHUNK, *frame)
    for _ in range(frames // CHUNK):
        cached.keep(chunk)
    size = sum(part.numel() * part.element_size() for layer in cached.cache.layers for part in layer)
    with torch.no_grad():
        return size, per_sample_time(lambda: cached(chunk, torch.ones(1)), 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--teacher-steps", type=int, default=32)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    world = get_world("clips")
    teacher = world.network(Flow(), frames=args.frames).eval()
    student, frame = teacher.copy().eval(), tuple(world.shape[1:])
    make_causal(student, CHUNK)
    levels = [1 - k / args.steps for k in range(args.steps)]
    how, its = (
        streaming(levels, CHUNK, args.frames),
        Sampling.steps(Flow(), args.teacher_steps, solver="ddim", guidance=args.guidance),
    )
    found, cond = [], world.condition(torch.zeros(1, dtype=torch.long))
    for _ in range(args.rounds + 1):
        first, end = streamed(student, how, frame, args.frames, cond)
        found.append((whole(teacher, its, (args.frames, *frame), cond), end, first))
    found = found[1:]  # the first round allocates
    clip, end, first = (statistics.median(values) for values in zip(*found, strict=True))
    ratio, sooner = (statistics.median(row[0] / row[k] for row in found) for k in (1, 2))
    print(f"frames a second, student / teacher: {ratio:.1f}; teacher's / student's first frame: {sooner:.1f}")
    rows = [
        {
            "": "student's stream",
            "frames / s": f"{args.frames / end:.0f}",
            "first frame, ms": f"{first * 1e3:.0f}",
            "calls": f"{how.nfe(student)} a chunk",
        },
        {
            "": "teacher's clip",
            "frames / s": f"{args.frames / clip:.0f}",
            "first frame, ms": f"{clip * 1e3:.0f}",
            "calls": f"{its.nfe(teacher)} a clip",
        },
    ]
    print(table(rows))
    without = streaming(levels, CHUNK, 0)
    lengths = []
    for frames in (args.frames, 4 * args.frames, 16 * args.frames):
        row = {"frames made": str(frames)}
        for name, sampling in ((f"window {how.stream.window}", how), ("no window", without)):
            size, spent = kept(student, sampling, frame, frames)
            row |= {
                f"cache, KiB ({name})": f"{size / 1024:.0f}",
                f"next call, ms ({name})": f"{spent * 1e3:.1f}",
            }
        lengths.append(row)
    print(table(lengths))
    weights = sum(p.numel() for p in student.parameters())
    print(f"{weights:,} weights, {args.threads} thread(s), median of {args.rounds} rounds")


if __name__ == "__main__":
    main()

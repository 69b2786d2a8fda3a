"""A causal student conditioned on a text for its motion and on a sound for its mouth: trained on ten frames,
streamed for a hundred.

python examples/stream_clips.py            # about five minutes on two CPU cores
python examples/stream_clips.py --quick    # a few iterations, to see that it runs
"""

import sys
import time
from pathlib import Path

import stillhouse
from stillhouse.io.media import save_clips
from stillhouse.worlds.base import get_world

QUICK = "--quick" in sys.argv
out = Path("runs/stream-clips")

world = get_world("clips", kind="talking")
student = stillhouse.distill(
    "exact",  # the closed form of the 3,072 clips there are, a function of the clip as a whole
    "livetalk",
    world=world,
    student={"dim": 48, "depth": 2},
    guidance=2.0,
    sound_guidance=2.0,
    longest=16,
    warmup=1 if QUICK else 100,
    paths=16 if QUICK else 2048,
    iterations=4 if QUICK else 4000,
    batch=4 if QUICK else 48,
    lr={"student": 1e-3},
    schedule="cosine",
    ema=0.99,
    out=out,
    resume=out.exists(),
)

labels = world.balanced_labels(6)  # six texts, each with another sound
frames = 20 if QUICK else 100
save_clips(
    out / "students.gif",
    world.display.view(student.sample(6, world.condition(labels, frames), frames=frames)).clips,
    fps=12,
)

# the same as a stream: chunks come as they are made, whatever one wants to do with them
began = time.perf_counter()
for number, chunk in enumerate(student.stream(world.condition(labels, frames), frames=frames)):
    print(f"chunk {number}: {tuple(chunk.shape)} after {1000 * (time.perf_counter() - began):.0f} ms")
print(f"look at {out}/students.gif")

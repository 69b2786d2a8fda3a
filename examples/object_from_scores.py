"""An object distilled from a denoiser of pictures: no 3-D data, one object for each noise. Turn-tables and
splats are written.

python examples/object_from_scores.py            # about two minutes on two CPU cores
python examples/object_from_scores.py --quick    # a few iterations, to see that it runs
"""

import sys
from pathlib import Path

import stillhouse
from stillhouse.io.media import save_clips
from stillhouse.io.ply import write_ply
from stillhouse.worlds.objects.world import Objects

QUICK = "--quick" in sys.argv
out, world = Path("runs/object-from-scores"), Objects()
labels = world.balanced_labels(12)

for noise in ("consistent", "per-camera"):
    student = stillhouse.distill(
        "exact",
        "cfd",
        world=world,
        noise=noise,
        size=16 if QUICK else 128,
        iterations=4 if QUICK else 600,
        batch=4 if QUICK else 12,
        ema=0.0,
        quiet=QUICK,
    )
    views = student.sample(12, world.condition(labels))
    found = ", ".join(f"{name} {value:.2f}" for name, value in world.measure(views, labels).items())
    print(f"{noise} noise: {found}")
    save_clips(out / f"{noise}.gif", world.display.view(views, labels).clips, fps=6)
    write_ply(out / f"{noise}.ply", student.denoiser.net)
print(f"look at {out}/consistent.gif, {out}/per-camera.gif; a viewer of splats opens {out}/consistent.ply")

"""Change the colour of a drawn object and leave the rest alone: encode with one caption, decode with another
(icd, arXiv 2406.14539).

python examples/edit_scenes.py            # about five minutes on one CPU core
python examples/edit_scenes.py --quick    # a few iterations, to see that it runs
"""

import sys

import torch

import stillhouse
from stillhouse.core.draws import Draws
from stillhouse.io.images import save_samples
from stillhouse.systems.control_edit.icd import edit
from stillhouse.worlds.base import get_world

QUICK = "--quick" in sys.argv
world = get_world("shapes")
rate = 2e-4  # at the default of small point models both maps drift away
student = stillhouse.distill(
    "shapes",
    "icd",
    world=world,
    segments=4,
    levels=16,
    high_guidance=3.0,
    lr={"student": rate, "forward": rate},
    schedule="cosine",
    ema=0.95,
    iterations=2 if QUICK else 190,
    batch=4 if QUICK else 32,
)

colours = ("red", "green", "blue", "yellow", "purple", "white")
names = [(c, shape) for c in colours for shape in ("circle", "square", "triangle", "cross")]
pred = [f"a {c} {shape}" for c, shape in names]
wanted = [f"a {colours[(colours.index(c) + 1) % 6]} {shape}" for c, shape in names]
ids, new = (torch.tensor([world.captions.index(text) for text in texts]) for texts in (pred, wanted))
pictures, _ = world.sample_data(len(ids), Draws(len(ids), "edit"), ids)
changed = edit(student, pictures, world.condition(ids), world.condition(new), guidance=2.0)

back = (pictures - pictures[:, :, :1, :1]).abs().amax(1) < 0.1  # what looks like the corner is background
moved = ((changed - pictures).abs().mean(1) * back).sum() / back.sum()
print(
    f"{world.measure(changed, new)['fidelity']:.0%} show the new caption; the background moved by "
    f"{float(moved):.3f} of 2"
)
save_samples("runs/edit-before.png", pictures)
save_samples("runs/edit-after.png", changed)
print("look at runs/edit-before.png and runs/edit-after.png")

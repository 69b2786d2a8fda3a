"""The shipped `mnist` teacher to one call, written as a page.

python examples/few_step_digits.py            # about five minutes on two CPU cores
python examples/few_step_digits.py --quick    # a few iterations, to see that it runs
"""

import sys
from pathlib import Path

import stillhouse
from stillhouse.io.images import save_samples

QUICK = "--quick" in sys.argv
out = Path("runs/few-step-digits")

teacher = stillhouse.load("mnist")
student = stillhouse.distill(
    teacher,
    "dmd2",
    world="mnist",
    guidance=2.0,
    gan_weight=0.0,
    fake_per_student=4,
    iterations=4 if QUICK else 1500,
    batch=8 if QUICK else 64,
    out=out,
    resume=out.exists(),
)
n = 8 if QUICK else 64
save_samples(out / "teacher.png", teacher.sample(n, steps=2 if QUICK else 64, guidance=2.0))
save_samples(out / "student.png", student.sample(n))
print(f"look at {out}/teacher.png and {out}/student.png")

"""The shipped `text` teacher, a masked diffusion model of English prose, to eight steps; and a text with gaps
filled in.

python examples/few_step_text.py            # about ten minutes on two CPU cores
python examples/few_step_text.py --quick    # a few iterations, to see that it runs
"""

import sys
from pathlib import Path

import stillhouse
from stillhouse.io.texts import save_texts
from stillhouse.models.letters import texts_of

QUICK = "--quick" in sys.argv
out = Path("runs/few-step-text")

teacher = stillhouse.load("text")
student = stillhouse.distill(
    teacher,
    "sdtt",
    world="text",
    teacher_steps=32,
    rounds=2,
    iterations=2 if QUICK else 1200,
    batch=2 if QUICK else 32,
    out=out,
    resume=out.exists(),
)
n = 2 if QUICK else 16
for name, model in (("teacher", teacher), ("student", student)):
    for steps in (8, 64):
        save_texts(
            out / f"{name}-{steps}-steps.txt",
            texts_of(model.tokenizer, model.sample(n, steps=2 if QUICK else steps)),
        )
print("\n".join(student.fill("the ________ of an array is a ", n)))
print(f"look at the texts in {out}")

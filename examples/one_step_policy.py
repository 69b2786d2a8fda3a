"""A robot's policy in one network call instead of fifty, tried in a closed loop, written for a runtime
without PyTorch.

python examples/one_step_policy.py            # about two minutes on two CPU cores
python examples/one_step_policy.py --quick    # a few iterations, to see that it runs
"""

import sys
from pathlib import Path

import stillhouse
from stillhouse.api.exchange import export_policy
from stillhouse.metrics.control import success
from stillhouse.worlds.base import get_world

QUICK = "--quick" in sys.argv
out, world = Path("runs/one-step-policy"), get_world("control")

teacher = stillhouse.load("control")
student = stillhouse.distill(
    teacher,
    "onedp",
    world=world,
    form="stochastic",
    iterations=4 if QUICK else 600,
    batch=16 if QUICK else 256,
    out=out,
    resume=out.exists(),
)
for name, policy in (("teacher, 50 calls", teacher), ("student, 1 call", student)):
    found = success(
        policy, world, episodes=4 if QUICK else 200, steps=2 if QUICK and policy is teacher else None
    )
    print(f"{name}: {found['success']:.1%} of the episodes won, {found['left']:.0%} of them on the left")

# needs stillhouse[control]; on the robot: onnxruntime.InferenceSession("policy.onnx").run(None, {"noise":
# ..., "features": ...})
done = export_policy(student, out / "policy.onnx")
print(
    f"{done.path}: {', '.join(done.inputs)} -> chunk; differs from the model by {done.difference:.0e} at most"
)

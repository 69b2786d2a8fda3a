"""Your own network, your own data: train it, then make it a one-call model.

python examples/own_network.py            # a minute on one CPU core
python examples/own_network.py --quick    # a few iterations, to see that it runs
"""

import sys

import torch
from torch import nn

import stillhouse
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.schedules import Flow
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.training.denoising import Denoising
from stillhouse.train.data import TensorData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe

QUICK = "--quick" in sys.argv


class Mine(nn.Module):
    """Any module will do; the adapter below defines how it is called."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2)
        )

    def forward(self, sample, timestep):
        return self.net(torch.cat([sample, timestep[:, None]], 1))


def call(net, x, t, cond, **extra):
    return net(x, t)


angle = torch.rand(4000, generator=torch.Generator().manual_seed(0)) * 6.283
spiral = torch.stack([angle.cos() * angle / 3, angle.sin() * angle / 3], 1)
data = TensorData(spiral)

fresh = stillhouse.load(Denoiser(Mine(), Flow(), "velocity", call=call), shape=(2,))
teacher = Trainer(Denoising(), fresh, data, Recipe(steps=20 if QUICK else 3000, batch=256)).fit()
student = stillhouse.distill(
    teacher, "progressive", teacher_steps=16, data=data, iterations=20 if QUICK else 3000, batch=256
)

for name, model, steps in (("teacher", teacher, 64), ("teacher", teacher, 1), ("student", student, 1)):
    x = model.sample(1000, steps=steps)
    off = torch.cdist(x, spiral).min(1).values.mean()
    print(f"{name:8} {steps:3} steps: mean distance to the spiral {off:.3f}")
assert Sampling([1.0, 0.0]).nfe(student.denoiser) == 1

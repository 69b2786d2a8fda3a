"""Train the shipped caption reader anew: ``python -m tools.reader``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse.core.draws import Draws
from stillhouse.io.weights import atomic_write
from stillhouse.metrics.reader import Reader, prompt_fidelity, reader_asset, reading_loss
from stillhouse.worlds.base import get_world

LR = 4e-3
KERNEL = torch.tensor([1.0, 2.0, 1.0]) / 4


def spoiled(images: Tensor, draws: Draws) -> Tensor:
    """Images (B, C, H, W) as samplers leave them: blurred by a random share, with noise of up to 0.25 on
    every second one."""
    blurred = F.conv2d(
        F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None],
        torch.outer(KERNEL, KERNEL)[None, None],
    )
    share, level = draws.uniform(0, 1, 1, 1, 1), draws.uniform(-0.25, 0.25, 1, 1, 1).clamp_min(0)
    mixed = torch.lerp(images, blurred.view_as(images), share * (draws.uniform(0, 1, 1, 1, 1) < 0.5))
    return mixed + level * draws.normal_like(images)


def train(seed: int = 0, steps: int = 4000, batch: int = 128) -> tuple[Reader, dict[str, str]]:
    """A reader of endless renders of *all* captions (it measures, and must know those that models are not
    shown), and its recipe."""
    world = get_world("shapes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader()
    optimizer = torch.optim.AdamW(reader.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    for step in range(steps):
        draws = Draws(batch, "reader", seed, step)
        asked = torch.where(
            draws.uniform() < 0.8, draws.integers(0, len(world.captions)), -1
        )  # -1: one of the training split's
        images, captions = world.sample_data(batch, draws, asked)
        loss = reading_loss(reader, spoiled(images, draws), captions, smoothing=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    reader.eval()
    made = {"world": world.name, "seed": seed, "steps": steps, "batch": batch, "lr": LR}
    for name, split in (("accuracy", "train"), ("held_out_accuracy", "test")):
        made[name] = round(prompt_fidelity(reader, *world.data(split))["fidelity"], 4)
    return reader, {name: str(value) for name, value in made.items()}


def main() -> None:
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(
        description="Train the reader that measures whether scenes show what was asked for."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    chosen = parser.parse_args()
    reader, made = train(chosen.seed, chosen.steps)
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in reader.state_dict().items()
    }
    atomic_write(Path(str(reader_asset())), lambda part: save_file(weights, part, metadata=made))
    print(
        f"{float(made['accuracy']):.2%} of clean scenes are read rightly, "
        f"{float(made['held_out_accuracy']):.2%} under held-out captions"
    )


if __name__ == "__main__":
    main()

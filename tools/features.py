"""Train the shipped classifiers anew: ``python -m tools.features [digits|mnist …]``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse.core.draws import seed_of
from stillhouse.metrics.features import FeatureNet, asset, class_accuracy
from stillhouse.worlds.base import get_world

EPOCHS = {"digits": 60, "mnist": 20}


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) turned, scaled and moved a little: up to 10 degrees, 10 % and 6 % of the side."""

    def some(reach: float) -> Tensor:
        return (2 * torch.rand(len(images), generator=generator) - 1) * reach

    angle, scale, (right, down) = some(0.17), 1 + some(0.1), (some(0.12), some(0.12))  # a side is 2 long
    rows = [scale * angle.cos(), -scale * angle.sin(), right, scale * angle.sin(), scale * angle.cos(), down]
    where = F.affine_grid(torch.stack(rows, 1).reshape(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, where, align_corners=False) - 1  # beyond the border is background, -1


def train(
    world: str, seed: int = 0, epochs: int | None = None, batch: int = 64
) -> tuple[FeatureNet, dict[str, str]]:
    """A classifier of the world's training images, and its recipe with the accuracy on the held-out ones."""
    testbed, epochs = get_world(world), epochs or EPOCHS[world]
    x, y = testbed.data("train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = FeatureNet(x.shape[-1])
    generator = torch.Generator().manual_seed(seed_of("features", world, seed))
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.02)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator)[: len(x) // batch * batch].split(batch):
            loss = F.cross_entropy(net.logits(jitter(x[rows], generator)), y[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    accuracy = class_accuracy(net.eval(), *testbed.data("test"))
    made = {
        "world": world,
        "size": x.shape[-1],
        "seed": seed,
        "epochs": epochs,
        "batch": batch,
        "lr": 5e-3,
        "accuracy": round(accuracy, 4),
    }
    return net, {name: str(value) for name, value in made.items()}


def main() -> None:
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description="Train the classifiers whose features the metrics use.")
    parser.add_argument("worlds", nargs="*", default=sorted(EPOCHS), choices=sorted(EPOCHS))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    for world in chosen.worlds:
        net, made = train(world, chosen.seed)
        Path(str(asset(world))).parent.mkdir(exist_ok=True)
        save_file(net.state_dict(), str(asset(world)), metadata=made)
        print(f"{world}: {float(made['accuracy']):.2%} of the held-out images are read rightly")


if __name__ == "__main__":
    main()

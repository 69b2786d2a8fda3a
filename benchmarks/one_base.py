"""Memory of distribution-matching training with three copies of a network, and with one base and an adapter
for each player.

    python -m benchmarks.one_base [--size small|sd15|sdxl] [--way base|copies] [--device cpu|cuda] [--latent
    32] [--batch 1]

The network is Diffusers' U-Net in the shape of Stable Diffusion with random weights (``small``: every width
halved, 215 million weights), distilled by dmd2, both players moving in every iteration. Each way runs in a
process of its own. *Needed* is one base, the adapters with their gradients and optimiser states, and what one
bare forward and backward pass of the student holds. On a CPU the peak is resident memory (less what the
process held before the network), on a GPU what the allocator gave out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import table
from benchmarks.memory import Live
from stillhouse.adapters import Adapted, adapted, checkpointed
from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.schedules import ScaledLinearVP
from stillhouse.opening import load
from stillhouse.systems.registry import find
from stillhouse.train.data import Prompts
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
SIZES: dict[str, dict[str, Any]] = {
    "small": {**SD15, "block_out_channels": (160, 320, 640, 640)},
    "sd15": SD15,
    "sdxl": SDXL,
}
MB = 2**20


def call(net: nn.Module, x: Tensor, t: Tensor, cond: Condition, **_: Tensor) -> Tensor:
    """A U-Net of Stable Diffusion's, told 77 tokens and, if it hears them, pooled text and sizes."""
    told = (
        {"added_cond_kwargs": {"text_embeds": cond["pooled"], "time_ids": cond["ids"]}}
        if "pooled" in cond
        else {}
    )
    return net(x, 1000 * t, cond["tokens"], **told).sample


def conditions(size: str, n: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {"tokens": torch.randn(n, 77, SIZES[size]["cross_attention_dim"], generator=generator)}
    if size == "sdxl":
        found |= {
            "pooled": torch.randn(n, 1280, generator=generator),
            "ids": torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]] * n),
        }
    return found


def resident(field: str) -> float:
    """``VmRSS`` or ``VmHWM`` of this process in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def bytes_of(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def bare(
    denoiser: Denoiser, shape: tuple[int, ...], batch: int, cond: Condition, device: torch.device
) -> int:
    """What a forward and a backward pass of one player hold at their peak, in bytes: activations and its
    gradients."""
    x, t = torch.randn(batch, *shape, device=device), torch.full((batch,), 0.5, device=device)
    told = {k: v[:batch].to(device) for k, v in cond.items()}
    with Live() as live:
        denoiser(x, t, told).x0.square().mean().backward()
    for p in denoiser.parameters():
        p.grad = None
    return live.peak


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One way, in this process."""
    from diffusers import UNet2DConditionModel

    device = torch.device(given.device)
    torch.manual_seed(0)
    before = resident("VmRSS") if device.type == "cpu" else 0
    net = UNet2DConditionModel(sample_size=given.latent, **SIZES[given.size])
    cond = conditions(given.size)
    empty = {k: v[:1] for k, v in cond.items()}
    denoiser = Denoiser(net, ScaledLinearVP(), "eps", call=call, empty=empty)
    base = bytes_of(net.parameters())
    if device.type == "cuda":
        net.to(device, torch.bfloat16 if given.half and given.way == "base" else torch.float32)
    shape = (4, given.latent, given.latent)
    needed = 0
    if given.way == "base":
        teacher = adapted(denoiser, given.rank)
        player = teacher.copy()
        checkpointed(player)
        own = bytes_of(player.parameters())
        needed = (
            base + 2 * 3 * own + bare(player, shape, given.batch, cond, device)
        )  # weights and two moments of both; gradients are in `bare`
        denoiser = teacher
    method = find("dmd2")(gan_weight=0.0, fake_per_student=1, guidance=7.5, first_time=0.999)
    recipe = Recipe(
        steps=given.iterations,
        batch=given.batch,
        ema=0.0,
        lora=given.rank if given.way == "base" else 0,
        log_every=1,
        checkpoint_activations=True,
    )
    run = Trainer(
        method, load(denoiser, shape=shape), Prompts(shape, cond), recipe, quiet=True, device=given.device
    )
    run.prepare()
    seconds = []
    for step in range(given.iterations):
        began = time.perf_counter()
        run.iterate(step)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = resident("VmHWM") - before if device.type == "cpu" else torch.cuda.max_memory_allocated()
    players = {
        name: sum(p.numel() for p in module.parameters()) for name, module in run.method.players.items()
    }
    assert isinstance(run.method.student, Adapted) == (given.way == "base")
    return {"weights": base // 4, "players": players, "peak": peak, "needed": needed, "seconds": min(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--way", choices=("base", "copies"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--latent", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--half", action="store_true", help="the base in bfloat16 (GPU)")
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given)))
        return
    found = {}
    for way in ("base", "copies"):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.one_base", *sys.argv[1:], "--way", way],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        found[way] = json.loads(done.stdout.splitlines()[-1])
    one, three = found["base"], found["copies"]
    print(
        table(
            [
                {
                    "way": name,
                    "weights of the base (M)": f"{r['weights'] / 1e6:.0f}",
                    "weights that learn (M)": f"{sum(r['players'].values()) / 1e6:.1f}",
                    "peak (MB)": f"{r['peak'] / MB:.0f}",
                    "needed (MB)": f"{r['needed'] / MB:.0f}" if r["needed"] else "",
                    "s / iteration": f"{r['seconds']:.1f}",
                }
                for name, r in (("one base", one), ("three copies", three))
            ]
        )
    )
    print(
        f"peak / needed with one base: {one['peak'] / one['needed']:.2f}; three copies take "
        f"{three['peak'] / one['peak']:.2f} times as much"
    )


if __name__ == "__main__":
    main()

"""What a run is going to do, in a few lines before it does it."""

from __future__ import annotations

import sys
from pathlib import Path

from stillhouse import forms
from stillhouse.adapters import Adapted
from stillhouse.api.run import Run
from stillhouse.core.denoiser import ExactDenoiser
from stillhouse.core.precision import dtype_name, held_in
from stillhouse.model import Model
from stillhouse.train.engine import Engine
from stillhouse.train.loop import Trainer


def announce(lines: dict[str, str], engine: Engine, quiet: bool) -> None:
    """Print what a run is going to do.

    Arguments:
        lines: what stands for each name.
        engine: whose main process prints.
        quiet: nothing is printed.
    """
    if engine.main and not quiet:
        print("\n".join(f"{name:<9} {line}" for name, line in lines.items()), file=sys.stderr, flush=True)


def described(run: Run, base: Model, folder: Path | None, trainer: Trainer | None = None) -> dict[str, str]:
    """A run as lines by name.

    Arguments:
        run: by its names.
        base: the teacher, or the untrained model in its place.
        folder: of the run; None for one that writes nothing.
        trainer: ready to begin; None for an operation, which has none.

    Returns:
        Settings where they are published ones, the teacher, what learns, how it is computed, where it goes.
    """
    lines = {
        "settings": run.settings or "",
        "teacher" if run.command == "distill" else "model": _whose(run, base),
        **({} if trainer is None else _training(trainer)),
        "results": _where(folder, run, trainer is not None) if folder else "in memory alone",
    }
    return {name: line for name, line in lines.items() if line}


def _training(trainer: Trainer) -> dict[str, str]:
    recipe, engine = trainer.recipe, trainer.engine
    players = [f"{name} {_learns(name, trainer)}" for name in trainer.players]
    parts = f" in {recipe.grad_accum} micro-batches" if recipe.grad_accum > 1 else ""
    count = f"{engine.world} process{'es' if engine.world > 1 else ''} on {engine.device.type}"
    long = f"{recipe.steps} iterations of {recipe.batch} samples{parts}"
    return {
        "learns": "; ".join(players) + ", in fp32",
        "computes": f"{recipe.precision}, {count}; {long}",
    }


def _whose(run: Run, base: Model) -> str:
    named = [run.teacher] if run.teacher else []
    if base.pipeline is not None:
        height, width = base.pipeline.size
        frames = f"{base.pipeline.frames} frames of " if base.pipeline.frames else "pictures of "
        named.append(f"{type(base.pipeline.pipe).__name__}, {frames}{height} × {width} pixels")
    named.append(f"states {' × '.join(map(str, base.shape))} ({forms.of(base).name})")
    if isinstance(base.denoiser, ExactDenoiser):
        return ", ".join([*named, "a closed form"])
    net = base.denoiser.net
    weights = sum(p.numel() for n, p in net.named_parameters() if ".lora_" not in n)
    return ", ".join([*named, f"{weights:,} weights in {dtype_name(held_in(net))}"])


def _learns(name: str, trainer: Trainer) -> str:
    player = trainer.players[name]
    count = sum(p.numel() for p in player.parameters)
    adapters = [m for m in player.module.modules() if isinstance(m, Adapted)]
    if not adapters:
        return f"{count:,} weights at {player.optim.lr:g}"
    base = adapters[0].base
    layers = f"adapter of rank {base.rank}, alpha {base.alpha:g}, on {len(base.layers)} layers"
    return f"{count:,} weights ({layers}) at {player.optim.lr:g}"


def _where(folder: Path, run: Run, trained: bool) -> str:
    trace = ["checkpoints/", "metrics.jsonl"] if trained else []
    shown = ["validation/"] if run.validation_prompts else []
    return f"{folder}: " + ", ".join(["model/", "run.yaml", *trace, *shown])

"""What was read of a pipeline, as plain data: ``stillhouse inspect`` prints it, reports and model cards
keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from stillhouse.core.schedules import ScaledLinearVP

if TYPE_CHECKING:
    from stillhouse.io.pipelines.base import Family


def describe(family: Family) -> dict[str, Any]:
    """Classes, sizes, process, text encoders, default sampling and remarks of a family's pipeline."""
    pipe, network = family.pipe, family.network
    return {
        "pipeline": type(pipe).__name__,
        "family": type(family).__name__,
        "folder": None if family.folder is None else str(family.folder),
        "network": {
            "part": family.part,
            "class": type(network).__name__,
            "parameters": weights(network),
            "dtype": str(network.dtype),
        },
        "process": _process(family),
        "prediction": type(family.kind).__name__.lower(),
        "scheduler": type(pipe.scheduler).__name__,
        "latent": {"shape": list(family.shape), "pixels": family.pixels, **_scale(family)},
        "size": list(family.size),
        "frames": family.frames,
        "text": [
            {"tokenizer": name, "tokens": limit, **_encoder(family, name)}
            for name, limit in family.tokenizers.items()
        ],
        "condition": _shapes(family.empty),
        "classes": family.classes,
        "guidance": {"scale": family.guidance, "how": _how(family)},
        "steps": family.steps,
        "times": [round(t, 6) for t in family.times(family.steps)],
        "remarks": remarks(family),
    }


def weights(module: Any) -> int:
    """Number of weights."""
    return sum(p.numel() for p in module.parameters())


def remarks(family: Family) -> list[str]:
    """What to consider before distilling it."""
    notes = [*family.notes, *differences(family)]
    if (
        isinstance(family.process, ScaledLinearVP)
        and not family.process.zero_terminal_snr
        and not family.process.betas
    ):
        level = float(family.process.alpha(torch.ones(1, dtype=torch.float64)))
        notes.append(f"At t = 1 the signal's level is still {level:.3g}: no zero terminal SNR.")
    if family.times(family.steps)[-1] > 0:
        notes.append(
            f"The pipeline's sampling ends at t = {family.times(family.steps)[-1]:g}, the first step of its "
            "table, not at 0."
        )
    if family.pipe.components.get("safety_checker") is not None:
        notes.append("It has a safety checker, which a saved student keeps.")
    return notes


def differences(family: Family) -> list[str]:
    """Where our steps differ from those of the pipeline's scheduler, and what of them no method learns."""
    schedule, notes = family.schedule, list[str]()
    config, name = schedule.scheduler.config, type(schedule.scheduler).__name__
    if not schedule.exact:
        notes.append(
            f"{name} is read for its process and its times; they are stepped with a solver of Stillhouse's "
            "own."
        )
    if name == "DDIMScheduler" and config.get("timestep_spacing") == "linspace":
        notes.append(
            "Diffusers' DDIM steps past its own linspace grid; Stillhouse follows the grid as it stands."
        )
    if schedule.hooks:
        notes.append(
            f"{name} clips clean estimates to the data's range: so do samples of the teacher here, but "
            "methods "
            "learn from the network's own estimates."
        )
    if schedule.stochastic:
        notes.append(
            f"{name} draws fresh noise at each step: so do samples of the teacher here, but methods that "
            "follow "
            "trajectories follow those of the network's ODE."
        )
    return notes


def _process(family: Family) -> dict[str, Any]:
    config = family.process.config()
    if config.get("betas"):
        config["betas"] = f"a table of {len(config['betas'])} numbers"
    return config


def _scale(family: Family) -> dict[str, Any]:
    if family.vae is None:
        return {}
    shift, factor = family._scale(torch.zeros(1))
    short = [round(v, 6) for v in factor.flatten().tolist()], [round(v, 6) for v in shift.flatten().tolist()]
    return {
        "autoencoder": type(family.vae).__name__,
        "scale": short[0][0] if len(short[0]) == 1 else short[0],
        "shift": short[1][0] if len(short[1]) == 1 else short[1],
    }


def _encoder(family: Family, tokenizer: str) -> dict[str, Any]:
    part = family.pipe.components.get(tokenizer.replace("tokenizer", "text_encoder"))
    return (
        {"encoder": type(part).__name__, "parameters": weights(part)}
        if part is not None
        else {"encoder": None, "parameters": 0}
    )


def _shapes(cond: Any) -> Any:
    if cond is None:
        return None
    return {name: list(part.shape[1:]) for name, part in cond.items()} if isinstance(cond, dict) else "labels"


def _how(family: Family) -> str:
    if family.takes_guidance:
        return "an input of the network"
    if family.guidance > 1 and family.empty is not None:
        return "a second evaluation"
    return "none"

"""A student as a file that other runtimes open: its whole sampler as one graph, from noise and condition to
sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stillhouse.adapters import Adapted
from stillhouse.core.conditions import Condition, cycled, move
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.io.graph import FORMS, graph_of, onnx_bytes, opened, torch_bytes
from stillhouse.io.weights import atomic_write
from stillhouse.model import Model
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.unrolled import Given, Unrolled

TOLERANCE = 1e-4  # largest difference between a graph and the model that it was made of
TRIED = (1, 5)  # rows of the inputs that they are compared on


@dataclass(frozen=True)
class Exported:
    """Where the graph is, what it takes in what shapes (without the rows), its network calls, how far it was
    off the model at most."""

    path: Path
    inputs: dict[str, tuple[int, ...]]
    calls: int
    difference: float


def export_policy(
    model: Model,
    path: str | Path,
    form: str | None = None,
    *,
    steps: int | None = None,
    cond: Condition = None,
    seed: int = 0,
) -> Exported:
    """Write the sampler of a model as one graph, any number of rows at a time, and check it against the
    model.

    Noise is an input of the graph: the same noise gives the same sample as in the model. Not only for
    policies: any sampler of samples of fixed size can be written like this.

    Arguments:
        model: of one leg without saved hooks, neither a pipeline nor a stream.
        path: the file, ``*.onnx`` or ``*.pt2``.
        form: ``onnx``, or ``torch`` for ``torch.export``'s ``.pt2``; None for that of the path's ending.
        steps: number of steps, which are unrolled, so that few are best; None for the model's default.
        cond: an example of a condition, for a model whose network does not describe its own; None otherwise.
        seed: of the random inputs that the graph is checked on.

    Returns:
        Where the graph is, its inputs, its network calls and its difference from the model.

    Raises:
        StillhouseError: with nothing written, if the two differ by more than 1e-4 on random inputs.
    """
    path = Path(path)
    form = form or next((name for name, ending in FORMS.items() if path.suffix == ending), "")
    if form not in FORMS:
        raise unknown("form of an exported graph named", form or path.suffix, FORMS)
    require(
        path.suffix == FORMS[form],
        f"A graph of the form '{form}' is a file *{FORMS[form]}, not '{path.name}'.",
    )
    require(
        model.codec is None and model.pipeline is None,
        "The student of a Diffusers pipeline is exported by Diffusers' own tools.",
    )
    denoiser = model.denoiser.merged() if isinstance(model.denoiser, Adapted) else model.denoiser
    denoiser, sampling = denoiser.eval(), model.sampling(steps)
    example = move(_example(model) if cond is None else cond, "cpu")
    parts = _parts(example)
    sampler = Unrolled(denoiser.to("cpu"), sampling, model.shape, tuple(parts)).requires_grad_(False)

    def inputs(rows: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        draws = Draws(rows, seed, "exchange", rows)
        noises = [draws.normal(*model.shape) for _ in range(sampler.plan.noises)]
        conds = _parts(cycled(example, rows))
        if model.cond_kind:
            conds = {name: draws.normal(*part.shape[1:]) for name, part in conds.items()}
        stacked = torch.stack(noises, 1) if len(noises) > 1 else noises[0] if noises else None
        return {
            **({"noise": stacked} if sampler.plan.takes_noise and stacked is not None else {}),
            **conds,
        }, noises

    given, _ = inputs(TRIED[-1])
    program = graph_of(sampler, given)
    about = {
        "shape": list(model.shape),
        "cond_kind": model.cond_kind,
        "world": model.world,
        "sampling": sampling.config(),
        **_condition_facts(model),
    }
    content = onnx_bytes(program, list(given), about) if form == "onnx" else torch_bytes(program, about)
    run, off = opened(content, form), 0.0
    for rows in TRIED:
        given, noises = inputs(rows)
        cond = _whole({name: given[name] for name in parts})
        expected = model.pictures(draw_samples(denoiser, sampling, model.shape, cond, Given(noises)), cond)
        off = max(off, float((run(*given.values()) - expected).abs().max()))
    require(
        off <= TOLERANCE,
        f"The graph differs from the model by {off:.1e}, more than {TOLERANCE:g}; nothing was written.",
    )
    atomic_write(path, content)
    shapes = {name: tuple(part.shape[1:]) for name, part in given.items()}
    return Exported(path, shapes, len(sampler.plan.calls), off)


def _condition_facts(model: Model) -> dict[str, object]:
    """What of a model's own notes a runtime needs: how actions and observations were scaled."""
    return {key: model.info[key] for key in ("method", "scales") if key in model.info}


def _parts(cond: Condition) -> dict[str, Tensor]:
    """The tensors of a condition by name."""
    if cond is None:
        return {}
    if isinstance(cond, dict):
        return dict(cond)
    return {"tokens" if cond.is_floating_point() else "label": cond}


def _whole(parts: dict[str, Tensor]) -> Condition:
    """The inverse of :func:`_parts`, as a dict, which every network of ours understands."""
    return parts or None


def _example(model: Model) -> Condition:
    """A condition as the model takes it, a few rows."""
    if model.classes:
        return torch.arange(TRIED[-1]) % model.classes
    if model.examples is not None:
        return model.examples
    if model.text is not None and model.prompts:
        return model.text.encode(list(model.prompts[: TRIED[-1]]))
    if not model.cond_kind:
        return None
    config = getattr(model.denoiser.net, "config", None) or {}
    made = {}
    if config.get("features"):
        made["features"] = torch.zeros(1, config["features"])
    if config.get("image_cond"):
        made["image"] = torch.zeros(1, config["image_cond"], *model.shape[1:])
    if not made:
        raise StillhouseError(
            f"The shape of the {model.cond_kind} that this network takes is not in its configuration; give "
            "an example as cond."
        )
    return made

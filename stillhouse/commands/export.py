"""``stillhouse export RUN --to onnx --out policy.onnx``: a student as a file for other runtimes; with ``--to
diffusers`` a single file, or a LoRA on its base, as a pipeline's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.commands.parser import Parser, add_network, add_opening, opening
from stillhouse.core.errors import require, required

if TYPE_CHECKING:
    from stillhouse.model import Model


def export(words: list[str]) -> int:
    """``stillhouse export RUN_OR_MODEL``"""
    parser = Parser(
        "export",
        "Write a sampler as one graph, from noise and condition to sample, checked against the model; or a "
        "checkpoint, or a LoRA on its base, as a Diffusers pipeline's folder.",
    )
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", help="a run's folder, a model's folder or file, or a shipped name"
    )
    parser.add_argument(
        "--to",
        choices=("onnx", "torch", "diffusers"),
        help="ONNX, torch.export's .pt2, or a Diffusers pipeline's folder [by the ending of --out, or onnx]",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="*.onnx or *.pt2, which is written over, or a new folder [the model's name, a new file]",
    )
    parser.add_argument("--base", metavar="DIR", help="the pipeline that a LoRA was trained on")
    add_opening(parser)
    parser.add_argument("--steps", type=int, help="steps per sample, all of them unrolled [the model's own]")
    add_network(parser, "the folder holds the weights of")
    given = parser.parse(words)

    from stillhouse.api.exchange import export_policy
    from stillhouse.api.models import named_model
    from stillhouse.io.graph import FORMS

    source = Path(given.model).resolve()
    name = source.name if source.is_dir() else source.stem
    if given.to == "diffusers":
        model = named_model(given.model, **opening(given, "base"))
        return _as_pipeline(model, Path(given.out or f"{name}-diffusers"))
    out = Path(given.out or f"{name}{FORMS[given.to or 'onnx']}")
    require(
        given.out is not None or not out.exists(), f"There is a file '{out}' already; name one with --out."
    )
    model = named_model(given.model, getattr(given, "network", None), **opening(given, "base"))
    done = export_policy(model, out, given.to, steps=given.steps)
    inputs = ", ".join(
        f"{name} (rows, {', '.join(map(str, shape))})" if shape else f"{name} (rows)"
        for name, shape in done.inputs.items()
    )
    print(
        f"{done.path}: {inputs} -> sample, {done.calls} network call(s), differs from the model by "
        f"{done.difference:.1e} at most"
    )
    return 0


def _as_pipeline(model: Model, out: Path) -> int:
    from stillhouse.io.export.save import write_pipeline

    family = required(
        model.pipeline, "Only a Diffusers pipeline, a checkpoint of one or a LoRA becomes a folder."
    )
    require(
        model.free_steps, "A student is saved as a pipeline already: it is the folder `model` of its run."
    )
    print(f"{write_pipeline(out, family)}: a {type(family.pipe).__name__}")
    return 0

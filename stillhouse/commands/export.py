"""``stillhouse export RUN --to onnx --out policy.onnx``: a student as a file for other runtimes."""

from __future__ import annotations

from pathlib import Path

from stillhouse.commands.parser import Parser, add_network
from stillhouse.core.errors import require


def export(words: list[str]) -> int:
    """``stillhouse export RUN_OR_MODEL``"""
    parser = Parser(
        "export",
        "Write a sampler as one graph, from noise and condition to sample, checked against the model.",
    )
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", help="a run's folder, a model's folder or file, or a shipped name"
    )
    parser.add_argument(
        "--to",
        choices=("onnx", "torch"),
        help="ONNX, or torch.export's .pt2 [by the ending of --out, or onnx]",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="*.onnx or *.pt2, which is written over [the model's name, a new file]"
    )
    parser.add_argument("--steps", type=int, help="steps per sample, all of them unrolled [the model's own]")
    add_network(parser, "the folder holds the weights of")
    given = parser.parse(words)

    from stillhouse.api.exchange import export_policy
    from stillhouse.api.resolve import named_model
    from stillhouse.io.graph import FORMS

    source = Path(given.model).resolve()
    name = source.name if source.is_dir() else source.stem
    out = Path(given.out or f"{name}{FORMS[given.to or 'onnx']}")
    require(
        given.out is not None or not out.exists(), f"There is a file '{out}' already; name one with --out."
    )
    model = named_model(given.model, getattr(given, "network", None))
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

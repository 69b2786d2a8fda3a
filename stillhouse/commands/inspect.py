"""``stillhouse inspect``: how a Diffusers pipeline or a data set was read, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.commands.parser import Parser, add_network, add_opening, opening

if TYPE_CHECKING:
    from stillhouse.model import Model


def inspect(words: list[str]) -> int:
    """``stillhouse inspect DIR``, ``stillhouse inspect DATA``"""
    parser = Parser(
        "inspect",
        "Describe a model as it was read (network, process, state, text, guidance) and the systems that can "
        "run on it, or a data set (pictures, captions, splits, classes, and what is left out).",
    )
    parser.add_argument(
        "pipeline",
        metavar="DIR",
        help="a pipeline's folder, hub:owner/name, a .safetensors checkpoint with --config; a model's or "
        "run's folder, a shipped name, or your own code, FILE.py:FUNCTION; or data: a folder of images, a "
        "parquet or tar file, a file of prompts",
    )
    add_opening(parser)
    add_network(parser, "the folder holds the weights of")
    parser.add_argument("--height", type=int, metavar="PX", help="of the pictures [the pipeline's own]")
    parser.add_argument("--width", type=int, metavar="PX", help="of the pictures [the pipeline's own]")
    parser.add_argument("--frames", type=int, metavar="N", help="of the clips [the pipeline's own]")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    given = parser.parse(words)

    from stillhouse.commands.inspect_data import inspect_data, kind_of

    if kind := kind_of(given.pipeline):
        inspect_data(given.pipeline, kind, given.json)
        return 0
    from stillhouse.api.offers import describe_model, offers
    from stillhouse.io.pipelines import open_pipeline
    from stillhouse.io.pipelines.describe import describe
    from stillhouse.opening import from_pipeline

    model = _plain_model(given.pipeline, getattr(given, "network", None))
    if model is not None:
        about = {**describe_model(model), "methods": {o.phrase: list(o.needs) for o in offers(model)}}
        print(json.dumps(about, indent=2, ensure_ascii=False) if given.json else lines(about))
        return 0
    sizes = {"height": given.height, "width": given.width, "frames": given.frames}
    family = open_pipeline(given.pipeline, **opening(given), **sizes)
    about = describe(family)
    about["methods"] = {offer.phrase: list(offer.needs) for offer in offers(from_pipeline(family))}
    print(json.dumps(about, indent=2, ensure_ascii=False) if given.json else table(about))
    return 0


def _plain_model(source: str, network: str | None) -> Model | None:
    """The model that ``source`` names, if it is no Diffusers pipeline."""
    from stillhouse.api.models import named_model
    from stillhouse.api.run import CONFIG
    from stillhouse.io.own import names_code
    from stillhouse.model import WEIGHTS
    from stillhouse.opening import shipped

    path = shipped().get(source, Path(source)) if not Path(source).exists() else Path(source)
    ours = any((path / name).is_file() for name in (CONFIG, WEIGHTS)) or path.parent.name == "teachers"
    if not ours and network is None and not names_code(source):
        return None
    model = named_model(source, network)
    return model if model.pipeline is None else None


def lines(about: dict[str, Any]) -> str:
    """The description of a model that is no pipeline, as lines of name and value."""
    network, process = about["network"], dict(about["process"])
    name = process.pop("name")
    made = f", made by {network['code']}" if network["code"] else ", your own" if network["own"] else ""
    rows = [
        (
            "network",
            f"{network['class']}{made}, {network['parameters']:,} parameters, "
            f"{network['dtype'].removeprefix('torch.')}",
        ),
        ("process", ", ".join([name, *(f"{k}={v}" for k, v in process.items() if v not in ((), None))])),
        ("predicts", about["prediction"]),
        ("state", f"{product(about['shape'])}, of the form {about['form']}"),
        (
            "steps",
            ", ".join(map(str, about["steps"])) + (" or any other number" if about["many_steps"] else ""),
        ),
    ]
    if about["classes"]:
        rows.append(("classes", str(about["classes"])))
    if about["condition"] is not None:
        parts = (
            about["condition"] if isinstance(about["condition"], dict) else {"one tensor": about["condition"]}
        )
        rows.append(("condition", ", ".join(f"{k} {product(v)}".strip() for k, v in parts.items())))
    if about["cond_kind"]:
        rows.append(("condition", about["cond_kind"]))
    return "\n".join(f"{name:<10} {value}" for name, value in [*rows, *_methods(about["methods"])])


def _methods(methods: dict[str, list[str]]) -> list[tuple[str, str]]:
    """The systems that can run, those with data and those without, as rows."""
    sides = {
        "with data": [name for name, needs in methods.items() if "data" in needs],
        "without data": [name for name, needs in methods.items() if "data" not in needs],
    }
    rows = [f"{', '.join(names)} {side}" for side, names in sides.items() if names]
    return [("methods" if i == 0 else "", row) for i, row in enumerate(rows or ["none can run on it"])]


def product(sizes: list[int]) -> str:
    """Sizes with a times sign between them."""
    return " × ".join(map(str, sizes))


def table(about: dict[str, Any]) -> str:
    """A description as lines of name and value."""
    network, latent, guidance, times = about["network"], about["latent"], about["guidance"], about["times"]
    process = dict(about["process"])
    name = process.pop("name")
    rows = [
        ("pipeline", f"{about['pipeline']}, read by the family {about['family']}"),
        (
            "network",
            f"{network['class']} ({network['part']}), {network['parameters']:,} parameters, "
            f"{network['dtype'].removeprefix('torch.')}",
        ),
        ("process", ", ".join([name, *(f"{k}={v}" for k, v in process.items() if v not in ((), None))])),
        ("predicts", about["prediction"]),
        ("scheduler", about["scheduler"]),
        (
            "state",
            f"{product(latent['shape'])}, {latent['pixels']} pixel(s) to a side: "
            + (
                f"clips of {about['frames']} frames of {product(about['size'])}"
                if about["frames"]
                else f"pictures of {product(about['size'])}"
            ),
        ),
    ]
    if "autoencoder" in latent:
        rows.append(
            ("latents", f"(output of {latent['autoencoder']} - {latent['shift']}) × {latent['scale']}")
        )
    for text in about["text"]:
        rows.append(
            (
                "text",
                f"{text['encoder']}, {text['parameters']:,} parameters, {text['tokens']} tokens "
                f"({text['tokenizer']})",
            )
        )
    if isinstance(about["condition"], dict):
        rows.append(("condition", ", ".join(f"{k} {product(v)}" for k, v in about["condition"].items())))
    if about["classes"]:
        rows.append(("classes", str(about["classes"])))
    rows += [
        (
            "guidance",
            f"{guidance['scale']:g} by default, {guidance['how']}" if guidance["how"] != "none" else "none",
        ),
        ("steps", f"{about['steps']} by default, from t = {times[0]:g} to {times[-1]:g}"),
        *_methods(about["methods"]),
    ]
    rows += [("remark" if i == 0 else "", line) for i, line in enumerate(about["remarks"])]
    return "\n".join(f"{name:<10} {value}" for name, value in rows)

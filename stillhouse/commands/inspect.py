"""``stillhouse inspect``: how a Diffusers pipeline or a data set was read, before anything is trained."""

from __future__ import annotations

import json
from typing import Any

from stillhouse.commands.parser import Parser


def inspect(words: list[str]) -> int:
    """``stillhouse inspect DIR``, ``stillhouse inspect DATA``"""
    parser = Parser(
        "inspect",
        "Describe a Diffusers pipeline as it was read (network, process, latents, text, guidance), or a "
        "data set "
        "(pictures, captions, splits, classes, and what is left out).",
    )
    parser.add_argument(
        "pipeline",
        metavar="DIR",
        help="a pipeline's folder, hub:owner/name, or a .safetensors checkpoint with --config; or data: a "
        "folder "
        "of images, a parquet or tar file, a file of prompts",
    )
    parser.add_argument("--adapter", metavar="FILE.py:CLASS", help="a Family of your own that reads it")
    parser.add_argument(
        "--config", metavar="DIR", help="a folder of the same kind of pipeline, for a single-file checkpoint"
    )
    parser.add_argument("--height", type=int, metavar="PX", help="of the pictures [the pipeline's own]")
    parser.add_argument("--width", type=int, metavar="PX", help="of the pictures [the pipeline's own]")
    parser.add_argument("--frames", type=int, metavar="N", help="of the clips [the pipeline's own]")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    given = parser.parse(words)

    from stillhouse.commands.inspect_data import inspect_data, is_data

    if is_data(given.pipeline):
        inspect_data(given.pipeline, given.json)
        return 0
    from stillhouse.io.pipelines import open_pipeline
    from stillhouse.io.pipelines.describe import describe
    from stillhouse.systems.registry import list_systems
    from stillhouse.train.needs import read_need

    sizes = {"height": given.height, "width": given.width, "frames": given.frames}
    family = open_pipeline(given.pipeline, given.adapter, config=given.config, **sizes)
    about = describe(family)
    about["methods"] = {
        s.slug: [need.name for need in map(read_need, s.needs) if not (need.option and not need.unless)]
        for s in list_systems(kind="method")
        if "teacher" in s.needs
    }
    print(json.dumps(about, indent=2, ensure_ascii=False) if given.json else table(about))
    return 0


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
        ("methods", ", ".join(s for s, needs in about["methods"].items() if "data" in needs) + " with data"),
        ("", ", ".join(s for s, needs in about["methods"].items() if "data" not in needs) + " without data"),
    ]
    rows += [("remark" if i == 0 else "", line) for i, line in enumerate(about["remarks"])]
    return "\n".join(f"{name:<10} {value}" for name, value in rows)

"""``stillhouse sample RUN_OR_MODEL``: draw samples of a model, as its form has them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse import forms
from stillhouse.commands.parser import Parser, add_network, add_opening, numbers, opening, run_entries
from stillhouse.core.errors import require

if TYPE_CHECKING:
    from stillhouse.model import Model
    from stillhouse.worlds.base import World


def sample(words: list[str]) -> int:
    """``stillhouse sample RUN_OR_MODEL``"""
    parser = Parser(
        "sample",
        "Draw samples of a model: a picture for images, a film for clips, numbers for anything else.",
    )
    parser.add_argument(
        "model",
        metavar="RUN_OR_MODEL",
        help="a run's folder, a model's folder or file, a LoRA with --base, or a shipped name",
    )
    parser.add_argument(
        "--base", metavar="DIR", help="the pipeline that a LoRA was trained on: a folder, or hub:OWNER/NAME"
    )
    add_opening(parser)
    parser.add_argument(
        "-n", type=int, help="how many [64; of a Diffusers model as many as there are prompts, or 4]"
    )
    parser.add_argument(
        "--labels",
        metavar="L,L,…",
        default="",
        help="class labels, repeated as often as needed [all in turn]",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="what to draw, or a text to go on with, each _ in it a token to be filled in; may be given "
        "several times [the model's own]",
    )
    parser.add_argument("--prompts", metavar="FILE", help="a file of prompts, one a line")
    parser.add_argument("--steps", type=int, help="steps per sample [the model's own]")
    parser.add_argument("--guidance", type=float, help="guidance scale, 1 for none [the model's own]")
    parser.add_argument("--seed", type=int, default=0, help="of the noise [0]")
    parser.add_argument("--columns", type=int, default=0, help="tiles per row of the picture [about square]")
    endings = ".png, .npy or .safetensors, .txt for texts [samples.png, or samples.npy; texts are printed]"
    parser.add_argument("--out", metavar="FILE", default=forms.base.DEFAULT_OUT, help=endings)
    for form in forms.FORMS:
        if form.options:
            group = parser.add_argument_group(form.title)
            for option in form.options:
                more = {"type": option.type, "default": option.default, "metavar": option.metavar}
                group.add_argument(option.flag, help=option.help, **more)
    add_network(parser, "the folder holds the weights of")
    given = parser.parse(words)

    from stillhouse.api.models import named_model
    from stillhouse.io.data.prompts import read_prompts

    model = named_model(given.model, getattr(given, "network", None), **opening(given, "base"))
    form = forms.of(model)
    for other in forms.FORMS:
        wished = [o for o in other.options if getattr(given, o.name) != o.default]
        require(other is form or not wished, other.refusal)
    entry = world_entry(model, given.model)
    request = forms.Request(
        n=given.n,
        labels=numbers(given.labels, "--labels"),
        prompts=given.prompt + (read_prompts(given.prompts) if given.prompts else []),
        steps=given.steps,
        guidance=given.guidance,
        seed=given.seed,
        columns=given.columns,
        out=given.out,
        options={o.name: getattr(given, o.name) for o in form.options},
        world=cache(lambda: _open(entry)),
        entry=entry,
    )
    form.check(request)
    print(form.sample(model, request))
    return 0


def world_entry(model: Model, source: str) -> Any:
    """The world that a model is of, as the YAML of its run, its own header or its name has it.

    Arguments:
        model: as opened.
        source: a run's folder, or a model's folder or file.

    Returns:
        A name or a configuration; empty where none is named.
    """
    entry = next(
        (e["world"] for folder in (source, Path(source).parent) if "world" in (e := run_entries(folder))),
        None,
    )
    return entry or model.info.get("recipe", {}).get("world") or model.world


def _open(entry: Any) -> World | None:
    from stillhouse.worlds.base import open_world

    return open_world(entry) if entry else None

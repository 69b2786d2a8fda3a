"""``stillhouse inspect DATA``: what a data set was found to hold, before anything is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stillhouse.io.data.prompts import PROMPT_FILES
from stillhouse.io.data.rows import is_picture

SHARDS = (".parquet", ".tar")
MODEL_FILES = ("model_index.json", "config.json", "*.safetensors")  # at the top of a model's folder


def kind_of(path: str | Path) -> str:
    """What a data set's path holds: ``pictures``, in files or shards, ``prompts``, ``demonstrations`` or
    ``texts``; empty for any other path, and for a folder with a model's files."""
    from stillhouse.io.data.files import walk
    from stillhouse.io.data.lerobot import is_lerobot

    path = Path(path)
    if path.is_file():
        prompts = path.suffix.lower() in PROMPT_FILES
        return "prompts" if prompts else "pictures" if _holds_data(path) else ""
    if not path.is_dir() or any(found for pattern in MODEL_FILES for found in path.glob(pattern)):
        return ""
    if is_lerobot(path):
        return "demonstrations"
    files, _ = walk(path)
    if files and all(file.suffix.lower() == ".txt" for file in files):
        return "texts"
    return "pictures" if any(map(_holds_data, files)) else ""


def _holds_data(file: Path) -> bool:
    return is_picture(file) or file.suffix.lower() in SHARDS or file.stem.lower() == "metadata"


def inspect_data(path: str | Path, kind: str, as_json: bool) -> None:
    """Print what a data set holds.

    Arguments:
        path: of the data set.
        kind: as :func:`kind_of` has it.
        as_json: one JSON object in the place of lines.
    """
    lines, about = _about(Path(path), kind)
    print(json.dumps(about, indent=2, ensure_ascii=False) if as_json else "\n".join(lines))


def _about(path: Path, kind: str) -> tuple[list[str], dict[str, Any]]:
    from stillhouse.io.data import open_source, read_prompts, split_prompts

    if kind == "prompts":
        prompts = read_prompts(path)
        learnt, held = map(len, split_prompts(prompts))
        different = len(set(prompts))
        line = f"'{path}': {len(prompts):,} prompt(s), {different:,} different; {held:,} held out"
        return [line], {
            "data": str(path), "kind": "prompts", "prompts": len(prompts), "learnt": learnt, "held_out": held
        }  # fmt: skip
    if kind == "demonstrations":
        return _demonstrations(path)
    if kind == "texts":
        from stillhouse.io.texts import read_text, text_files

        learnt_files, held_files = text_files(path)
        length = len(read_text(path))
        line = f"'{path}': {len(learnt_files):,} text(s) of {length:,} characters, for language models"
        line += f"; {len(held_files):,} held out" if held_files else ""
        return [line], {
            "data": str(path), "kind": "texts", "texts": len(learnt_files), "characters": length,
            "held_out": len(held_files),
        }  # fmt: skip
    contents = open_source(path).contents
    return [*contents.lines(), *contents.remarks()], contents.describe()


def _demonstrations(path: Path) -> tuple[list[str], dict[str, Any]]:
    from stillhouse.io.data.lerobot import read_lerobot

    shown = read_lerobot(path, 1)
    about: dict[str, Any] = {
        "data": str(path),
        "kind": "demonstrations",
        "frames": len(shown.seen),
        "episodes": len(shown.episode.unique()),
        "fps": shown.fps,
        "observation": shown.seen.shape[1],
        "action": shown.chunks.shape[2],
    }
    line = (
        "'{data}': {frames:,} frame(s) in {episodes:,} episode(s) at {fps:g} a second; {observation} "
        "observed "
        "number(s), {action} of an action"
    ).format(**about)
    return [line], about

"""What plain Diffusers draws with a folder, in a process that never imports Stillhouse."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from stillhouse.metrics.reader import load_reader, prompt_fidelity
from stillhouse.worlds.shapes.world import Shapes

SCRIPT = Path(__file__).with_name("plain_call.py")


def plain_pictures(folder: Path, jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Pictures of a pipeline.

    Arguments:
        folder: of the pipeline.
        jobs: by name, the ``prompts``, ``steps`` and ``guidance`` of a job.

    Returns:
        Pictures by the names of the jobs, (n, 3, H, W) in [-1, 1].
    """
    with tempfile.TemporaryDirectory() as name:
        asked, made = Path(name) / "jobs.json", Path(name) / "pictures.safetensors"
        asked.write_text(json.dumps(jobs))
        # -I: the folder of the script, whose files have names of the standard library's, is no place to
        # import from
        subprocess.run(
            [sys.executable, "-I", "-W", "ignore", str(SCRIPT), str(folder), str(asked), str(made)],
            check=True,
        )
        return {name: 2 * drawn - 1 for name, drawn in load_file(made).items()}


def plain_fidelity(
    folder: Path, world: Shapes, n: int, scales: tuple[float, ...], steps: int
) -> dict[str, Any]:
    """Share of captions whose picture shows all that they name, by split and scale of guidance.

    Arguments:
        folder: of the pipeline.
        world: whose captions are asked for.
        n: captions of each split.
        scales: of guidance.
        steps: of the sampler.

    Returns:
        ``steps`` and ``n``; ``train`` and ``test``: the share by the scale's name.
    """
    ids = {split: world.balanced_labels(n, split) for split in ("train", "test")}
    jobs = {
        f"{split} {w:g}": {
            "prompts": [world.captions[i] for i in asked.tolist()],
            "steps": steps,
            "guidance": w,
        }
        for split, asked in ids.items()
        for w in scales
    }
    found: dict[str, Any] = {"steps": steps, "n": n, "train": {}, "test": {}}
    for job, drawn in plain_pictures(folder, jobs).items():
        split, w = job.split()
        found[split][w] = round(prompt_fidelity(load_reader(), drawn, ids[split])["fidelity"], 4)
    return found

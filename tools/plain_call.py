"""Drawing with a pipeline as any user of Diffusers does: a process of its own that knows nothing of
Stillhouse.

``python -I plain_call.py FOLDER JOBS.json PICTURES.safetensors``. A job, by its name: ``prompts``, ``steps``,
``guidance``. Its pictures are (n, 3, H, W) in [0, 1], under the same name; all jobs start from the same
noise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from safetensors.torch import save_file

BATCH = 50


def drawn(pipe: Any, prompts: list[str], steps: int, guidance: float) -> torch.Tensor:
    """The pictures of ``prompts``."""
    made = []
    for start in range(0, len(prompts), BATCH):
        noise = torch.Generator().manual_seed(start)
        pred = pipe(
            prompts[start : start + BATCH],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=noise,
            output_type="np",
        )
        made.append(torch.from_numpy(pred.images).permute(0, 3, 1, 2))
    return torch.cat(made).contiguous()


if __name__ == "__main__":
    folder, jobs, results = sys.argv[1:]
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    opened = DiffusionPipeline.from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        # a student whose steps no stock scheduler takes brings one
        trust_remote_code=(Path(folder) / "scheduler" / "few_step_scheduler.py").is_file(),
    )
    opened.set_progress_bar_config(disable=True)
    pictures = {name: drawn(opened, **job) for name, job in json.loads(Path(jobs).read_text()).items()}
    if "stillhouse" in sys.modules:
        sys.exit("This was meant to be plain Diffusers, but stillhouse was imported.")
    save_file(pictures, results)

"""Scores of pictures under their prompts: CLIP's, from weights of the user's own, and any function
``f(images, prompts) -> (B,)``.

Images are (B, 3, H, W) in [-1, 1]. A function states its direction by an attribute ``better``: ``low``,
``one``, or ``high``, which is taken where it states none; its ``unit`` likewise. Nothing is downloaded, and
no pickle is opened.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.named import PerSample, named_object
from stillhouse.metrics.metric import Metric
from stillhouse.metrics.vision import MEAN, STD, pixel_moments, prepared, read_json, require_safe_weights

Score = Callable[[Tensor, Sequence[str]], Tensor]
CLIP = Metric("clip", "high", "", "100 times the cosine between a picture and its caption", "CLIP score")

BATCH = 64  # pictures scored at once


class ClipScore:
    """``100 max(0, cos(image, text))`` of a CLIP's embeddings (Hessel et al., 2021, arXiv 2104.08718, section
    3, with w = 100 for 2.5).

    The mean and deviation of pixels are read from ``preprocessor_config.json`` (or
    ``processor_config.json``), else CLIP's own. Raises :class:`StillhouseError` for a folder that lacks a
    part, holds pickled weights only, or is no CLIP.

    Arguments:
        folder: what ``save_pretrained`` writes of a CLIPModel and its CLIPTokenizer: ``config.json``,
            ``*.safetensors`` and the tokenizer's files.
        device: of the network.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu"):
        folder = Path(folder)
        _check(folder)
        from transformers import CLIPModel, CLIPTokenizer

        from stillhouse.io.pipelines.quiet import quiet

        with quiet():
            try:
                tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
                opened: Any = CLIPModel.from_pretrained(
                    folder,
                    local_files_only=True,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
            except Exception as error:  # foreign files fail in many ways, in errors of three libraries
                reason = " ".join(str(error).split())[:300]
                raise StillhouseError(
                    f"The CLIP in '{folder}' can't be opened: {type(error).__name__}: {reason}"
                ) from error
        model, report = opened
        absent = sorted(report["missing_keys"])  # the library would leave these at random values
        require(
            not absent,
            f"The weights in '{folder}' lack {len(absent)} of a CLIP's tensors, '{(absent or [''])[0]}' "
            "first.",
        )
        self.device = torch.device(device)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.tokenizer = tokenizer
        self.size = int(model.config.vision_config.image_size)
        self.length = min(
            int(tokenizer.model_max_length), int(model.config.text_config.max_position_embeddings)
        )
        self.mean, self.std = pixel_moments(folder, "CLIP", MEAN, STD)

    def prepare(self, images: Tensor) -> Tensor:
        """The network's input for ``images``: the shorter side resized to its own, the middle cut out,
        normalised; (B, 3, size, size)."""
        require(
            images.ndim == 4 and images.shape[1] == 3,
            f"CLIP scores images of shape (B, 3, H, W) in [-1, 1], not {tuple(images.shape)}.",
        )
        return prepared(images.to(self.device), self.size, self.mean, self.std)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The scores of pictures under their prompts; differentiable in the images.

        Arguments:
            images: in [-1, 1], (B, 3, H, W).
            prompts: as many; one longer than the network's own length is cut.

        Returns:
            Scores in [0, 100], (B,) float32.
        """
        require(
            len(images) == len(prompts) > 0,
            f"{len(images)} images and {len(prompts)} prompts can't be compared.",
        )
        words = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        found = self.model(
            input_ids=words["input_ids"].to(self.device),
            attention_mask=words["attention_mask"].to(self.device),
            pixel_values=self.prepare(images),
        )
        return 100 * F.cosine_similarity(found.image_embeds, found.text_embeds, dim=-1).clamp(min=0)


def find_score(name: str) -> Score:
    """The function of ``"module:function"`` or ``"./file.py:function"``, called as ``f(images, prompts) ->
    (B,)``.

    Raises :class:`StillhouseError` where there is none.
    """
    found = named_object(name, "score")
    require(callable(found), f"'{name}' is no function, and can't be a score.")
    return cast(Score, found)


def metric_of(name: str, score: Score) -> Metric:
    """The direction and unit of a score.

    Arguments:
        name: of the figure.
        score: a function whose attributes ``better`` (high if there is none) and ``unit`` state them.

    Returns:
        Its metric; raises :class:`StillhouseError` for a direction that there is not.
    """
    if name == CLIP.name and isinstance(getattr(score, "__self__", None), ClipScore):
        return CLIP
    lines = (getattr(score, "__doc__", None) or "").strip().splitlines()
    better, unit = getattr(score, "better", "high"), getattr(score, "unit", "")
    return Metric(name, str(better), str(unit), lines[0].rstrip(".") if lines else "")


def mean_scores(scores: Mapping[str, Score], images: Tensor, prompts: Sequence[str]) -> dict[str, float]:
    """The mean of each score over pictures and their prompts, :data:`BATCH` at a time.

    Arguments:
        scores: by name, functions ``f(images, prompts) -> (B,)``.
        images: in [-1, 1], (B, 3, H, W).
        prompts: as many.

    Returns:
        The means, by name.
    """
    means = {}
    with torch.no_grad():
        for name, score in scores.items():
            parts, measured = [], PerSample(score, f"The score '{name}'")
            for start in range(0, len(images), BATCH):
                some, texts = images[start : start + BATCH], list(prompts[start : start + BATCH])
                parts.append(measured(some, texts).double().cpu())
            means[name] = float(torch.cat(parts).mean())
    return means


def _check(folder: Path) -> None:
    """Refuse what is no CLIP's folder, or lacks a part, before anything is opened."""
    require(
        folder.is_dir(),
        f"There is no folder '{folder}' with a CLIP; nothing is downloaded, so name one that "
        "save_pretrained wrote.",
    )
    missing = [
        package for package in ("diffusers", "transformers") if importlib.util.find_spec(package) is None
    ]
    require(not missing, f"A CLIP score needs {' and '.join(missing)}: pip install 'stillhouse[pipelines]'.")
    kind = read_json(folder / "config.json", "CLIP").get("model_type")
    require(
        kind == "clip", f"'{folder}' holds no CLIP: its config.json has the model_type {kind!r}, not 'clip'."
    )
    require_safe_weights(folder, "CLIP", "CLIPModel")
    complete = (folder / "tokenizer.json").is_file() or all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt")
    )
    require(
        complete,
        f"The CLIP's folder '{folder}' has no tokenizer (tokenizer.json, or vocab.json and merges.txt); "
        "copy the whole folder.",
    )

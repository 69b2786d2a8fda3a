"""Networks whose features distributions of samples are compared by: a folder of the user's own, or the small
one that comes with the library."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.core.draws import seed_of
from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.pipelines.folder import title_of
from stillhouse.metrics.inception import inception_file, open_inception
from stillhouse.metrics.reader import load_reader
from stillhouse.metrics.vision import (
    MEAN,
    STD,
    pixel_moments,
    preparation,
    prepared,
    read_json,
    require_safe_weights,
)

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of networks that state no moments and are no CLIP
CLIPS = ("clip", "clip_vision_model")
NUMBERS = 64  # features of samples that are no pictures and have more numbers
SIDE = 32  # pixels of the small network's pictures


@dataclass(frozen=True)
class Features:
    """Features of samples. ``name``: of the network, as a page shows it; ``note``: a sentence of what it is
    good for; ``embed``: of pictures (B, 3, H, W) in [-1, 1], or of samples (B, …) that are none."""

    name: str
    note: str
    embed: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        """Features of pictures, of clips (the mean over their frames), or of any other samples.

        Arguments:
            samples: pictures (B, 1 or 3, H, W), clips (B, F, 1 or 3, H, W), or others (B, …).

        Returns:
            (B, F) float32, on the CPU.
        """
        if not pictorial(samples):
            return self.embed(samples).float().cpu()
        frames = samples.flatten(0, -4) if samples.dim() == 5 else samples
        found = self.embed(frames.expand(-1, 3, -1, -1)).float().cpu()
        return found.unflatten(0, samples.shape[:-3]).mean(1) if samples.dim() == 5 else found


def pictorial(samples: Tensor) -> bool:
    """Whether samples (B, …) are pictures or clips of one or three channels."""
    return samples.dim() in (4, 5) and samples.shape[-3] in (1, 3)


def small_features(device: torch.device | str = "cpu") -> Features:
    """The library's own small network of coloured scenes, 64 features of a picture of 32 x 32 pixels."""
    net = load_reader().to(device)

    def embed(images: Tensor) -> Tensor:
        features: Tensor = net(F.interpolate(images.to(device).float(), (SIDE, SIDE), mode="area"))
        return features

    return Features(
        "small network of the library",
        "Features are those of the library's own small network, 64 of a picture of 32 x 32 pixels: they rank "
        "ways of sampling, and can't be compared with published figures; name a network: --features FOLDER.",
        embed,
    )


def plain_features(numbers: int) -> Features:
    """The samples' own numbers, of many a fixed random projection.

    Arguments:
        numbers: in one sample.

    Returns:
        The features, at most :data:`NUMBERS` of them.
    """
    if numbers <= NUMBERS:
        return Features("own numbers", "Features are the samples' own numbers.", lambda x: x.flatten(1))
    generator = torch.Generator().manual_seed(seed_of("features"))
    basis = torch.randn(numbers, NUMBERS, generator=generator) / numbers**0.5
    return Features(
        "random projection",
        f"Features are {NUMBERS} fixed random projections of the samples' {numbers:,} numbers.",
        lambda x: x.flatten(1).float().cpu() @ basis,
    )


def open_features(folder: str | Path, device: torch.device | str = "cpu") -> Features:
    """The features of a vision network: FID's Inception v3, or one that Transformers opens: DINOv2, CLIP,
    SigLIP, ViT, ConvNeXt, ResNet …

    What is taken is the projected picture of a CLIP, else the pooled output, else the first token (where the
    pooling has no weights) or the mean of the last layer. Pictures are prepared by the side, mean and
    deviation that the folder states. Nothing is downloaded; no code and no pickle of the folder is run.

    Arguments:
        folder: what ``save_pretrained`` writes: ``config.json``, ``*.safetensors`` and, if there is one,
            ``preprocessor_config.json``; or the file of an Inception's weights (see
            :func:`stillhouse.metrics.inception.open_inception`), or its folder.
        device: of the network.

    Returns:
        The features. Raises :class:`StillhouseError` for a folder that lacks a part or can't be opened.
    """
    folder = Path(folder)
    weights = None if (folder / "config.json").is_file() else inception_file(folder)
    if weights is not None:
        return _inception(weights, device)
    require(
        folder.is_dir(),
        f"There is no folder '{folder}' with a feature network; nothing is downloaded, so name one that "
        "save_pretrained wrote.",
    )
    require(
        importlib.util.find_spec("transformers") is not None,
        "Features of a folder need transformers: pip install 'stillhouse[pipelines]'.",
    )
    config = read_json(folder / "config.json", "network")
    kind = str(config.get("model_type", ""))
    require_safe_weights(folder, "network", "AutoModel")
    model, pooled = _opened(folder, kind)
    model = model.eval().requires_grad_(False).to(device)
    mean, std = pixel_moments(folder, "network", *((MEAN, STD) if kind in CLIPS else IMAGENET))
    size = _side(preparation(folder, "network"), config)

    def embed(images: Tensor) -> Tensor:
        pixels = prepared(images.to(device), size, mean, std)
        if hasattr(model, "get_image_features"):
            found: Any = model.get_image_features(pixel_values=pixels)
            return found if torch.is_tensor(found) else _of(found, True)
        return _of(model(pixel_values=pixels), pooled)

    title = title_of(folder)
    return Features(
        title, f"Features are those of {title} ({kind}), pictures of {size} x {size} pixels.", embed
    )


def _inception(weights: Path, device: torch.device | str) -> Features:
    """The pooled features of an Inception v3."""
    net, usual = open_inception(weights)
    net = net.to(device)
    what = "FID's Inception v3" if usual else "Inception v3, not of the weights that FID is measured with"
    return Features(
        "Inception v3",
        f"Features are those of {what}, pictures of 299 x 299 pixels; figures in papers are of 10,000 "
        "samples "
        "and more.",
        lambda images: net(images.to(device)),
    )


def _opened(folder: Path, kind: str) -> tuple[Any, bool]:
    """The network of a folder, and whether its pooled output has weights."""
    from transformers import AutoModel, CLIPVisionModelWithProjection

    from stillhouse.io.pipelines.quiet import quiet

    maker: Any = CLIPVisionModelWithProjection if kind == "clip_vision_model" else AutoModel
    with quiet():
        try:
            model, report = maker.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # foreign files fail in many ways, in errors of three libraries
            reason = " ".join(str(error).split())[:300]
            raise StillhouseError(
                f"The network in '{folder}' can't be opened: {type(error).__name__}: {reason}"
            ) from error
    missing = sorted(report["missing_keys"])  # the library leaves these at random values
    absent = [name for name in missing if not name.startswith("pooler.")]
    require(
        not absent,
        f"The weights in '{folder}' lack {len(absent)} tensors of a network of the type '{kind}', "
        f"'{(absent or [''])[0]}' first.",
    )
    return model, not missing


def _of(output: Any, pooled: bool) -> Tensor:
    """Features (B, F) of what a network of Transformers returns."""
    for name in ("image_embeds", "pooler_output"):
        found = getattr(output, name, None)
        if torch.is_tensor(found) and (pooled or name == "image_embeds"):
            return found.flatten(1)
    last: Tensor = output.last_hidden_state
    return last[:, 0] if last.dim() == 3 else last.flatten(2).mean(2)


def _side(stated: dict[str, Any], config: dict[str, Any]) -> int:
    """Pixels of the side of a network's square pictures."""
    vision = config.get("vision_config") or config
    for found in (stated.get("crop_size"), stated.get("size"), vision.get("image_size"), 224):
        if isinstance(found, dict):
            found = found.get("height") or found.get("shortest_edge")
        if isinstance(found, int) and found > 0:
            return found
    return 224

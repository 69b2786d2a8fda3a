"""Folders as people have them: autoencoders that leave the range of float16, tokenizers without a limit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stillhouse.io.pipelines import open_pipeline

Built = Callable[[str], Path]


class Blazing(nn.Module):
    """A convolution whose output is far above what float16 holds, as in SDXL's autoencoder, and back."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) * 1e7 * 1e-7
        return out


@pytest.mark.parametrize("upcast", [True, False])
def test_a_half_precision_autoencoder_is_lifted_where_its_folder_asks_for_it(
    upcast: bool, built: Built
) -> None:
    family = open_pipeline(built("sdxl"), dtype=torch.float16)
    vae = family.vae
    vae.register_to_config(force_upcast=upcast)
    vae.decoder.conv_in, vae.encoder.conv_in = Blazing(vae.decoder.conv_in), Blazing(vae.encoder.conv_in)
    before = {name: w.clone() for name, w in vae.state_dict().items()}
    pictures = family.images(torch.randn(1, *family.shape, generator=torch.Generator().manual_seed(0)))
    latents = family.latents(torch.full((1, 3, 64, 64), 0.5))
    assert bool(pictures.isfinite().all()) == bool(latents.isfinite().all()) == upcast
    assert vae.dtype == torch.float16
    assert all(torch.equal(w, before[name]) for name, w in vae.state_dict().items())


def test_bfloat16_stays_as_it_is(built: Built) -> None:
    family = open_pipeline(built("sdxl"), dtype=torch.bfloat16)
    seen = []
    family.vae.decoder.conv_in.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    family.images(torch.zeros(1, *family.shape))
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "flux"])
def test_a_tokenizer_without_a_limit_has_its_encoders(kind: str, built: Built, tmp_path: Path) -> None:
    folder = tmp_path / kind
    shutil.copytree(built(kind), folder)
    for file in folder.glob("tokenizer*/tokenizer_config.json"):
        config = json.loads(file.read_text())
        del config["model_max_length"]
        file.write_text(json.dumps(config))
    sides = {"height": 64, "width": 64} if kind == "flux" else {}
    whole, mine = open_pipeline(built(kind), **sides), open_pipeline(folder, **sides)
    assert mine.tokenizers == whole.tokenizers
    prompts = ["a red circle", "dog " * 40]
    its = whole.encode(prompts)
    for name, part in mine.encode(prompts).items():
        torch.testing.assert_close(part, its[name])

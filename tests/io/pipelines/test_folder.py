"""Opening: what is refused and how it is told, and checkpoints in a single file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stillhouse.core.errors import StillhouseError
from stillhouse.io.pipelines import Family, open_pipeline

Built = Callable[[str], Path]


@pytest.fixture
def copied(built: Built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built("sd"), tmp_path / "pipe"))


def refused(folder: Path | str, *words: str) -> None:
    with pytest.raises(StillhouseError) as error:
        open_pipeline(folder)
    sentence = str(error.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


def test_no_pipeline(tmp_path: Path) -> None:
    refused(tmp_path / "gone", "There is no folder", "hub:owner/name")
    refused(tmp_path, "is no Diffusers pipeline")
    (tmp_path / "old.ckpt").write_bytes(b"")
    refused(tmp_path, "old.ckpt, a pickle")
    (tmp_path / "model_index.json").write_text("[]")
    refused(tmp_path, "model_index.json' can't be read")


def test_a_missing_part(copied: Path) -> None:
    shutil.rmtree(copied / "text_encoder")
    refused(copied, "lacks its part 'text_encoder' (CLIPTextModel)")


def test_missing_weights(copied: Path) -> None:
    (copied / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    refused(copied, "part 'vae'", "has no weights")


def test_pickled_weights(copied: Path) -> None:
    (copied / "unet" / "diffusion_pytorch_model.safetensors").rename(
        copied / "unet" / "diffusion_pytorch_model.bin"
    )
    refused(copied, "diffusion_pytorch_model.bin", "is a pickle", "save_pretrained")


def test_torn_weights(copied: Path) -> None:
    file = copied / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    refused(copied, "Diffusers can't open the pipeline")


def test_code_is_not_run(copied: Path) -> None:
    (copied / "scheduler" / "own.py").write_text("raise SystemExit('was run')")
    refused(copied, "part 'scheduler'", "not run")
    (copied / "scheduler" / "own.py").unlink()
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(json.dumps({**index, "_class_name": ["pipeline", "Own"]}))
    refused(copied, "brings code of its own", "not run")


def test_a_scheduler_without_a_process(copied: Path) -> None:
    from diffusers import SCMScheduler

    SCMScheduler().save_pretrained(copied / "scheduler")
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(
        json.dumps({**index, "scheduler": ["diffusers", "SCMScheduler"]})
    )
    with pytest.raises(StillhouseError, match="SCMScheduler has no table of betas"):
        open_pipeline(copied).denoiser()


def test_an_inpainting_model(copied: Path) -> None:
    from stillhouse.io.pipelines import tiny

    tiny.unet(in_channels=9).save_pretrained(copied / "unet")
    refused(copied, "reads 9 channels and gives 4")


def test_a_variant_alone_is_found(copied: Path, built: Built) -> None:
    for part in ("unet", "vae"):
        (copied / part / "diffusion_pytorch_model.safetensors").rename(
            copied / part / "diffusion_pytorch_model.fp16.safetensors"
        )
    same(open_pipeline(copied), open_pipeline(built("sd")))


def same(mine: Family, its: Family) -> None:
    for name, part in its.pipe.components.items():
        if isinstance(part, torch.nn.Module):
            wanted, found = part.state_dict(), mine.pipe.components[name].state_dict()
            assert wanted.keys() == found.keys()
            for key, weight in wanted.items():
                torch.testing.assert_close(found[key], weight, msg=f"{name}.{key}")


def test_only_a_named_hub_model_may_download(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    asked = []
    open_it = diffusers.DiffusionPipeline.from_pretrained

    def watched(name: str, **options: object) -> object:
        asked.append(
            (name, options["local_files_only"], options["use_safetensors"], options.get("trust_remote_code"))
        )
        return open_it(str(built("sd")), local_files_only=True)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", watched)
    open_pipeline(built("sd"))
    open_pipeline("hub:owner/name")
    assert asked == [(str(built("sd")), True, True, None), ("owner/name", False, True, None)]


def test_a_single_file(built: Built, tmp_path: Path) -> None:
    """The checkpoint of the tiny pipeline, under the names that single files use, gives the same weights."""
    its = open_pipeline(built("sd"))
    save_file(single_file_names(its), tmp_path / "model.safetensors")
    mine = open_pipeline(tmp_path / "model.safetensors", config=built("sd"))
    same(mine, its)
    assert mine.process == its.process and mine.times(4) == its.times(4)
    refused(tmp_path / "model.safetensors", "name a folder of the same kind")
    (tmp_path / "model.safetensors").rename(tmp_path / "model.ckpt")
    refused(tmp_path / "model.ckpt", "is a pickle", "weights_only=True")
    (tmp_path / "model.ckpt").rename(tmp_path / "model.npz")
    refused(tmp_path / "model.npz", "neither a pipeline's folder nor a .safetensors checkpoint")
    with pytest.raises(StillhouseError, match="DDIMPipeline can't be read from a single file"):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        open_pipeline(tmp_path / "x.safetensors", config=built("ddpm"))


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    # two levels of one layer each
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0": "output_blocks.1.1",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
}


def single_file_names(family: Family) -> dict[str, Tensor]:
    named = {}
    for key, weight in family.pipe.unet.state_dict().items():
        start = max((o for o in OUTER if key.startswith(f"{o}.")), key=len)
        rest = key.removeprefix(start)
        if ".resnets." in start:
            inner = rest.split(".")[1]
            rest = rest.replace(f".{inner}.", f".{RESNET[inner]}.")
        named[f"model.diffusion_model.{OUTER[start]}{rest}"] = weight
    levels = len(family.vae.config.block_out_channels)
    for key, weight in family.vae.state_dict().items():
        words = key.split(".")
        if words[1:2] == ["down_blocks"]:
            words[1:5] = (
                ["down", words[2], "block", words[4]]
                if words[3] == "resnets"
                else ["down", words[2], "downsample"]
            )
        elif words[1:2] == ["up_blocks"]:
            level = str(levels - 1 - int(words[2]))
            words[1:5] = (
                ["up", level, "block", words[4]] if words[3] == "resnets" else ["up", level, "upsample"]
            )
        elif words[1:2] == ["mid_block"]:
            words[1:4] = ["mid", f"block_{int(words[3]) + 1}"]
        name = ".".join(words).replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        named[f"first_stage_model.{name}"] = weight
    for key, weight in family.pipe.text_encoder.state_dict().items():
        named[
            f"cond_stage_model.transformer.{'' if key.startswith('text_model') else 'text_model.'}{key}"
        ] = weight
    return {key: weight.contiguous().clone() for key, weight in named.items()}

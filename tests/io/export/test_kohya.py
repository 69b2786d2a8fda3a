"""LoRAs under kohya's names: Diffusers' own reader of that form gets back the weights that were written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from stillhouse.adapters import Adapted, adapted
from stillhouse.io.export.kohya import KOHYA, kohya_names, write_kohya
from stillhouse.io.export.lora import write_lora
from stillhouse.io.pipelines import Family, open_pipeline, tiny
from stillhouse.io.pipelines.tiny_parts import unet

SIDES = {"flux": {"height": 64, "width": 64}}


def family_of(kind: str, folder: Path) -> Family:
    family = open_pipeline(tiny.build(kind, folder), **SIDES.get(kind, {}))
    if kind == "sdxl":  # attention in the second level, as SDXL itself has it
        config = {k: v for k, v in family.network.config.items() if not k.startswith("_")}
        blocks = {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        }
        family.pipe.unet = unet(**{**config, **blocks}).eval()
    return family


def trained(family: Family, targets: Any = "attention", rank: int = 2, alpha: float = 5.0) -> Adapted:
    own = adapted(family.denoiser(), rank, alpha=alpha, targets=targets).copy()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in own.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return own


def same_weights(found: nn.Module, wanted: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> None:
    moved = 0
    for name, weight in found.state_dict().items():
        torch.testing.assert_close(weight, wanted[name], msg=name)
        moved += not torch.equal(weight, plain[name])
    assert moved > 2


@pytest.mark.parametrize("targets", ["attention", "linear", "all"])
@pytest.mark.parametrize("kind", ["sd", "sd2", "sdxl"])
def test_diffusers_reads_a_unets(kind: str, targets: str, tmp_path: Path) -> None:
    family = family_of(kind, tmp_path / kind)
    plain = {name: w.clone() for name, w in family.network.state_dict().items()}
    own = trained(family, targets)
    wanted = own.merged().net.state_dict()
    (tmp_path / "lora").mkdir()
    assert write_kohya(tmp_path / "lora", own, {"made": "by a test"})
    write_lora(tmp_path / "lora", "unet", own, {})  # as it lies there with the other forms
    pipe = DiffusionPipeline.from_pretrained(tmp_path / kind)
    pipe.unet = type(pipe.unet).from_config(family.network.config)
    pipe.unet.load_state_dict(plain)
    pipe.load_lora_weights(tmp_path / "lora", weight_name=KOHYA)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    same_weights(pipe.unet, wanted, plain)


def test_the_names_are_the_ones_in_use(tmp_path: Path) -> None:
    """As the files of people have them, for each kind."""
    own = trained(family_of("sd", tmp_path / "sd"), rank=3, alpha=6.0)
    (tmp_path / "lora").mkdir()
    write_kohya(tmp_path / "lora", own, {})
    found = load_file(tmp_path / "lora" / KOHYA)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert {f"{name}.lora_down.weight", f"{name}.lora_up.weight", f"{name}.alpha"} <= found.keys()
    assert found[f"{name}.alpha"] == 3 and found[f"{name}.alpha"].dim() == 0
    assert any(key.endswith("attn2_to_out_0.lora_up.weight") for key in found)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    torch.testing.assert_close(found[f"{name}.lora_up.weight"], 2 * own.lora()[f"{layer}.lora_B.weight"])
    with safe_open(tmp_path / "lora" / KOHYA, "pt") as file:
        about = file.metadata()
    assert about["ss_network_module"] == "networks.lora" and about["ss_network_dim"] == "3"
    assert about["modelspec.architecture"] == "stable-diffusion-v1/lora"

    class SDXL:  # three levels of two layers, attention in the second and third
        config = {
            "layers_per_block": 2,
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        }

    first, second = "transformer_blocks.0.attn1.to_q", "transformer_blocks_0_attn1_to_q"
    for ours, theirs in {
        f"down_blocks.1.attentions.0.{first}": f"input_blocks_4_1_{second}",
        "down_blocks.2.attentions.1.proj_in": "input_blocks_8_1_proj_in",
        "down_blocks.1.downsamplers.0.conv": "input_blocks_6_0_op",
        f"mid_block.attentions.0.{first}": f"middle_block_1_{second}",
        "mid_block.resnets.1.conv1": "middle_block_2_in_layers_2",
        f"up_blocks.0.attentions.2.{first}": f"output_blocks_2_1_{second}",
        "up_blocks.1.upsamplers.0.conv": "output_blocks_5_2_conv",
        "up_blocks.2.resnets.2.conv_shortcut": "output_blocks_8_0_skip_connection",
    }.items():
        pair = {f"{ours}.lora_A.weight": torch.ones(1, 2), f"{ours}.lora_B.weight": torch.ones(2, 1)}
        assert f"lora_unet_{theirs}.alpha" in (kohya_names(SDXL, "sdxl", pair, 1.0) or {})


WIDE = {"to_q": 3072, "to_k": 3072, "to_v": 3072, "proj_mlp": 12288}


@pytest.mark.parametrize("with_mlp", [True, False])
def test_diffusers_reads_fluxs(with_mlp: bool) -> None:
    """Its reader has the true widths of Flux built in, so the pairs are as wide, without a network."""
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    class Net:
        @staticmethod
        def get_submodule(layer: str) -> nn.Linear:
            return nn.Linear(3072, WIDE[layer.rpartition(".")[2]], device="meta")

    layers = [f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
    layers += [f"transformer_blocks.1.attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj")]
    layers += ["transformer_blocks.1.ff.net.2", "transformer_blocks.1.norm1_context.linear"]
    layers += [f"single_transformer_blocks.7.attn.{name}" for name in ("to_q", "to_k", "to_v")]
    layers += ["single_transformer_blocks.7.proj_mlp"] * with_mlp
    lora = {}
    for i, layer in enumerate(layers):
        wide = WIDE.get(layer.rpartition(".")[2], 3072)
        generator = torch.Generator().manual_seed(i)
        lora[f"{layer}.lora_A.weight"] = torch.randn(2, 3072, generator=generator)
        lora[f"{layer}.lora_B.weight"] = torch.randn(wide, 2, generator=generator)
    named = kohya_names(Net, "flux", lora, 1.5)
    assert named is not None
    assert "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight" in named
    assert named["lora_unet_single_blocks_7_linear1.lora_up.weight"].shape == (21504, 8)
    back = _convert_kohya_flux_lora_to_diffusers(named)
    for layer in layers:
        down, up = (back.pop(f"transformer.{layer}.lora_{half}.weight") for half in "AB")
        mine = 1.5 * lora[f"{layer}.lora_B.weight"][:64] @ lora[f"{layer}.lora_A.weight"][:, :64]
        torch.testing.assert_close(up[:64] @ down[:, :64], mine)
    assert all(float(w.abs().max()) == 0 for w in back.values())  # a layer that has no adapter


def test_a_tiny_fluxs_names_and_others_without(tmp_path: Path) -> None:
    own = trained(family_of("flux", tmp_path / "flux"))
    assert write_kohya(tmp_path, own, {})
    found = load_file(tmp_path / KOHYA)
    up = found["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"]
    assert up.shape == (96, 6) and found["lora_unet_double_blocks_0_img_attn_qkv.alpha"] == 6
    (tmp_path / KOHYA).unlink()
    for kind in ("sd3", "pixart"):
        assert not write_kohya(tmp_path, trained(family_of(kind, tmp_path / kind)), {})
    assert not (tmp_path / KOHYA).exists()

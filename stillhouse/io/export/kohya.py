"""A LoRA under kohya's names, the form that ComfyUI and A1111's web interfaces load: ``lora_unet_LAYER`` with
``.lora_down``, ``.lora_up`` and ``.alpha``.

Facts of the form: U-Nets of Stable Diffusion 1 and 2 go by Diffusers' names, those of SDXL by the names of
the original code, Flux by Black Forest Labs', where one layer makes queries, keys and values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillhouse.adapters import Adapted
from stillhouse.io.export.lora import write_same

KOHYA = "kohya.safetensors"
PREFIX = "lora_unet_"
Pair = tuple[Tensor, Tensor]  # down (r, in, …), up (out, r, …)

RESNET = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    "time_embedding.linear_1": "time_embed_0",
    "time_embedding.linear_2": "time_embed_2",
    "add_embedding.linear_1": "label_emb_0_0",
    "add_embedding.linear_2": "label_emb_0_2",
}
MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
DOUBLE = {  # a double block of Flux, ours to theirs; those that several share are joined
    "attn.to_q": "img_attn_qkv",
    "attn.to_k": "img_attn_qkv",
    "attn.to_v": "img_attn_qkv",
    "attn.add_q_proj": "txt_attn_qkv",
    "attn.add_k_proj": "txt_attn_qkv",
    "attn.add_v_proj": "txt_attn_qkv",
    "attn.to_out.0": "img_attn_proj",
    "attn.to_add_out": "txt_attn_proj",
    "ff.net.0.proj": "img_mlp_0",
    "ff.net.2": "img_mlp_2",
    "ff_context.net.0.proj": "txt_mlp_0",
    "ff_context.net.2": "txt_mlp_2",
    "norm1.linear": "img_mod_lin",
    "norm1_context.linear": "txt_mod_lin",
}
SINGLE = {
    "attn.to_q": "linear1",
    "attn.to_k": "linear1",
    "attn.to_v": "linear1",
    "proj_mlp": "linear1",
    "proj_out": "linear2",
    "norm.linear": "modulation_lin",
}
BLOCKS = {
    "transformer_blocks": ("double_blocks", DOUBLE),
    "single_transformer_blocks": ("single_blocks", SINGLE),
}
ARCHITECTURES = {
    "sd": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
    "flux": "flux-1-dev",
}


def write_kohya(folder: Path, student: Adapted, header: Mapping[str, Any]) -> bool:
    """Write ``folder/kohya.safetensors``, if the student's network has names in that form.

    Arguments:
        folder: where the file goes, which exists.
        student: whose adapter it is.
        header: plain data for the file.

    Returns:
        Whether there is a file.
    """
    net: Any = student.net
    kind = architecture(net)
    named = (
        None
        if kind is None
        else kohya_names(net, kind, student.lora(), student.base.alpha / student.base.rank)
    )
    if named is None:
        return False
    about = {
        "format": "pt",
        "stillhouse": json.dumps(header),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(student.base.rank),
        "ss_network_alpha": str(student.base.rank),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{ARCHITECTURES[str(kind)]}/lora",
    }
    write_same(named, folder / KOHYA, about)
    return True


def architecture(net: Any) -> str | None:
    """The key of :data:`ARCHITECTURES` that a network of Diffusers has; None: one without kohya's names."""
    name, config = type(net).__name__, getattr(net, "config", {})
    if name == "FluxTransformer2DModel":
        return "flux"
    if name != "UNet2DConditionModel":
        return None
    if config.get("addition_embed_type") == "text_time":
        return "sdxl"
    return "sd2" if config.get("use_linear_projection") else "sd"


def kohya_names(net: Any, kind: str, lora: Mapping[str, Tensor], scale: float) -> dict[str, Tensor] | None:
    """An adapter under kohya's names.

    The scale ``alpha / rank`` is in the weights, and each ``.alpha`` is the rank of its pair, so that a
    reader who misses it makes no error.

    Arguments:
        net: of Diffusers, whose configuration places the blocks.
        kind: of :data:`ARCHITECTURES`.
        lora: ``LAYER.lora_A.weight`` (r, in, …) and ``LAYER.lora_B.weight`` (out, r, …), scale not applied.
        scale: ``alpha / rank``.

    Returns:
        The tensors; None where a layer has no name in that form.
    """
    layers = sorted({key.rpartition(".lora_")[0] for key in lora})
    pairs = {name: (lora[f"{name}.lora_A.weight"], lora[f"{name}.lora_B.weight"] * scale) for name in layers}
    if kind == "flux":
        found = _flux(net, pairs)
    elif kind == "sdxl":
        found = {_original(name, net.config): pair for name, pair in pairs.items()}
    else:
        found = {name.replace(".", "_"): pair for name, pair in pairs.items()}
    if found is None or "" in found:
        return None
    named: dict[str, Tensor] = {}
    for name, (down, up) in found.items():
        named[f"{PREFIX}{name}.lora_down.weight"] = down.contiguous()
        named[f"{PREFIX}{name}.lora_up.weight"] = up.contiguous()
        named[f"{PREFIX}{name}.alpha"] = torch.tensor(float(len(down)))
    return named


# -- SDXL ------------------------------------------------------------------------------------------


def _original(name: str, config: Mapping[str, Any]) -> str:
    """A layer of Diffusers' U-Net under its original name; empty: it has none."""
    if name in OUTER:
        return OUTER[name]
    length = config["layers_per_block"] + 1
    middle = re.fullmatch(r"mid_block\.((?:resnets|attentions)\.\d)\.(.+)", name)
    if middle:
        return f"middle_block_{MIDDLE[middle[1]]}_{_inner(middle[1], middle[2])}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    if not match:
        return ""
    way, block, part, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if part == "downsamplers":
        return f"input_blocks_{(block + 1) * length}_0_op"
    if part == "upsamplers":
        place = 2 if "Attn" in config["up_block_types"][block] else 1
        return f"output_blocks_{(block + 1) * length - 1}_{place}_conv"
    first = 1 + block * length if way == "down" else block * length
    side = "input" if way == "down" else "output"
    return f"{side}_blocks_{first + index}_{int(part == 'attentions')}_{_inner(part, rest)}"


def _inner(part: str, rest: str) -> str:
    return RESNET.get(rest, "") if part.startswith("resnets") else rest.replace(".", "_")


# -- Flux ------------------------------------------------------------------------------------------


def _flux(net: Any, pairs: Mapping[str, Pair]) -> dict[str, Pair] | None:
    """Pairs under Black Forest Labs' names; layers that are one layer there are joined as blocks of it."""
    made: dict[str, Pair] = {}
    for name, pair in pairs.items():
        match = re.fullmatch(r"(\w+)\.(\d+)\.(.+)", name)
        if not match or match[1] not in BLOCKS or match[3] not in BLOCKS[match[1]][1]:
            return None
        theirs, inner = BLOCKS[match[1]]
        whole = inner[match[3]]
        members = [part for part, other in inner.items() if other == whole]
        place = f"{theirs}_{match[2]}_{whole}"
        if len(members) == 1:
            made[place] = pair
        elif place not in made:
            made[place] = _joined(net, f"{match[1]}.{match[2]}", members, pairs)
    return made


def _joined(net: Any, block: str, members: list[str], pairs: Mapping[str, Pair]) -> Pair:
    """The adapter of one layer that stands for several: their downs one below the other, their ups as blocks
    on a diagonal, zeros where one has no adapter."""
    downs, ups = zip(*(_of(net, f"{block}.{member}", pairs) for member in members), strict=True)
    return torch.cat(downs), torch.block_diag(*ups)


def _of(net: Any, layer: str, pairs: Mapping[str, Pair]) -> Pair:
    if layer in pairs:
        return pairs[layer]
    rank, wide = len(next(iter(pairs.values()))[0]), net.get_submodule(layer)
    return torch.zeros(rank, wide.in_features), torch.zeros(wide.out_features, rank)

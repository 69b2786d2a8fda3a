"""An adapter as files that others read: Diffusers' single file, PEFT's pair, and what identifies the
base it belongs to."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from stillhouse.adapters import Adapted, adapted
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.structure import checked
from stillhouse.io.checked import json_of, tensors_of
from stillhouse.io.weights import warn_unless_finite

DIFFUSERS, PEFT, PEFT_CONFIG = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
)
PROBES, NEAR = (
    64,
    2**-7,
)  # weights looked at; how far two of equal origin may lie apart (a rounding to bfloat16, with room)

FINGERPRINT = {"class": str, "weights": int, "probes": [float]}


def fingerprint(net: nn.Module) -> dict[str, Any]:
    """What tells one base from another: class, number of weights in its matrices and a few of them, low-rank
    layers passed over."""
    weights = {
        name.replace(".base_layer", ""): w
        for name, w in net.named_parameters()
        if w.dim() > 1 and ".lora_" not in name
    }
    names, probes = sorted(weights), []
    for i in range(
        PROBES
    ):  # spread over the network; a place in the middle of each tensor, where no padding is
        flat = weights[names[i * len(names) // PROBES]].detach().flatten()
        probes.append(float(flat[(2 * i + 1) * len(flat) // (2 * PROBES)]))
    return {
        "class": type(net).__name__,
        "weights": sum(w.numel() for w in weights.values()),
        "probes": probes,
    }


def check_base(
    net: nn.Module, wanted: dict[str, Any], folder: str | Path, what: str = "LoRA", made: str = "trained"
) -> None:
    """Refuse a base that an adapter was not trained on, with :class:`StillhouseError`.

    Arguments:
        net: the base.
        wanted: the :func:`fingerprint` of the right one.
        folder: of the adapter, for the sentence.
        what: lies in it, for the sentence.
        made: how it came about, for the sentence.
    """
    checked(wanted, FINGERPRINT, f"The {what} in '{folder}' can't be read")
    found = fingerprint(net)
    alike = all(found[key] == wanted[key] for key in ("class", "weights"))
    require(
        alike,
        f"The {what} in '{folder}' belongs to a {wanted['class']} of {wanted['weights']:,} weights, not to "
        f"this {found['class']} of "
        f"{found['weights']:,}; give the base it was {made} on.",
    )
    sound = len(wanted["probes"]) == len(found["probes"])
    require(sound, f"The {what} in '{folder}' can't be read: 'probes' are {PROBES} numbers.")
    mine, its = (torch.tensor(f["probes"], dtype=torch.float64) for f in (found, wanted))
    same = bool(((mine - its).abs() <= NEAR * its.abs() + 1e-6).all())
    require(
        same,
        f"The {what} in '{folder}' was {made} on other weights than this {found['class']}'s; give the base "
        f"it was {made} on, or put it on "
        "this one in Diffusers (pipe.load_lora_weights) if you mean to.",
    )


def write_same(tensors: dict[str, Tensor], path: Path, about: dict[str, str]) -> None:
    """Write a safetensors file whose bytes follow from its content alone: the library itself writes the
    entries of ``about`` in any order.

    Arguments:
        tensors: by name.
        path: of the file.
        about: the file's metadata.
    """
    blob = save(tensors, about)
    end = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:end])
    header["__metadata__"] = dict(sorted(about.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    path.write_bytes(len(text).to_bytes(8, "little") + text + blob[end:])


def write_lora(folder: Path, part: str, student: Adapted, header: dict[str, Any]) -> None:
    """Both formats of a student's adapter.

    Diffusers' file holds the scale ``alpha / rank`` in its weights, so that no reader can miss it; PEFT's
    keeps it in its configuration.

    Arguments:
        folder: where the files go, which exists.
        part: the pipeline's name of the network.
        student: whose adapter it is.
        header: plain data for both files.
    """
    base, weights = student.base, student.lora()
    scale = base.alpha / base.rank
    scaled = {f"{part}.{key}": w * scale if ".lora_B." in key else w for key, w in weights.items()}
    shape = {"r": base.rank, "target_modules": sorted(base.names)}
    about = {"format": "pt", "stillhouse": json.dumps(header)}
    plain = {f"{part}.{key}": value for key, value in {**shape, "lora_alpha": base.rank}.items()}
    diffusers = {**about, "lora_adapter_metadata": json.dumps(plain, sort_keys=True)}
    write_same(scaled, folder / DIFFUSERS, diffusers)
    write_same({f"base_model.model.{key}": w for key, w in weights.items()}, folder / PEFT, about)
    config = {**shape, "lora_alpha": base.alpha, "peft_type": "LORA", "bias": "none", "inference_mode": True}
    config |= {"base_model_name_or_path": header.get("base_model")}
    (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2))


def _bare(base: Denoiser) -> Denoiser:
    """``base`` itself; where its network carries another run's adapters, a copy of it without."""
    if isinstance(base, Adapted) or not any(".lora_" in name for name, _ in base.net.named_parameters()):
        return base
    bare = copy.deepcopy(base)
    for name, module in list(bare.net.named_modules()):
        if hasattr(module, "get_base_layer"):
            parent, _, last = name.rpartition(".")
            setattr(bare.net.get_submodule(parent), last, module.get_base_layer())
    return bare


def read_lora(folder: Path, base: Denoiser) -> Adapted:
    """The student that :func:`write_lora` wrote.

    Arguments:
        folder: with PEFT's two files.
        base: the denoiser that it was trained on; adapters of another run that it carries are left out.

    Returns:
        An adapter on ``base``, frozen.
    """
    config = json_of(folder / PEFT_CONFIG, {"r": int, "lora_alpha": float, "target_modules": [str]})
    found = tensors_of(folder / PEFT)
    base = _bare(base)
    student = adapted(
        base, int(config["r"]), alpha=float(config["lora_alpha"]), targets=tuple(config["target_modules"])
    ).copy()
    warn_unless_finite(found, folder)
    with torch.no_grad():
        for key, weight in student.weights.items():
            layer, _, half = key.replace("/", ".").rpartition(".")
            name = f"base_model.model.{layer}.lora_{'A' if half == 'down' else 'B'}.weight"
            require(
                name in found,
                f"The LoRA in '{folder}' has no weights for the layer '{layer}'; copy the whole folder.",
            )
            require(
                found[name].shape == weight.shape,
                f"The LoRA in '{folder}' has weights of shape {tuple(found[name].shape)} for the layer "
                f"'{layer}', not {tuple(weight.shape)}.",
            )
            weight.copy_(found[name])
    return student.requires_grad_(False)

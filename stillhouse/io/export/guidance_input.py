"""The guidance scale as an input of Diffusers' U-Nets (``time_cond_proj_dim``): grown, or idle so that
pipelines never double a call."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from stillhouse.core.errors import StillhouseError
from stillhouse.io.pipelines.quiet import quiet

SIZE = 256  # waves, as latent consistency models have


def takes_guidance_input(net: nn.Module) -> bool:
    """Whether a network of this class can take the guidance scale as an input beside the time."""
    config = getattr(net, "config", {})
    return "time_cond_proj_dim" in config and hasattr(getattr(net, "time_embedding", None), "cond_proj")


def with_guidance_input(net: Any, size: int = SIZE) -> nn.Module:
    """A copy of a U-Net with the guidance scale as an input, as yet without effect: its projection starts at
    zero.

    The scale comes as waves of ``1000 (w - 1)``, sines then cosines (Meng et al., 2022, arXiv 2210.03142,
    section 3; Luo et al., 2023, arXiv 2310.04378), which is how Diffusers' own pipelines give it. Raises
    :class:`StillhouseError` for networks without such an input.

    Arguments:
        net: a U-Net of Diffusers.
        size: number of waves.

    Returns:
        The copy; of a network that has the input already, a plain one.
    """
    if not takes_guidance_input(net):
        raise StillhouseError(
            f"A {type(net).__name__} has no input for the guidance scale; fix the scale instead (equal "
            "lowest and highest guidance)."
        )
    if net.config["time_cond_proj_dim"] is not None:
        copied: nn.Module = copy.deepcopy(net)
        return copied
    with quiet(), torch.random.fork_rng(devices=[]):  # its first weights are replaced below
        twin = (
            type(net)
            .from_config({**net.config, "time_cond_proj_dim": size})
            .to(device=net.device, dtype=net.dtype)
        )
    twin.load_state_dict(net.state_dict(), strict=False)
    nn.init.zeros_(twin.time_embedding.cond_proj.weight)
    grown: nn.Module = twin.train(net.training)
    return grown


def with_idle_input(net: Any, size: int = SIZE) -> nn.Module:
    """The same weights (shared) with a guidance input of zeros: pipelines that find one never evaluate twice
    for guidance.

    Arguments:
        net: a network of Diffusers.
        size: number of waves.

    Returns:
        A network on the same weights; ``net`` itself where it can't have such an input, or has one already.
    """
    if not takes_guidance_input(net) or net.config["time_cond_proj_dim"] is not None:
        same: nn.Module = net
        return same
    width, reference = net.time_embedding.linear_1.in_features, net.time_embedding.linear_1.weight
    embedding = _twin(net.time_embedding)
    embedding.cond_proj = nn.Linear(size, width, bias=False, device=reference.device, dtype=reference.dtype)
    nn.init.zeros_(embedding.cond_proj.weight)
    return _with_embedding(net, embedding, size)


def with_guidance_projection(net: Any) -> nn.Module:
    """The inverse of :func:`with_idle_input`."""
    embedding = _twin(net.time_embedding)
    embedding.cond_proj = None
    return _with_embedding(net, embedding, None)


def _with_embedding(net: Any, embedding: nn.Module, size: int | None) -> nn.Module:
    twin = _twin(net)
    twin.time_embedding = embedding
    twin.register_to_config(time_cond_proj_dim=size)
    made: nn.Module = twin
    return made


def _twin(module: nn.Module) -> Any:
    """The same parameters and children in a module of its own, so that a child can be exchanged without the
    original's noticing."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin

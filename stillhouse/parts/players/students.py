"""Students made from a teacher's network: with more inputs, or smaller."""

from __future__ import annotations

import math
from typing import Any

from stillhouse.adapters import Adapted
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.guidance import takes_guidance
from stillhouse.models import build_model

# what is made smaller of each network
SMALLER = {
    "mlp": ("width", "depth"),
    "unet": ("channels",),
    "dit": ("dim", "depth"),
    "temporal": ("channels",),
    "video_dit": ("dim", "depth"),
    "onehot": ("width", "depth"),
    "token_transformer": ("dim", "depth"),
}


def config_of(denoiser: Denoiser) -> dict[str, Any]:
    """The configuration of a denoiser's network, which must be one of ours."""
    require(
        not isinstance(denoiser, ExactDenoiser),
        "A closed-form teacher has no network to build a student from; give the student one.",
    )
    if "name" not in getattr(denoiser.net, "config", {}):
        raise StillhouseError(
            f"A {type(denoiser.net).__name__} can't be rebuilt with other inputs; give the student's "
            "network yourself."
        )
    return dict(denoiser.net.config)  # type: ignore[arg-type]


def with_inputs(denoiser: Denoiser, *, two_time: bool = False, guidance_input: bool = False) -> Denoiser:
    """A trainable copy that also takes a second time or a guidance scale; the new inputs start without
    effect.

    Of networks of ours, and for a guidance scale of Diffusers' U-Nets, where it is
    their ``time_cond_proj_dim``.

    Arguments:
        denoiser: the teacher; raises :class:`StillhouseError` for a closed form, an adapter, or a network
            that can't be rebuilt.
        two_time: add the time ``s`` that a jump ends at.
        guidance_input: add a guidance scale; a network that takes one already is copied.

    Returns:
        The copy, of the same process and kind.
    """
    if guidance_input and not two_time and takes_guidance(denoiser):
        return denoiser.copy()
    require(
        not isinstance(denoiser, Adapted),
        "An adapter has the inputs of its base; for a guidance scale or a second time as a new input train "
        "a whole network (no `lora`), or "
        "fix the scale.",
    )
    if (
        guidance_input
        and not two_time
        and hasattr(getattr(denoiser.net, "time_embedding", None), "cond_proj")
    ):
        return _guided_unet(denoiser)
    config = config_of(denoiser)
    config |= {
        "two_time": two_time or config.get("two_time", False),
        "guidance_input": guidance_input or config.get("guidance_input", False),
    }
    net = build_model(config)
    missing, unexpected = net.load_state_dict(denoiser.net.state_dict(), strict=False)
    assert not unexpected and all("embed." in key for key in missing), (missing, unexpected)
    return Denoiser(
        net,
        denoiser.process,
        denoiser.kind,
        call=denoiser.call,
        two_time=two_time or denoiser.two_time,
        empty=denoiser.empty,
    )


def _guided_unet(denoiser: Denoiser) -> Denoiser:
    """A copy of a Diffusers U-Net that takes a guidance scale, as those of latent consistency models do."""
    from stillhouse.io.export import with_guidance_input

    net = with_guidance_input(denoiser.net).requires_grad_(True)
    return Denoiser(net, denoiser.process, denoiser.kind, call=denoiser.call, empty=denoiser.empty)


def shrunk(denoiser: Denoiser, share: float) -> Denoiser:
    """A fresh network of the same kind whose widths (and depth, of an MLP and a transformer) are ``share`` of
    the teacher's.

    Arguments:
        denoiser: of a network of ours; raises :class:`StillhouseError` for a closed form, a foreign network,
            and one that has no widths, such as a scene.
        share: of widths, rounded to multiples of 8 that heads of attention divide, and of the depth, rounded
            to 1 or more.

    Returns:
        A denoiser with new weights, of the same process, kind and inputs.
    """
    config = config_of(denoiser)
    require(
        config["name"] in SMALLER,
        f"A network '{config['name']}' can't be made smaller; give the student's network yourself, or take "
        f"one of {', '.join(SMALLER)}.",
    )
    for key in SMALLER[config["name"]]:
        value = config[key]
        step = {"depth": 1, "dim": math.lcm(8, config.get("heads", 1))}.get(key, 8)
        if isinstance(value, list | tuple):
            config[key] = [max(step, round(v * share / step) * step) for v in value]
        else:
            config[key] = max(step, round(value * share / step) * step)
    return Denoiser(
        build_model(config),
        denoiser.process,
        denoiser.kind,
        call=denoiser.call,
        two_time=denoiser.two_time,
        empty=denoiser.empty,
    )

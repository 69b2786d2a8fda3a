"""Negative prompts in attention: what a student attends to is taken away where another prompt would attend to
it.

NASA, of Nguyen et al., 2024 (arXiv 2412.02687, section 4.2). One network call, cross-attention alone is
doubled.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.core.conditions import Condition, Parts, expand, move, size
from stillhouse.core.denoiser import Denoiser, Wrapped
from stillhouse.core.errors import StillhouseError, require, required
from stillhouse.core.prediction import Prediction
from stillhouse.model import Model
from stillhouse.models.taps import Network


class Negative(Wrapped):
    """``denoiser`` steered away from ``negative``: each cross-attention gives ``Z+ - alpha Z-`` to its
    output projection.

    ``Z+`` and ``Z-`` are the attention of the same queries to the tokens of the prompt and of the negative
    one, each with a softmax of its own; nothing is renormalised. Only tokens (and their mask) of the negative
    condition are used: labels, pooled vectors and sizes stay the prompt's. Our networks' learned empty token
    stands before either prompt, as in a plain call. ``negative``: a condition of as many rows as a call has,
    or of one. ``alpha``: a number or (B,); 0 is the plain denoiser, and so is a call without a condition.

    Composes with guidance as ``Guided(Negative(denoiser, ...), w)``. For networks of ours with ``token_dim``
    and for those of Diffusers whose cross-attention takes ``cross_attention_kwargs`` (U-Nets of Stable
    Diffusion 1 to XL, PixArt); raises :class:`StillhouseError` for others.
    """

    def __init__(self, denoiser: Denoiser, negative: Condition, alpha: float | Tensor):
        require(
            not isinstance(denoiser.net, Denoiser),
            "A negative prompt goes inside guidance: Guided(Negative(denoiser, ...), w).",
        )
        super().__init__(denoiser)
        tokens = negative.get("tokens") if isinstance(negative, dict) else negative
        tokens = required(
            tokens if torch.is_tensor(tokens) and tokens.dim() == 3 else None,
            "A negative prompt is a condition with tokens (B, L, C).",
        )
        self.negative: Parts = {
            "tokens": tokens,
            **({"mask": negative["mask"]} if isinstance(negative, dict) and "mask" in negative else {}),
        }
        self.alpha = alpha
        if isinstance(denoiser.net, Network):
            takes_tokens = bool(denoiser.net.config.get("token_dim"))
            require(
                takes_tokens, "A negative prompt needs cross-attention: a network built with `token_dim`."
            )
        else:
            _prepare(denoiser.net)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition = None, **extra: Any) -> Prediction:
        if cond is None or (not torch.is_tensor(self.alpha) and self.alpha == 0):
            return self.plain(x_t, t, cond, **extra)
        rows, negative = len(x_t), move(self.negative, x_t.device)
        negative = negative if size(negative) == rows else expand(negative, rows)
        weight = torch.as_tensor(self.alpha, dtype=torch.float32, device=x_t.device).expand(rows)
        if isinstance(self.plain.net, Network):
            own = cond if isinstance(cond, dict) else {"tokens": cond}
            both = {
                **own,
                **{f"negative_{name}": part for name, part in negative.items()},
                "negative_weight": weight,
            }
            return self.plain(x_t, t, both, **extra)
        hook = self.plain.net.register_forward_pre_hook(_negative_hook(negative, weight), with_kwargs=True)
        try:
            return self.plain(x_t, t, cond, **extra)
        finally:
            hook.remove()


def without(model: Model, prompts: str | list[str], alpha: float) -> Model:
    """``model`` with its samples steered away from ``prompts``, no training needed.

    Arguments:
        model: one with a text encoder and cross-attention; raises :class:`StillhouseError` for others.
        prompts: one for all samples, or one a sample.
        alpha: the weight of the negative prompt; useful ones lie between 0 and 1, 0.1 to 0.5 in the paper, by
            model.

    Returns:
        A model that shares the network of ``model``.
    """
    text = required(model.text, "This model takes no prompts.")
    negative = text.encode([prompts] if isinstance(prompts, str) else prompts)
    return replace(model, denoiser=Negative(model.denoiser, negative, alpha))


class Subtracting:
    """An attention processor of Diffusers around another one, which can also be given a negative prompt.

    The inner processor is called once for each prompt. All of its output but the attention (bias of the
    output projection, skip connection) is the same in both calls and is put back, so that what is subtracted
    is ``alpha W Z-``.
    """

    def __init__(self, plain: Any):
        self.plain = plain

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        negative: Tensor | None = None,
        negative_mask: Tensor | None = None,
        negative_weight: Tensor | None = None,
    ) -> Tensor:
        out: Tensor = self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if negative is None or negative_weight is None or encoder_hidden_states is None:
            return out
        other = self.plain(attn, hidden_states, negative.to(hidden_states.dtype), negative_mask, temb)
        inner = attn.to_out[0]
        still = inner(hidden_states.new_zeros(1, 1, inner.in_features))
        if attn.residual_connection:
            still = still + hidden_states
        weight = negative_weight.to(out.dtype).reshape(-1, *[1] * (out.dim() - 1))
        steered: Tensor = out - weight * (other - still / attn.rescale_output_factor)
        return steered


def _prepare(net: nn.Module) -> None:
    """Let every attention of a Diffusers network take a negative prompt; until then nothing about it
    changes."""
    kind = type(net).__name__
    takes = "cross_attention_kwargs" in inspect.signature(net.forward).parameters
    attentions: list[Any] = (
        [m for m in net.modules() if hasattr(m, "set_processor") and hasattr(m, "to_out")] if takes else []
    )
    crossed = any(getattr(m, "is_cross_attention", False) for m in attentions)
    if not crossed or any(getattr(m, "added_kv_proj_dim", None) for m in attentions):
        raise StillhouseError(
            f"{kind} has no cross-attention of its own that a negative prompt could be taken from."
        )
    for attention in attentions:
        if not isinstance(attention.processor, Subtracting):
            attention.set_processor(Subtracting(attention.processor))


def _negative_hook(negative: Parts, weight: Tensor) -> Any:
    """A hook that gives a network's attention the negative prompt.

    It is an input of the blocks, not a state of theirs: a block that is computed again in the backward pass
    is given it again.
    """

    def tell(
        net: Any, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        dtype = next(net.parameters()).dtype
        tokens = negative["tokens"].to(dtype)
        # what the network does to its own prompt before any block sees it
        project = getattr(net, "caption_projection", None) or getattr(net, "encoder_hid_proj", None)
        extra = {"negative": tokens if project is None else project(tokens), "negative_weight": weight}
        if "mask" in negative:
            extra["negative_mask"] = ((1 - negative["mask"].to(dtype)) * -10000.0)[:, None]
        return inputs, {
            **options,
            "cross_attention_kwargs": {**(options.get("cross_attention_kwargs") or {}), **extra},
        }

    return tell

"""The embedding of time, second time, guidance scale and condition; and the layers that networks share."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.errors import require, required
from stillhouse.core.process import at_least_float32
from stillhouse.models.taps import transformed

Layer = TypeVar("Layer", bound=nn.Linear | nn.Conv1d | nn.Conv2d)


def zero(layer: Layer) -> Layer:
    """``layer`` with weights and bias set to zero: it has no effect at the start of training."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Fourier(nn.Module):
    """``sin, cos (2 pi f t)`` at ``size / 2`` frequencies spaced geometrically from 1/16 to 4 per unit of
    time.

    Time is [0, 1], or ``ln(sigma) / 4`` in about [-1.6, 1.1]. The highest frequency bounds ``d/dt`` by 8 pi:
    derivatives along the path stay tame (Lu & Song, 2024, arXiv 2410.11081, section 4.1, on what a hidden
    x1000 does to them).
    """

    def __init__(self, size: int, low: float = 1 / 16, high: float = 4.0):
        super().__init__()
        require(
            size % 2 == 0,
            f"Time features come in pairs of sine and cosine; their number must be even, not {size}.",
        )
        self.pairs, self.low, self.high = size // 2, math.log2(low), math.log2(high)

    def forward(self, t: Tensor) -> Tensor:
        """``t`` of shape (B,) or (B, F), any real numbers -> (…, size), in float32 at least."""
        t = at_least_float32(t)
        # made anew, not kept: a stored table would be rounded when the network is cast to bfloat16
        octaves = torch.linspace(self.low, self.high, self.pairs, device=t.device, dtype=t.dtype)
        angle = 2 * math.pi * t[..., None] * torch.exp2(octaves)
        return torch.cat([angle.sin(), angle.cos()], -1)


class NumberEmbedding(nn.Module):
    """Fourier features of a number, then two linear layers.

    Arguments:
        width: of the embedding.
        features: number of Fourier features, even.
        silent: the last layer starts at zero, so that it has no effect.
    """

    def __init__(self, width: int, features: int = 32, silent: bool = False):
        super().__init__()
        self.features, self.first, self.last = (
            Fourier(features),
            nn.Linear(features, width),
            nn.Linear(width, width),
        )
        if silent:
            zero(self.last)

    def forward(self, t: Tensor) -> Tensor:
        out: Tensor = self.last(F.silu(self.first(self.features(t).to(self.first.weight.dtype))))
        return out


class Embedding(nn.Module):
    """All inputs of a network besides its state, as one vector per sample, and tokens for cross-attention.

    Second time and guidance scale start without effect, so that they can be added to a trained network.

    Arguments:
        width: of the vector.
        classes: number of labels; a label of -1, or no condition at all, is the empty condition.
        token_dim: width of condition tokens; 0: none.
        two_time: the time at which a jump ends is an input as well.
        guidance_input: so is a guidance scale (Meng et al., 2022, arXiv 2210.03142).
        features: length of a condition vector (an observation, a camera), embedded by a small MLP; 0: none.
        frames: times and feature vectors may be given frame by frame.
    """

    def __init__(
        self,
        width: int,
        classes: int = 0,
        token_dim: int = 0,
        two_time: bool = False,
        guidance_input: bool = False,
        features: int = 0,
        frames: bool = False,
    ):
        super().__init__()
        self.frames = frames
        self.classes, self.token_dim = classes, token_dim
        self.time = NumberEmbedding(width)
        self.end = NumberEmbedding(width, silent=True) if two_time else None
        self.guidance = NumberEmbedding(width, silent=True) if guidance_input else None
        if classes:
            self.label = nn.Embedding(classes + 1, width)  # row 0 is the empty condition
            nn.init.normal_(self.label.weight, std=0.5)
        if token_dim:
            self.empty = nn.Parameter(0.02 * torch.randn(1, 1, token_dim))
            self.pool = nn.Linear(token_dim, width)
        self.features = features
        if features:
            self.feature_embed = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(
        self, t: Tensor, cond: Any, s: Tensor | None, guidance: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Embed times, guidance scale and condition.

        The first token is the learned empty one, so a sample whose mask is all False is unconditional. A dict
        may also hold a second prompt whose attention is taken away, ``negative_tokens, negative_mask`` and
        ``negative_weight`` (B,); the vector does not depend on it, tokens and mask are then those of
        :func:`streams`. Raises :class:`StillhouseError` for a condition that the network was not built for.

        Arguments:
            t: times, (B,), or (B, F) for ``frames``.
            cond: None; labels (B,), int64; tokens (B, L, C); or a dict of ``label, tokens, mask, features``,
                the last one (B, features) or (B, F, features), without which nothing is added. An ``image``
                in the dict is read elsewhere: see :func:`beside`.
            s: times at which jumps end, (B,), or (B, F) for ``frames``; None: ``t``.
            guidance: scales, (B,); None: 1.

        Returns:
            The vector (B, width), or (B, F, width) if anything was given frame by frame; the tokens (B, 1 +
            L, C) and their mask (B, 1 + L), True where a token counts, both None for a network without
            tokens.
        """
        label, tokens, mask = split(cond)
        vector = self.time(t)
        if s is not None or self.end is not None:
            end = required(self.end, "A second time was given to a network built without `two_time`.")
            vector = _together(vector, end(t if s is None else s))
        if guidance is not None or self.guidance is not None:
            scale = required(
                self.guidance, "A guidance scale was given to a network built without `guidance_input`."
            )
            w = torch.ones_like(t) if guidance is None else at_least_float32(guidance)
            vector = _together(vector, scale(torch.asinh(w) / 4))  # w = 0 … 30 becomes 0 … 1
        if label is not None or self.classes:
            rows = self._rows(label, t)
            vector = _together(vector, self.label(rows))
        if isinstance(cond, dict) and "features" in cond:
            vector = _together(vector, self._features(cond["features"]))
        if tokens is None and not self.token_dim:
            return vector, None, None
        tokens, mask = self._tokens(tokens, mask, t.shape[0])
        share = mask.to(tokens.dtype)[..., None]
        vector = _together(vector, self.pool((tokens * share).sum(1) / share.sum(1)))
        if isinstance(cond, dict) and "negative_tokens" in cond:
            other = self._tokens(cond["negative_tokens"], cond.get("negative_mask"), t.shape[0])
            tokens, mask = streams((tokens, mask), other, cond["negative_weight"])
        return vector, tokens, mask

    def _rows(self, label: Tensor | None, t: Tensor) -> Tensor:
        """Rows of the label table."""
        if label is None:
            return torch.zeros(t.shape[0], dtype=torch.long, device=t.device)
        require(self.classes > 0, "Class labels were given to a network built without `classes`.")
        # a branch on data: cannot be traced, and has no meaning on tensors without values
        if not (torch.compiler.is_compiling() or label.is_meta or transformed(label)):
            low, high = int(label.min()), int(label.max())
            worst = low if low < -1 else high
            require(
                -1 <= low and high < self.classes,
                f"Label {worst} is not among -1 (none), 0 … {self.classes - 1}.",
            )
        return label + 1

    def _features(self, features: Tensor) -> Tensor:
        """What the small MLP makes of a condition vector."""
        require(self.features > 0, "A condition vector was given to a network built without `features`.")
        wanted, found = self.features, tuple(features.shape)
        ranks = (2, 3) if self.frames else (2,)
        require(
            features.dim() in ranks and found[-1] == wanted,
            f"Condition vectors must have the shape (B, {wanted}), not {found}.",
        )
        out: Tensor = self.feature_embed(features.to(self.time.first.weight.dtype))
        return out

    def _tokens(self, tokens: Tensor | None, mask: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        """The empty token and the given ones, with their mask."""
        require(self.token_dim > 0, "Condition tokens were given to a network built without `token_dim`.")
        empty = self.empty.expand(batch, -1, -1)
        if tokens is None:
            tokens = empty[:, :0]
        require(
            tokens.dim() == 3 and tokens.shape[-1] == self.token_dim,
            f"Condition tokens must have the shape (B, L, {self.token_dim}), not {tuple(tokens.shape)}.",
        )
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return torch.cat([empty, tokens.to(empty.dtype)], 1), F.pad(mask.bool(), (1, 0), value=True)


def streams(
    tokens: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor], weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Two prompts for an :class:`Attention` that subtracts the second's output, weighted, from the first's.

    Arguments:
        tokens: tokens (B, L, C) and mask (B, L) of the prompt.
        negative: those of the prompt that is subtracted.
        weight: of the subtraction, (B,).

    Returns:
        Tokens (B, 2, L, C), the shorter prompt filled up, and what stands in for the mask (B, 2, L): where a
        token counts the weight of its prompt, 1 or ``-weight``, and -inf elsewhere. The first token of a
        prompt always counts.
    """
    longest = max(len(mask[0]) for _, mask in (tokens, negative))
    filled, signed = [], []
    for (rows, mask), its in ((tokens, torch.ones_like(weight)), (negative, -weight)):
        short = longest - mask.shape[1]
        filled.append(F.pad(rows, (0, 0, 0, short)))
        kept = F.pad(mask, (0, short), value=False)
        signed.append(torch.where(kept, its[:, None].to(rows), -math.inf))
    return torch.stack(filled, 1), torch.stack(signed, 1)


def _together(a: Tensor, b: Tensor) -> Tensor:
    """The sum of two vectors, each of a whole sample (B, W) or of every frame of it (B, F, W)."""
    if a.dim() == b.dim():
        return a + b
    return a + b[:, None] if a.dim() > b.dim() else a[:, None] + b


def split(cond: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Label, tokens and mask of a condition, whichever way it was given."""
    if cond is None:
        return None, None, None
    if isinstance(cond, dict):
        odd = set(cond) - {
            "label",
            "tokens",
            "mask",
            "negative_tokens",
            "negative_mask",
            "negative_weight",
            "features",
            "image",
        }
        require(
            not odd,
            f"A condition may hold label, tokens, mask, features and image, not {', '.join(sorted(odd))}.",
        )
        return cond.get("label"), cond.get("tokens"), cond.get("mask")
    return (None, cond, None) if cond.is_floating_point() else (cond, None, None)


def beside(x: Tensor, cond: Any, channels: int) -> Tensor:
    """The state, with a condition image as more channels of it.

    Arguments:
        x: states, (B, C, …).
        cond: a dict may hold ``image``, (B, channels, …); zeros take its place where there is none.
        channels: of the image; 0: the network takes none.

    Returns:
        (B, C + channels, …); raises :class:`StillhouseError` for an image of another size, or where
        ``channels`` is 0.
    """
    image = cond.get("image") if isinstance(cond, dict) else None
    wanted = (x.shape[0], channels, *x.shape[2:])
    if image is None:
        return torch.cat([x, x.new_zeros(wanted)], 1) if channels else x
    require(channels > 0, "An image condition was given to a network built without `image_cond`.")
    require(
        tuple(image.shape) == wanted,
        f"This network's image condition must have the shape {wanted}, not {tuple(image.shape)}.",
    )
    return torch.cat([x, image.to(x)], 1)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that also works in forward mode, where the fused kernel needs contiguous tangents
    and has no way to get them."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not transformed(input):
            return super().forward(input)
        grouped = input.reshape(len(input), self.num_groups, -1)
        var, mean = torch.var_mean(grouped, -1, correction=0, keepdim=True)
        shape = (-1,) + (1,) * (input.dim() - 2)
        return ((grouped - mean) * (var + self.eps).rsqrt()).reshape(input.shape) * self.weight.reshape(
            shape
        ) + self.bias.reshape(shape)


class Attention(nn.Module):
    """Multi-head attention of a sequence on itself or on condition tokens.

    Several prompts at once, as :func:`streams` makes them, are attended to by the same queries and their
    outputs added up by their weights, before the output projection.

    Arguments:
        width: of queries and output, divisible by ``heads``.
        heads: among which the width is split.
        source: width of the condition tokens; 0: the same width.
    """

    def __init__(self, width: int, heads: int, source: int = 0):
        super().__init__()
        require(width % heads == 0, f"A width of {width} can't be split among {heads} attention heads.")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(source or width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Arguments:
            x: queries, (B, N, width).
            tokens: keys and values, (B, L, source); several prompts at once, (B, S, L, source); None: ``x``
                itself.
            mask: True where a token counts, (B, L); None: everywhere; of several prompts as :func:`streams`
                makes it.

        Returns:
            (B, N, width).
        """
        key, value = self.key_value(x if tokens is None else tokens).chunk(2, -1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for y in (self.query(x), key, value))
        if tokens is None or mask is None or tokens.dim() == 3:
            mixed = F.scaled_dot_product_attention(
                q, k, v, attn_mask=None if mask is None else mask[:, None, None]
            )
        else:
            each = q[:, None].expand(-1, k.shape[1], -1, -1, -1)
            apart = F.scaled_dot_product_attention(each, k, v, attn_mask=mask.isfinite()[:, :, None, None])
            mixed = (mask[:, :, 0].to(apart)[..., None, None, None] * apart).sum(1)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

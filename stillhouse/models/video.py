"""A small video diffusion transformer: one set of weights, bidirectional over the clip or causal over chunks
of frames with a cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError, require
from stillhouse.models.dit import positions
from stillhouse.models.embed import Attention, Embedding, zero
from stillhouse.models.taps import Network

Past = tuple[Tensor, Tensor]  # keys and values of one layer's past frames, each (B, heads, frames, P, width)


@dataclass
class KVCache:
    """Keys and values of past frames, layer by layer: what a causal network needs to go on without computing
    those frames again.

    Keys are kept without their position: when used, frames count by their *places in the cache*, so that no
    distance is ever larger than the window, however long the stream (Xiao et al., 2023, arXiv 2309.17453,
    section 3.2). As long as nothing was dropped, and afterwards where there is no sink, that is the distance
    in time.

    Arguments:
        window: the most frames that are kept, 0 for all.
        sink: the first frames of the stream that are never dropped; the others slide.
        layers: keys and values of each layer; empty at the start of a stream.
    """

    window: int = 0
    sink: int = 0
    layers: list[Past] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(
            self.window >= 0 and self.sink >= 0,
            f"A cache's window and sink are 0 frames or more, not {self.window} and {self.sink}.",
        )
        require(
            not self.window or self.sink < self.window,
            f"A cache of {self.window} frames can't keep a sink of {self.sink} and anything new; take a "
            "larger window.",
        )

    @property
    def frames(self) -> int:
        """How many frames it holds."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def past(self, layer: int) -> Past | None:
        """Keys and values of past frames in layer number ``layer``; None at the start of a stream."""
        return self.layers[layer] if self.layers else None

    def add(self, fresh: list[Past]) -> None:
        """Keep the keys and values that each layer has just made; drop the oldest beyond the window."""
        new = fresh[0][0].shape[2]
        room = self.window - self.sink
        require(
            not self.window or new <= room,
            f"{new} frames don't fit into a cache of {self.window} whose sink takes {self.sink}.",
        )
        over = max(0, self.frames + new - self.window) if self.window else 0

        def joined(old: Tensor, now: Tensor) -> Tensor:
            return torch.cat([old[:, :, : self.sink], old[:, :, self.sink + over :], now], 2)

        old = self.layers or [(k[:, :, :0], v[:, :, :0]) for k, v in fresh]
        self.layers = [(joined(a, k), joined(b, v)) for (a, b), (k, v) in zip(old, fresh, strict=True)]


def turned(x: Tensor, first: int) -> Tensor:
    """Rotary positions over frames (Su et al., 2021, arXiv 2104.09864): pairs of numbers turned by an angle
    that grows with the frame, so that scores depend on how far apart two frames are.

    Arguments:
        x: queries or keys, (B, heads, F, P, width), ``width`` even.
        first: place of the first frame.

    Returns:
        (B, heads, F, P, width).
    """
    half, dtype = x.shape[-1] // 2, torch.promote_types(x.dtype, torch.float32)
    speed = 100.0 ** -torch.linspace(0, 1, half, device=x.device, dtype=dtype)
    angle = torch.arange(first, first + x.shape[2], device=x.device)[:, None, None] * speed
    cos, sin, (a, b) = angle.cos().to(x), angle.sin().to(x), x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _chunks_seen(frames: int, chunk: int, tokens: int, device: torch.device) -> Tensor:
    """The block-causal mask, (frames * tokens, frames * tokens): True where a row may attend to a column,
    which is within its own chunk and all before it."""
    block = torch.arange(frames, device=device) // chunk
    return (block[:, None] >= block).repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)


class FrameAttention(nn.Module):
    """Self-attention over the tokens of all frames, and of the past ones where there is a cache."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        require(
            width % heads == 0 and width // heads % 2 == 0,
            f"A width of {width} can't be split into {heads} heads of an even width.",
        )
        self.heads = heads
        self.query, self.key_value, self.out = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor, seen: Tensor | None, past: Past | None) -> tuple[Tensor, Past]:
        """Attend over all frames.

        Arguments:
            x: tokens of each frame, (B, F, P, width).
            seen: True where a row may attend to a column, (F P, F P); None: everywhere.
            past: keys and values of past frames, each (B, heads, F', P, width / heads); None: there are none.

        Returns:
            Tokens, (B, F, P, width), and the keys and values of these frames.
        """
        parts = (self.query(x), *self.key_value(x).chunk(2, -1))
        q, k, v = (y.unflatten(-1, (self.heads, -1)).movedim(-2, 1) for y in parts)
        keys, values = (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))
        q, keys = turned(q, keys.shape[2] - x.shape[1]), turned(keys, 0)
        mixed = F.scaled_dot_product_attention(
            q.flatten(2, 3), keys.flatten(2, 3), values.flatten(2, 3), attn_mask=seen
        )
        return self.out(mixed.transpose(1, 2).flatten(2).unflatten(1, x.shape[1:3])), (k, v)


class VideoBlock(nn.Module):
    """A DiT block over frames: attention, cross-attention on tokens where there are any, an MLP; modulated
    frame by frame."""

    def __init__(self, dim: int, heads: int, dropout: float, token_dim: int):
        super().__init__()
        self.modulation = zero(nn.Linear(dim, 6 * dim))
        self.attention = FrameAttention(dim, heads)
        if token_dim:
            self.cross = Attention(dim, heads, token_dim)
            zero(self.cross.out)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        )

    def forward(
        self,
        h: Tensor,
        vector: Tensor,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        seen: Tensor | None = None,
        keys: Tensor | None = None,
        values: Tensor | None = None,
    ) -> Tensor:
        """A step of the residual stream.

        Arguments:
            h: tokens of each frame, (B, F, P, dim).
            vector: embedding of time and condition, (B, F or 1, dim).
            tokens: of the condition, (B, L, token_dim); None: no cross-attention.
            mask: True where a token counts, (B, L); None: everywhere.
            seen: True where a row may attend to a column, (F P, F P); None: everywhere.
            keys: of past frames, (B, heads, F', P, dim / heads); None: there are none.
            values: likewise.

        Returns:
            Tokens, (B, F, P, dim).
        """
        return self.written(h, vector, tokens, mask, seen, keys, values)[0]

    def written(
        self, h: Tensor, vector: Tensor, tokens: Any, mask: Any, seen: Any, keys: Any, values: Any
    ) -> tuple[Tensor, Past]:
        """:meth:`forward`, with the keys and values of these frames.

        Arguments:
            h: tokens of each frame, (B, F, P, dim).
            vector: embedding of time and condition, (B, F or 1, dim).
            tokens: of the condition, (B, L, token_dim), or None.
            mask: (B, L), or None.
            seen: (F P, F P), or None.
            keys: of past frames, (B, heads, F', P, dim / heads), or None.
            values: likewise.

        Returns:
            Tokens, (B, F, P, dim), and keys and values, each (B, heads, F, P, dim / heads).
        """
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(vector)[:, :, None].chunk(6, -1)
        size = h.shape[-1:]
        past = None if keys is None else (keys, values)
        mixed, fresh = self.attention(F.layer_norm(h, size) * (1 + scale1) + shift1, seen, past)
        h = h + gate1 * mixed
        if tokens is not None:
            h = h + self.cross(F.layer_norm(h, size).flatten(1, 2), tokens, mask).unflatten(1, h.shape[1:3])
        return h + gate2 * self.mlp(F.layer_norm(h, size) * (1 + scale2) + shift2), fresh


class VideoDiT(Network):
    """``net(x, t, cond)`` for clips ``x`` of shape (B, F, channels, H, W) with any number of frames F, H and
    W divisible by ``patch``.

    Positions are relative between frames and sines within one. A block's output is (B, F, HW / patch², dim).
    The options that are not here are those of :class:`Embedding`.

    Arguments:
        channels: of a frame.
        patch: side of the square that becomes one token.
        dim: token width, divisible by 4.
        depth: number of ``blocks``.
        heads: of the attention, each of an even width.
        chunk: 0: every frame attends to every other; a number makes the network causal over chunks of so many
            frames. It has no weights of its own, so one set of weights is both.
        frames: of the clips that it is trained on, 0 if unknown; streams look no further back.
        features: length of a condition vector, per clip (B, D) or per frame (B, F, D).
        dropout: within the blocks' MLPs.
    """

    name = "video_dit"

    def __init__(
        self,
        channels: int = 3,
        patch: int = 4,
        dim: int = 96,
        depth: int = 4,
        heads: int = 4,
        chunk: int = 0,
        frames: int = 0,
        classes: int = 0,
        token_dim: int = 0,
        features: int = 0,
        two_time: bool = False,
        guidance_input: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__(locals())
        require(dim % 4 == 0, f"A video DiT's dim must be divisible by 4, not {dim}.")
        self.patch, self.frames, self.middle, self.middle_channels = (
            patch,
            frames,
            f"blocks.{depth // 2}",
            dim,
        )
        self.embed = Embedding(dim, classes, token_dim, two_time, guidance_input, features, frames=True)
        self.input = nn.Linear(channels * patch**2, dim)
        self.blocks = nn.ModuleList(VideoBlock(dim, heads, dropout, token_dim) for _ in range(depth))
        self.modulation = zero(nn.Linear(dim, 2 * dim))
        self.output = zero(nn.Linear(dim, channels * patch**2))
        self.cache: KVCache | None = None
        self.writes = False
        self.see(chunk)

    def see(self, chunk: int) -> None:
        """From now on be causal over chunks of ``chunk`` frames, or bidirectional for 0."""
        require(
            chunk >= 0,
            f"A chunk has at least one frame, not {chunk}; 0 makes a network that sees the whole clip.",
        )
        self.chunk = self.config["chunk"] = chunk

    @contextmanager
    def remembering(self, cache: KVCache, write: bool = False) -> Iterator[None]:
        """Inside the block the network is given one chunk at a time, which attends to the past.

        Arguments:
            cache: keys and values of the past.
            write: add those of the chunk to the cache.

        Yields:
            Nothing; after the block the network has no cache.
        """
        self.cache, self.writes = cache, write
        try:
            yield
        finally:
            self.cache, self.writes = None, False

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Any = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """``x``: (B, F, C, H, W); ``t, s``: (B,) or, a time for every frame, (B, F); ``guidance``: (B,) ->
        (B, F, C, H, W)."""
        require(
            x.dim() == 5 and x.shape[1] > 0,
            f"A video network needs clips (B, F, C, H, W) of at least one frame, not {tuple(x.shape)}.",
        )
        high, wide = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        require(
            (high * self.patch, wide * self.patch) == tuple(x.shape[-2:]),
            f"This video DiT needs frame sides divisible by {self.patch}, not {x.shape[-2]} x {x.shape[-1]}.",
        )
        require(
            t.dim() == 1 or t.shape == x.shape[:2],
            f"{x.shape[1]} frames need one time or one each, not {tuple(t.shape[1:])}.",
        )
        vector, tokens, mask = self.embed(t, cond, s, guidance)
        vector = F.silu(vector if vector.dim() == 3 else vector[:, None])
        h = self.input(F.pixel_unshuffle(x, self.patch).flatten(-2).transpose(-1, -2))
        h = h + positions(high, wide, h.shape[-1], h)
        cache = self.cache
        seen = None
        if self.chunk and cache is None:
            seen = _chunks_seen(x.shape[1], self.chunk, high * wide, x.device)
        fresh = []
        for layer, block in enumerate(self.blocks):
            past = None if cache is None else cache.past(layer)
            inputs = (h, vector, tokens, mask, seen, *(past or (None, None)))
            if self.writes:
                assert isinstance(block, VideoBlock)
                h, made = block.written(*inputs)
                fresh.append(made)
            else:
                h = self.run(block, *inputs)
        if self.writes and cache is not None:
            cache.add(fresh)
        scale, shift = self.modulation(vector)[:, :, None].chunk(2, -1)
        h = self.output(F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift)
        return F.pixel_shuffle(h.transpose(-1, -2).unflatten(-1, (high, wide)), self.patch)


def video_network(denoiser: Denoiser, what: str) -> VideoDiT:
    """The video network inside a denoiser.

    Arguments:
        denoiser: wrapped any number of times.
        what: needs the network, for the error's sentence.

    Returns:
        The network; raises :class:`StillhouseError` if there is none.
    """
    net = denoiser.net
    while isinstance(net, Denoiser):
        net = net.net
    if not isinstance(net, VideoDiT):
        raise StillhouseError(
            f"{what} needs a video network that can be causal (video_dit), not {type(net).__name__}."
        )
    return net

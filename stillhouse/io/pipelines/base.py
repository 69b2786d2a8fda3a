"""What the library needs of a Diffusers pipeline: one short class per family, with everything read from the
pipeline's own configuration."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, apply, drop_condition, expand
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.prediction import Kind
from stillhouse.core.process import Process
from stillhouse.core.schedules import ScaledLinearVP
from stillhouse.io.pipelines.autoencoder import Autoencoded
from stillhouse.io.pipelines.quiet import quiet
from stillhouse.io.pipelines.schedules import Schedule, read_schedule

log = logging.getLogger("stillhouse")


class Family(Autoencoded):
    """A kind of pipeline. Subclasses say how its network is called and how its prompts are encoded; the rest
    is read here.

    ``pipelines``: the Diffusers classes it reads. ``part``: the name of the network in the pipeline.
    ``patch``: what a latent's sides must be divisible by. ``guidance``: the pipeline's own default scale, 1
    for none. ``frames``: of a clip, 0 for pictures. ``lengths``: tokens that a tokenizer (by its name in the
    pipeline) is given, where that is not the tokenizer's own limit.

    ``notes``: sentences on what was decided when it was opened.

    A family is shared by all copies of a denoiser: ``copy`` and ``deepcopy`` give it back as it is.

    Arguments:
        pipe: of Diffusers.
        height: of the pictures, in pixels; None: the pipeline's default.
        width: likewise.
        folder: where the pipeline was opened from; None: not a folder.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    part: ClassVar[str] = "unet"
    guidance: float = 1.0
    frames: int = 0
    lengths: ClassVar[dict[str, int]] = {}

    def __init__(
        self, pipe: Any, height: int | None = None, width: int | None = None, folder: str | Path | None = None
    ):
        self.pipe, self.folder = pipe, None if folder is None else Path(folder)
        self._cut: set[str] = set()
        self.notes: list[str] = []
        self.shape = self._shape(height, width)

    def at(self, height: int, width: int) -> Family:
        """The same pipeline for pictures of another size, which some families make a part of the condition.

        Arguments:
            height: in pixels.
            width: in pixels.

        Returns:
            A family that shares all parts with this one.
        """
        return type(self)(self.pipe, height, width, self.folder)

    def __deepcopy__(self, memo: dict[int, Any]) -> Family:
        return self

    # -- what a subclass defines -------------------------------------------------------------------

    def call(
        self,
        net: Any,
        x: Tensor,
        t: Tensor,
        cond: Condition,
        *,
        guidance: Tensor | None = None,
        s: Tensor | None = None,
    ) -> Tensor:
        """Call the pipeline's network.

        Arguments:
            net: the network, or a copy of it.
            x: states, (B, *shape), in the network's precision.
            t: times in [0, 1], (B,); :meth:`step_of` gives the network's own.
            cond: the condition of the B rows, as :meth:`encode_plain` makes it.
            guidance: scales, (B,), where the network takes one; None: 1 (Flux: the pipeline's default).
            s: without effect in the families that stand here.

        Returns:
            The network's output, (B, …).
        """
        raise NotImplementedError

    def encode_plain(self, prompts: list[str]) -> Condition:
        """The pipeline's embedding of prompts, a dict of tensors; None where it takes no text."""
        return None

    def null_condition(self) -> Condition:
        """The empty condition, one row."""
        return self.encode_plain([""])

    def steps_options(self, n: int) -> dict[str, Any]:
        """What the pipeline gives its scheduler beside the number of steps."""
        return {}

    @property
    def classes(self) -> int:
        """Number of class labels, 0 without."""
        return 0

    # -- what is read from the configuration -------------------------------------------------------

    @property
    def network(self) -> Any:
        """The U-Net or transformer itself, not a copy."""
        return getattr(self.pipe, self.part)

    @cached_property
    def schedule(self) -> Schedule:
        return read_schedule(self.pipe.scheduler)

    @property
    def process(self) -> Process:
        return self.schedule.process

    @property
    def kind(self) -> Kind:
        return self.schedule.kind

    @property
    def takes_guidance(self) -> bool:
        """Whether the network takes the guidance scale as an input."""
        return False

    @cached_property
    def empty(self) -> Condition:
        """The condition of an empty prompt, one row."""
        with torch.no_grad(), quiet():
            return self.null_condition()

    def denoiser(self) -> Denoiser:
        """The network as a denoiser that shares its weights with the pipeline."""
        net: Any = self.network.eval()
        net.middle = self.middle
        return Denoiser(net, self.process, self.kind, call=self.call_network, empty=self.empty)

    @property
    def middle(self) -> str:
        """The name of the submodule that critics read: a U-Net's middle, the block in the middle of a
        transformer; empty: none is known."""
        if getattr(self.network, "mid_block", None) is not None:
            return "mid_block"
        blocks = {name: getattr(self.network, name, None) for name in ("transformer_blocks", "blocks")}
        return next((f"{name}.{len(found) // 2}" for name, found in blocks.items() if found), "")

    def call_network(self, net: Any, x: Tensor, t: Tensor, cond: Condition, **extra: Tensor) -> Tensor:
        """:meth:`call` in the network's own precision, with the sign and the channels of our kinds.

        Networks with a learned variance give twice the channels; the second half is the variance and is
        dropped. Raises :class:`StillhouseError` for a state of another kind than the network's.

        Arguments:
            net: the network, or a copy of it.
            x: states, (B, *shape).
            t: times in [0, 1], (B,).
            cond: the condition of the B rows.
            extra: ``guidance`` and ``s`` of :meth:`call`.

        Returns:
            The prediction, (B, *shape), as the family's ``kind`` means it.
        """
        channels = self.shape[-3]
        fits = (
            x.dim() == len(self.shape) + 1
            and x.shape[-3] == channels
            and not any(side % self.patch for side in x.shape[-2:])
        )
        whole = f", with sides in multiples of {self.patch}" if self.patch > 1 else ""
        wanted = f"(B, f, {channels}, h, w)" if self.frames else f"(B, {channels}, h, w)"
        require(fits, f"{type(net).__name__} takes states {wanted}{whole}, not {tuple(x.shape)}.")
        dtype = next(net.parameters()).dtype
        encoded = apply(lambda part: part.to(dtype) if part.is_floating_point() else part, cond)
        out = self.call(net, x.to(dtype), t, encoded, **extra)
        if out.shape[-3] == 2 * channels:
            out = out.chunk(2, dim=-3)[0]
        return out if self.schedule.sign == 1 else -out

    def step_of(self, t: Tensor) -> Tensor:
        """The network's own timestep for our ``t``: the step of its table (from 0), 1000 t for a flow,
        ``ln(sigma) / 4`` for EDM as it is.

        A time on the table becomes the whole number it stands for, and of a flow's the whole part, where
        the pipeline's scheduler has whole numbers alone; the derivative is that of the unrounded step.
        """
        if not isinstance(self.process, ScaledLinearVP):
            if self.schedule.is_edm or not self.schedule.whole:
                return t if self.schedule.is_edm else 1000 * t
            return 1000 * t + ((1000 * t + 1e-4).floor() - 1000 * t).detach()
        index = self.process.index_of_time(t)
        near = index.round()
        return (
            index + torch.where((near - index).abs() < 1e-2, near - index, torch.zeros_like(index)).detach()
        )

    # -- text --------------------------------------------------------------------------------------

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Prompts as the network's condition; an empty one is the pipeline's own unconditional embedding.
        Warns once if any is cut."""
        require(len(prompts) > 0, "The list of prompts is empty.")
        require(
            self.empty is not None and bool(self.tokenizers), f"{type(self.pipe).__name__} takes no prompts."
        )
        self._count(prompts)
        kept = torch.tensor([bool(p) for p in prompts])
        if not kept.any():
            return expand(self.empty, len(prompts))
        with torch.no_grad(), quiet():
            encoded = self.encode_plain(list(prompts))
        return encoded if kept.all() else drop_condition(encoded, ~kept, self.empty)

    @property
    def text_device(self) -> torch.device:
        """Where the text encoders are, which need not be where the network is."""
        device: torch.device = next(
            (
                p.device
                for n, p in self.pipe.components.items()
                if n.startswith("text_encoder") and p is not None
            ),
            self.network.device,
        )
        return device

    @property
    def tokenizers(self) -> dict[str, int]:
        """Tokenizers of the pipeline and the number of tokens each may give."""
        found = {n: p for n, p in self.pipe.components.items() if n.startswith("tokenizer") and p is not None}
        return {name: self.lengths.get(name, part.model_max_length) for name, part in found.items()}

    def _count(self, prompts: Sequence[str]) -> None:
        for name, limit in self.tokenizers.items():
            with quiet():
                lengths = [len(ids) for ids in getattr(self.pipe, name)(list(prompts)).input_ids]
            long = [n for n in lengths if n > limit]
            if long and name not in self._cut:
                self._cut.add(name)
                log.warning(
                    "%d of %d prompts are longer than the %d tokens that %s takes (the longest has %d); "
                    "the rest is cut off.",
                    len(long),
                    len(prompts),
                    limit,
                    name,
                    max(long),
                )

    # -- sampling ----------------------------------------------------------------------------------

    def times(self, n: int) -> list[float]:
        """The times of the pipeline's own scheduler in ``n`` steps, first to last; see
        :meth:`Schedule.times`."""
        return self.schedule.times(n, **self.steps_options(n))

    def start(self, n: int) -> float:
        """Standard deviation of the noise at the start of the pipeline's ``n`` steps; see
        :meth:`Schedule.start`."""
        return self.schedule.start(n, **self.steps_options(n))

    @property
    def steps(self) -> int:
        """The pipeline's own default number of steps."""
        return int(inspect.signature(type(self.pipe).__call__).parameters["num_inference_steps"].default)

"""The interface to Diffusers pipelines: one short class per family, with everything read from the pipeline's
own configuration."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, apply, drop_condition, expand
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.prediction import Kind
from stillhouse.core.process import Process, ScaledLinearVP
from stillhouse.io.pipelines.schedules import Schedule, read_schedule

log = logging.getLogger("stillhouse")


@dataclass
class Codec:
    """A pipeline's autoencoder, between images (B, 3, H, W) in [-1, 1] and scaled latents."""

    family: Family

    def encode(self, images: Tensor) -> Tensor:
        return self.family.latents(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.family.images(latents)


class Family:
    """A kind of pipeline. Subclasses define how its network is called and how its prompts are encoded; the
    rest is read here.

    ``pipelines``: the Diffusers classes it reads. ``part``: the name of the network in the pipeline.
    ``patch``: what a latent's sides must be divisible by. ``guidance``: the pipeline's own default scale, 1
    for none. ``frames``: of a clip, 0 for pictures. ``lengths``: tokens that a tokenizer (by its name in the
    pipeline) is given, where that is not the tokenizer's own limit.

    A family is shared by all copies of a denoiser: ``copy`` and ``deepcopy`` give it back as it is.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    part: ClassVar[str] = "unet"
    patch: int = 1
    guidance: float = 1.0
    frames: int = 0
    lengths: ClassVar[dict[str, int]] = {}

    def __init__(
        self, pipe: Any, height: int | None = None, width: int | None = None, folder: str | Path | None = None
    ):
        self.pipe, self.folder = pipe, None if folder is None else Path(folder)
        self._cut: set[str] = set()
        self.shape = self._shape(height, width)

    def at(self, height: int, width: int) -> Family:
        """The same pipeline for pictures of another size, in pixels: some families condition the network on
        it, beside the prompt."""
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
        """The network's output (B, …) at ``x`` (B, …) and our time ``t`` (B,) under ``cond``."""
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

        A time on the table is given as its whole number, and a flow's as its whole part where the pipeline's
        scheduler has whole numbers alone; the derivative is that of the unrounded step.
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
        Logs once if any is cut."""
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
        """The device of the text encoders, which need not be the network's."""
        return next(
            (
                p.device
                for n, p in self.pipe.components.items()
                if n.startswith("text_encoder") and p is not None
            ),
            self.network.device,
        )

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

    # -- images ------------------------------------------------------------------------------------

    @property
    def vae(self) -> Any:
        """The autoencoder; None for a model of pixels."""
        return self.pipe.components.get("vae")

    @property
    def pixels(self) -> int:
        """Pixels to a latent's side."""
        return int(self.pipe.vae_scale_factor) if self.vae is not None else 1

    def _scale(self, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and factor with ``latents = (vae output - shift) factor``."""
        config = self.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        shift = torch.tensor(mean if mean is not None else [config.get("shift_factor") or 0.0])
        factor = config.get("scaling_factor", 1.0) / torch.tensor(std if std is not None else [1.0])
        return shift.to(reference).reshape(1, -1, 1, 1), factor.to(reference).reshape(1, -1, 1, 1)

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Latents (B, *shape) of images (B, 3, H, W) in [-1, 1]: the mode of the posterior, scaled. Pixels
        stay as they are."""
        if self.vae is None:
            return images
        even = not any(side % self.pixels for side in images.shape[-2:])
        require(
            even,
            f"Pictures must have sides in multiples of {self.pixels} pixels, not {tuple(images.shape[-2:])}.",
        )
        encoded = self.vae.encode(images.to(self.vae.device, self.vae.dtype))
        raw = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        shift, factor = self._scale(raw)
        return ((raw - shift) * factor).to(images)

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W), about [-1, 1], of latents (B, *shape)."""
        if self.vae is None:
            return latents
        raw = latents.to(self.vae.device, self.vae.dtype)
        shift, factor = self._scale(raw)
        return self.vae.decode(raw / factor + shift).sample.to(latents)

    @property
    def codec(self) -> Codec | None:
        """:meth:`latents` and :meth:`images` as a codec; None for a model of pixels."""
        return None if self.vae is None else Codec(self)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.shape[-2] * self.pixels, self.shape[-1] * self.pixels

    @property
    def side(self) -> tuple[int, int]:
        """The latent's default height and width."""
        side = self.network.config.sample_size
        return (side, side) if isinstance(side, int) else tuple(side)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.network.config.in_channels

    def _shape(self, height: int | None, width: int | None) -> tuple[int, ...]:
        sides = []
        for name, given, default in (("height", height, self.side[0]), ("width", width, self.side[1])):
            unit = self.pixels * self.patch
            require(
                given is None or (given > 0 and given % unit == 0),
                f"The {name} must be a multiple of {unit} pixels for {type(self.pipe).__name__}, not "
                f"{given}.",
            )
            sides.append(default if given is None else given // self.pixels)
        return (self.channels, *sides)

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


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings of Diffusers and Transformers inside the block: what matters is logged
    here, once."""
    from diffusers.utils import logging as theirs
    from transformers.utils import logging as others

    before = [(kit, kit.get_verbosity()) for kit in (theirs, others)]
    for kit, _ in before:
        kit.set_verbosity_error()
        kit.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # renamed arguments; old and new versions both work
            yield
    finally:
        for kit, level in before:
            kit.set_verbosity(level)
            kit.enable_progress_bar()

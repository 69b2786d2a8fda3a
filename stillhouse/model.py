"""A model as a user holds it: a denoiser, how it is sampled, and where it came from. Teachers and students
are both this."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from stillhouse import forms
from stillhouse.adapters import Adapted
from stillhouse.core.conditions import Condition, TextEncoder, balanced_labels, cycled, move, size
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.language import Pretrained, save_language
from stillhouse.io.weights import save_denoiser, save_module
from stillhouse.models.letters import Tokenizer
from stillhouse.models.words import Words
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling

if TYPE_CHECKING:
    from stillhouse.io.photo import Photo
    from stillhouse.io.pipelines import Family

log = logging.getLogger("stillhouse")
M = TypeVar("M", bound=nn.Module)

WEIGHTS = "model.safetensors"


def pipeline_sampling(family: Family, steps: int) -> Sampling:
    """A walk of a pipeline in ``steps`` steps, as its own scheduler does it."""
    return Sampling(family.times(steps), family.schedule.solver, family.guidance, family.start(steps))


def _plain(module: M) -> M | Denoiser:
    """A module with its adapter folded in, if it is one."""
    return module.merged() if isinstance(module, Adapted) else module


class Codec(Protocol):
    """Between images (B, 3, H, W) in [-1, 1] and a model's latents."""

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass
class Network:
    """A product that is no denoiser: a network of ours, and what goes in and comes out of it.

    Arguments:
        module: a network with a ``config``, see :func:`stillhouse.models.build_model`.
        inputs, outputs: name of each tensor and its shape without the batch, as plain data.
        info: method, options, measured numbers; saved in the file's header.
    """

    module: nn.Module
    inputs: dict[str, list[int]] = field(default_factory=dict)
    outputs: dict[str, list[int]] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *given: Tensor) -> Tensor:
        """The network's answer, without gradient."""
        with torch.inference_mode():
            return self.module.eval()(*given)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``folder/model.safetensors``, whole or not at all; :func:`stillhouse.load` opens it."""
        about = {"inputs": self.inputs, "outputs": self.outputs, **self.info}
        save_module(Path(folder) / WEIGHTS, self.module, about)
        return Path(folder) / WEIGHTS


@dataclass
class Model:
    """A denoiser with the shape of its samples, its classes and its ways of sampling.

    ``samplings``: by number of steps, the first one the default. ``free_steps``: it is a many-step model, any
    number of steps is allowed and makes a uniform grid with the default's solver; a student has only the
    numbers it was trained for. ``text``: makes conditions of prompts; ``prompts``: some to show it with.
    ``codec``: between images and the latents that ``shape`` speaks of; None where samples are what they are.
    ``pipeline``: the :class:`stillhouse.io.pipelines.Family` it was read by. ``companions``: further modules
    that belong to it, by name: an inverse map, experts, a teacher. ``cond_kind``: what else its network
    takes: the ``image`` to restore, an ``observation``, a ``camera``, ``audio``. ``tokenizer``: between texts
    and the tokens of a model of these. ``info``: method, teacher, options, measured numbers; saved in the
    file's header.
    """

    denoiser: Denoiser
    shape: tuple[int, ...]
    classes: int = 0
    samplings: dict[int, Sampling] = field(default_factory=dict)
    free_steps: bool = False
    world: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    text: TextEncoder | None = None
    prompts: tuple[str, ...] = ()
    codec: Codec | None = None
    pipeline: Family | None = None
    companions: dict[str, nn.Module] = field(default_factory=dict)
    cond_kind: str = ""
    tokenizer: Tokenizer | None = None

    def __post_init__(self) -> None:
        if self.pipeline is not None:
            self.samplings = {n: self._as_piped(n, sampling) for n, sampling in self.samplings.items()}

    def _as_piped(self, n: int, sampling: Sampling) -> Sampling:
        """A sampling such that the pipeline's own call walks the same: its times where any number of steps
        will do, its first noise."""
        from stillhouse.io.export import default_guidance, first_level

        assert self.pipeline is not None
        if self.free_steps:
            return pipeline_sampling(self.pipeline, n).changed(guidance=sampling.guidance)
        start = first_level(self.pipeline, sampling.times[0]) if sampling.start is None else sampling.start
        guidance = default_guidance(self.pipeline) if sampling.guidance == 1 else sampling.guidance
        return sampling.changed(start=start, guidance=guidance)

    @property
    def networks(self) -> dict[str, Denoiser]:
        """The companions that can walk, in evaluation mode."""
        return {name: m.eval() for name, m in self.companions.items() if isinstance(m, Denoiser)}

    @property
    def conditional(self) -> bool:
        """Whether it takes conditions."""
        return self.classes > 0 or self.text is not None or bool(self.cond_kind)

    @property
    def form(self) -> str:
        """What a sample is: ``text`` (L,), ``video`` (F, C, H, W), ``image`` (C, H, W), ``actions`` (H, A),
        ``scene`` (a view under a camera), ``audio`` (T,) or ``points`` (D,); see :mod:`stillhouse.forms`."""
        return forms.of(self).name

    def sampling(self, steps: int | None = None, guidance: float | None = None) -> Sampling:
        """How ``steps`` steps are walked (the default number if not given), at a guidance scale of one's
        own."""
        require(steps is None or steps >= 1, f"A sample takes at least one step, not {steps}.")
        default = next(iter(self.samplings.values()))
        if steps is None:
            chosen = default
        elif self.free_steps and self.pipeline is not None:
            chosen = pipeline_sampling(self.pipeline, steps).changed(guidance=default.guidance)
        elif self.free_steps:
            chosen = Sampling.steps(
                self.denoiser.process, steps, solver=default.solver, guidance=default.guidance
            )
        elif steps in self.samplings:
            chosen = self.samplings[steps]
        else:
            known = ", ".join(map(str, self.samplings))
            raise StillhouseError(
                f"This student samples in {known} step(s), not {steps}; distil one for {steps} steps."
            )
        if (
            self.pipeline is not None
            and not self.free_steps
            and chosen.guidance == 1
            and guidance is not None
            and guidance > 1
        ):
            log.warning(
                "This student needs no guidance; a scale of %g costs a second evaluation a step and "
                "oversaturates.",
                guidance,
            )
        return chosen if guidance is None else chosen.changed(guidance=guidance)

    def sample(
        self,
        n: int = 16,
        cond: Condition = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        latents: bool = False,
        start: Tensor | None = None,
        frames: int = 0,
    ) -> Tensor:
        """``n`` samples (n, *shape), as pictures (n, 3, H, W) where there is a ``codec``, unless ``latents``
        are asked for.

        ``cond``: labels (n,) or one number for all; a prompt or a list of them, repeated as often as needed;
        any condition of ``n`` rows; None: spread evenly over the classes or the model's own ``prompts``.
        ``start``: states (n, *shape) to walk from instead of noise. A prompt to a model of tokens is text to
        be kept, each ``_`` in it a token to be filled in, like all that follows it. ``frames``: length of
        clips, which a causal video student chooses freely; 0: as it learned.
        """
        require(n >= 1, f"The number of samples must be 1 or more, not {n}.")
        shape = self.of_length(frames, self.sampling(steps, guidance))
        if self.form == "text" and isinstance(cond, str | list | tuple):
            start, cond = self.gaps(n, [cond] if isinstance(cond, str) else list(cond)), None
        device = self.denoiser.device
        draws = Draws(n, seed, "sample", device=device)
        cond, start = move(self.condition_of(n, cond), device), move(start, device)
        sampling = self.sampling(steps, guidance)
        samples = draw_samples(
            self.denoiser.eval(), sampling, shape, cond, draws, start=start, networks=self.networks
        )
        return samples if latents else self.pictures(samples, cond)

    def pictures(self, samples: Tensor, cond: Condition = None) -> Tensor:
        """What samples (n, *shape) drawn under ``cond`` look like: decoded one by one where there is a
        ``codec``, else themselves."""
        return forms.of(self).pictures(self, samples, cond)

    def of_length(self, frames: int, sampling: Sampling) -> tuple[int, ...]:
        """The shape of a sample of ``frames`` frames, 0 for the usual one."""
        return forms.of(self).of_length(self, frames, sampling)

    def gaps(self, n: int, prompts: Sequence[str]) -> Tensor:
        """The states (n, L) that texts with gaps are filled in from, each of ``prompts`` as often as
        needed."""
        return forms.of(self).gaps(self, n, prompts)

    def fill(self, prompts: str | Sequence[str], n: int = 0, **how: Any) -> list[str]:
        """Texts that keep ``prompts`` but for their gaps, as ``model.fill("the ____ of a text", n=4)``; see
        :meth:`stillhouse.forms.text.Text.fill`."""
        form = forms.of(self)
        if not isinstance(form, forms.Text):
            raise StillhouseError(
                f"Only a text is filled in; this model makes samples of the form {form.name}."
            )
        return form.fill(self, prompts, n, **how)

    def stream(self, cond: Condition = None, **how: Any) -> Iterator[Tensor]:
        """The clips of a causal student as chunks that come as they are made, as
        ``model.stream("a red circle", frames=96)``; see :meth:`stillhouse.forms.video.Video.stream`."""
        form = forms.of(self)
        if not isinstance(form, forms.Video):
            raise StillhouseError(
                f"Only clips are streamed; this model makes samples of the form {form.name}."
            )
        return form.stream(self, cond, **how)

    def restore(self, image: Tensor | Photo | str | Path, scale: int | None = None, **how: Any) -> Any:
        """A whole picture, enlarged and restored tile by tile, as ``model.restore("photo.jpg")``; a tensor
        for a tensor, else a photograph; see :meth:`stillhouse.forms.photograph.Photograph.restore`."""
        form = forms.of(self)
        if not isinstance(form, forms.Photograph):
            raise StillhouseError(forms.Photograph.refusal)
        return form.restore(self, image, scale, **how)

    def condition_of(self, n: int, cond: Condition) -> Condition:
        """What :meth:`sample` was asked for, as a condition of ``n`` rows."""
        if cond is None:
            cond = balanced_labels(n, self.classes) if self.classes else list(self.prompts) or None
        elif isinstance(cond, int):
            cond = torch.full((n,), cond)
        if isinstance(cond, str | list | tuple):
            require(self.text is not None, "This model takes no prompts.")
            require(len(cond) > 0, "The list of prompts is empty.")
            assert self.text is not None
            return cycled(self.text.encode([cond] if isinstance(cond, str) else list(cond)), n)
        if torch.is_tensor(cond) and not cond.is_floating_point():
            require(self.classes > 0, "This model takes no class labels.")
            require(cond.shape == (n,), f"{n} samples need {n} labels, not {tuple(cond.shape)}.")
            low, high = int(cond.min()), int(cond.max())
            require(
                low >= -1 and high < self.classes,
                f"Class labels lie in 0 … {self.classes - 1}, not {low if low < -1 else high}.",
            )
        missing = (
            f"This model is conditioned on an {self.cond_kind}"
            if self.cond_kind[:1] in "aeiou"
            else f"This model is conditioned on a {self.cond_kind}"
        )
        require(cond is not None or not self.cond_kind, f"{missing} for each sample; give them as cond.")
        require(cond is None or size(cond) == n, f"{n} samples need {n} conditions, not {size(cond)}.")
        return cond

    def save_pretrained(self, folder: str | Path, *, form: str | None = None) -> Path:
        """Write ``folder/model.safetensors``, whole or not at all; its header holds everything :func:`load`
        needs.

        The student of a Diffusers pipeline is written as one instead, ``form``: ``full``, ``lora`` or
        ``both``; see :func:`stillhouse.io.export.save_pipeline`. A masked language model of Transformers is
        written as such a folder.
        """
        folder = Path(folder)
        if self.pipeline is not None:
            from stillhouse.io.export import save_pipeline

            more = {"world": self.world, "prompts": list(self.prompts)}
            # a model that was only trained on is guided as before; a student whose guidance is folded in must
            # not be guided again
            folded = self.info.get("method") != "denoising"
            kept = {
                "free_steps": self.free_steps,
                "companions": self.companions,
                "more": more,
                "fixed_guidance": folded,
            }
            return save_pipeline(
                folder,
                self.pipeline,
                self.denoiser,
                self.samplings,
                self.info,
                form=form,
                **kept,  # type: ignore[arg-type]
            )
        require(
            form in (None, "full"),
            "Only the student of a Diffusers pipeline is saved in other forms than full.",
        )
        if isinstance(self.tokenizer, Pretrained):
            walks = {str(k): s.config() for k, s in self.samplings.items()}
            kept = {
                "length": self.shape[0],
                "samplings": walks,
                "free_steps": self.free_steps,
                "world": self.world,
                "info": self.info,
            }
            return save_language(folder, _plain(self.denoiser), self.tokenizer, kept)
        folder.mkdir(parents=True, exist_ok=True)
        header = {
            "shape": list(self.shape),
            "classes": self.classes,
            "samplings": {str(k): s.config() for k, s in self.samplings.items()},
            "free_steps": self.free_steps,
            "world": self.world,
            **(
                {"text": self.text.describe(), "prompts": list(self.prompts)}
                if isinstance(self.text, Words)
                else {}
            ),
            **({"companions": sorted(self.companions)} if self.companions else {}),
            **({"cond_kind": self.cond_kind} if self.cond_kind else {}),
            **({"tokenizer": self.tokenizer.describe()} if self.tokenizer else {}),
            **self.info,
        }
        for name, module in self.companions.items():
            save_module(folder / f"{name}.safetensors", _plain(module))
        save_denoiser(folder / WEIGHTS, _plain(self.denoiser), header)
        return folder / WEIGHTS

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.denoiser.parameters())

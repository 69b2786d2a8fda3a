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
from stillhouse.core.conditions import (
    Condition,
    ConditionLike,
    TextEncoder,
    balanced_labels,
    cycled,
    move,
    require_condition,
    size,
)
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError, require, required
from stillhouse.core.scale import given_scale
from stillhouse.core.structure import checked
from stillhouse.io.language import Pretrained, save_language
from stillhouse.io.weights import describe_denoiser, save_denoiser, save_module
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
# the types of what sample is given
GIVEN = {
    "n": int,
    "cond": (Tensor, dict, int, str, list, tuple, None),
    "steps": (int, None),
    "guidance": (float, None),
    "seed": int,
    "latents": bool,
    "start": (Tensor, None),
    "frames": int,
}
MOST_STEPS = 100_000  # of a sample: what a grid of times is made for at once


def pipeline_sampling(family: Family, steps: int) -> Sampling:
    """A walk of a Diffusers pipeline, as its own scheduler does it.

    Arguments:
        family: the pipeline.
        steps: number of steps, 1 or more.

    Returns:
        One leg with the scheduler's times, solver, clipping and first noise, under the pipeline's default
        guidance.
    """
    way = family.schedule
    return Sampling(family.times(steps), way.solver, family.guidance, family.start(steps), hooks=way.hooks)


def _plain(module: M) -> M | Denoiser:
    """A module with its adapter folded in, if it is one."""
    return module.merged() if isinstance(module, Adapted) else module


class Codec(Protocol):
    """Between images (B, 3, H, W) in [-1, 1] and a model's latents (B, *shape)."""

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass
class Network:
    """A product that is no denoiser: a network of ours, and its inputs and outputs.

    Arguments:
        module: a network with a ``config``, see :func:`stillhouse.models.build_model`.
        inputs: name of each input and its shape without the batch, as plain data.
        outputs: likewise of each output.
        info: method, options, measured numbers; saved in the file's header.
    """

    module: nn.Module
    inputs: dict[str, list[int]] = field(default_factory=dict)
    outputs: dict[str, list[int]] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *given: Tensor) -> Tensor:
        """The network's output, without gradient."""
        with torch.inference_mode():
            answer: Tensor = self.module.eval()(*given)
            return answer

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
    ``codec``: between images and latents of ``shape``; None where samples are data themselves. ``pipeline``:
    the :class:`stillhouse.io.pipelines.Family` it was read by. ``companions``: further modules that belong to
    it, by name: an inverse map, experts, a teacher. ``cond_kind``: what else its network takes: the ``image``
    to restore, an ``observation``, a ``camera``, ``audio``. ``tokenizer``: between texts and the tokens of a
    model of these. ``info``: method, teacher, options, measured numbers; saved in the file's header.
    ``examples``: conditions to show it with, one or more rows, where these are neither labels nor prompts.
    ``code``: of a network of the user's own, the ``FILE.py:NAME`` that made it; empty where none was named.
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
    examples: Condition = None
    code: str = ""
    warned: bool = field(default=False, init=False, repr=False, compare=False)

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
        spoken = self.text is not None or bool(self.cond_kind)
        return self.classes > 0 or spoken or self.examples is not None

    @property
    def form(self) -> str:
        """What a sample is: ``text`` (L,), ``video`` (F, C, H, W), ``image`` (C, H, W), ``actions`` (H, A),
        ``scene`` (a view under a camera), ``audio`` (T,) or ``points`` (D,); see :mod:`stillhouse.forms`."""
        return forms.of(self).name

    def sampling(self, steps: int | None = None, guidance: float | None = None) -> Sampling:
        """How the model is sampled in a number of steps.

        Arguments:
            steps: number of steps; None for the default.
            guidance: scale ``w`` on all legs, 1 for none; None for the sampling's own.

        Returns:
            The sampling.

        Raises:
            StillhouseError: for fewer than one step, more than :data:`MOST_STEPS`, or a number that a student
                was not trained for.
        """
        require(
            steps is None or 1 <= steps <= MOST_STEPS,
            f"A sample takes at least one step and at most {MOST_STEPS}, not {steps}.",
        )
        guidance = None if guidance is None else given_scale(guidance, "Sampling")
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
            and not self.warned
        ):
            self.warned = True
            log.warning(
                "This student needs no guidance; a scale of %g costs a second evaluation a step and "
                "oversaturates.",
                guidance,
            )
        return chosen if guidance is None else chosen.changed(guidance=guidance)

    def sample(
        self,
        n: int = 16,
        cond: ConditionLike = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        latents: bool = False,
        start: Tensor | None = None,
        frames: int = 0,
    ) -> Tensor:
        """Draw samples.

        Arguments:
            n: number of samples, 1 or more.
            cond: labels (n,), or one number for all; a prompt or a list of them, repeated as often as needed;
                any condition of ``n`` rows; None for labels spread evenly over the classes, or the model's
                own ``prompts``. A prompt to a model of tokens is text to be kept, each ``_`` in it a token to
                be filled in, like all that follows it.
            steps: number of steps; None for the default.
            guidance: scale ``w``, 1 for none; None for the sampling's own.
            seed: of all random draws; the same one gives the same samples.
            latents: return states as they were walked, without decoding.
            start: states (n, *shape) to walk from; None for noise.
            frames: length of clips, which a causal video student chooses freely; 0 for the length of its
                training.

        Returns:
            Samples, (n, *shape); pictures (n, 3, H, W) in [-1, 1] where there is a ``codec``, unless
            ``latents``.

        Raises:
            StillhouseError: for a condition, a number of steps or a length that the model does not take.
        """
        checked(locals(), GIVEN, "No samples can be drawn")
        require(n >= 1, f"The number of samples must be 1 or more, not {n}.")
        shape = self.of_length(frames, self.sampling(steps, guidance))
        cond, start = forms.of(self).prompted(self, n, cond, start)
        device = self.denoiser.device
        draws = Draws(n, seed, "sample", device=device)
        cond, start = move(self.condition_of(n, cond), device), move(start, device)
        sampling = self.sampling(steps, guidance)
        samples = draw_samples(
            self.denoiser.eval(), sampling, shape, cond, draws, start=start, networks=self.networks
        )
        return samples if latents else self.pictures(samples, cond)

    def pictures(self, samples: Tensor, cond: Condition = None) -> Tensor:
        """States as data: decoded one by one where there is a ``codec``.

        Arguments:
            samples: states at the end of a walk, (n, *shape).
            cond: the condition of the n rows that they were drawn under; None for none.

        Returns:
            Data, (n, *shape), or (n, 3, H, W) of a ``codec``.
        """
        return forms.of(self).pictures(self, samples, cond)

    def of_length(self, frames: int, sampling: Sampling) -> tuple[int, ...]:
        """The shape of a sample of some length.

        Arguments:
            frames: number of frames; 0 for the model's own.
            sampling: how it is sampled; only a stream makes clips of any length.

        Returns:
            The shape of one sample.

        Raises:
            StillhouseError: for a length that the model can't make.
        """
        return forms.of(self).of_length(self, frames, sampling)

    def gaps(self, n: int, prompts: Sequence[str]) -> Tensor:
        """The states that texts with gaps are filled in from.

        Arguments:
            n: number of rows.
            prompts: texts with gaps, repeated as often as needed.

        Returns:
            Tokens with masks at the gaps, (n, L) int64.

        Raises:
            StillhouseError: for a model of anything but masked tokens.
        """
        return forms.of(self).gaps(self, n, prompts)

    def fill(self, prompts: str | Sequence[str], n: int = 0, **how: Any) -> list[str]:
        """Texts that keep ``prompts`` but for their gaps, as ``model.fill("the ____ of a text", n=4)``.

        Arguments:
            prompts: one or several; each ``_`` is a token to be filled in, like all that follows.
            n: number of texts, prompts in turn; 0 for one a prompt.
            how: ``steps``, ``guidance`` and ``seed``, as of :meth:`sample`.

        Returns:
            ``n`` strings.

        Raises:
            StillhouseError: for a model of anything but masked tokens.
        """
        form = forms.of(self)
        if not isinstance(form, forms.Text):
            raise StillhouseError(
                f"Only a text is filled in; this model makes samples of the form {form.name}."
            )
        return form.fill(self, prompts, n, **how)

    def stream(self, cond: ConditionLike = None, **how: Any) -> Iterator[Tensor]:
        """The clips of a causal student as chunks that come as they are made.

        Such as ``model.stream("a red circle", frames=96)``.

        Arguments:
            cond: as of :meth:`sample`, for the whole stream.
            how: the further arguments of :meth:`stillhouse.forms.video.Video.stream`, such as ``frames``.

        Returns:
            An iterator of chunks, (n, up to the student's chunk, C, H, W).

        Raises:
            StillhouseError: for a model of anything but clips, or one that makes them all at once.
        """
        form = forms.of(self)
        if not isinstance(form, forms.Video):
            raise StillhouseError(
                f"Only clips are streamed; this model makes samples of the form {form.name}."
            )
        return form.stream(self, cond, **how)

    def restore(self, image: Tensor | Photo | str | Path, scale: int | None = None, **how: Any) -> Any:
        """A whole picture, enlarged and restored tile by tile, as ``model.restore("photo.jpg")``.

        Arguments:
            image: a file's name, a photograph, or a tensor (C, H, W) or (B, C, H, W) in [-1, 1].
            scale: how many times larger it becomes, 1 … 8; None for that of the model's training.
            how: the further arguments of :meth:`stillhouse.forms.photograph.Photograph.restore`, such as
                ``tile``.

        Returns:
            A tensor for a tensor, else a :class:`stillhouse.io.photo.Photo`, ``scale`` times as large.

        Raises:
            StillhouseError: for a model that restores no photographs, and a picture that can't be read.
        """
        form = forms.of(self)
        if not isinstance(form, forms.Photograph):
            raise StillhouseError(forms.Photograph.refusal)
        return form.restore(self, image, scale, **how)

    def condition_of(self, n: int, cond: ConditionLike) -> Condition:
        """The ``cond`` of :meth:`sample` as a condition of ``n`` rows.

        Arguments:
            n: number of rows.
            cond: labels, prompts or a condition, as of :meth:`sample`; None for the model's own: labels in
                turn, ``prompts`` or ``examples``.

        Returns:
            The condition of ``n`` rows; None for a model that takes none.

        Raises:
            StillhouseError: for a condition that the model does not take, or of another number of rows.
        """
        given = cond is not None
        if cond is None:
            cond = balanced_labels(n, self.classes) if self.classes else list(self.prompts) or None
            cond = cycled(self.examples, n) if cond is None else cond
        elif isinstance(cond, int):
            require(abs(cond) < 2**63, f"There is no class {cond}.")
            cond = torch.full((n,), cond)
        if isinstance(cond, str | list | tuple):
            text = required(self.text, "This model takes no prompts.")
            checked(cond, (str, [str]), "The prompts can't be read")
            require(len(cond) > 0, "The list of prompts is empty.")
            require(
                isinstance(cond, str) or not given or len(cond) <= n,
                f"{len(cond)} prompts need as many samples, not {n}.",
            )
            return cycled(text.encode([cond] if isinstance(cond, str) else list(cond)), n)
        if torch.is_tensor(cond) and not cond.is_floating_point():
            require(self.classes > 0, "This model takes no class labels.")
            require(cond.shape == (n,), f"{n} samples need {n} labels, not {tuple(cond.shape)}.")
            low, high = int(cond.min()), int(cond.max())
            require(
                low >= -1 and high < self.classes,
                f"Class labels lie in 0 … {self.classes - 1}, not {low if low < -1 else high}.",
            )
        article = "an" if self.cond_kind[:1] in "aeiou" else "a"
        require(
            cond is not None or not self.cond_kind,
            f"This model is conditioned on {article} {self.cond_kind} for each sample; give them as cond.",
        )
        require_condition(cond, "A condition")
        require(cond is None or size(cond) == n, f"{n} samples need {n} conditions, not {size(cond)}.")
        return cond

    def save_pretrained(self, folder: str | Path, *, form: str | None = None) -> Path:
        """Write the model to a folder that :func:`stillhouse.load` opens, whole or not at all.

        The header of ``folder/model.safetensors`` holds all but the weights. The student of a Diffusers
        pipeline is written as a pipeline, a LoRA or both; see :func:`stillhouse.io.export.save_pipeline`. A
        masked language model of Transformers is written as such a folder.

        Arguments:
            folder: where to write; made if it is not there.
            form: of the student of a pipeline: ``full``, ``lora``, ``both`` or ``scheduler``; None for
                ``both`` of an adapter and ``full`` otherwise.

        Returns:
            The file ``folder/model.safetensors``; the folder for a pipeline or a language model.

        Raises:
            StillhouseError: for a form that the model can't be saved in.
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
        header = self._header()
        folder.mkdir(parents=True, exist_ok=True)
        for name, module in self.companions.items():
            save_module(folder / f"{name}.safetensors", _plain(module))
        save_denoiser(folder / WEIGHTS, _plain(self.denoiser), header, examples=self.examples)
        return folder / WEIGHTS

    def _header(self) -> dict[str, Any]:
        """All but the weights, for the header of the model's file."""
        return {
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
            **({"code": self.code} if self.code else {}),
            **self.info,
        }

    def require_savable(self) -> None:
        """Refuse, with :class:`StillhouseError`, a model that :meth:`save_pretrained` could not write, at no
        cost: before a run, not after it. One that is written by Diffusers or Transformers is left to them."""
        if self.pipeline is not None or isinstance(self.tokenizer, Pretrained):
            return
        describe_denoiser(self.denoiser, self._header())
        for module in self.companions.values():
            if isinstance(module, Denoiser):
                describe_denoiser(module)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.denoiser.parameters())

"""A model as a user holds it: a denoiser, how it is sampled, and where it came from. Teachers and students are both this."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from stillhouse.adapters import Adapted
from stillhouse.conditions import Condition, TextEncoder, cycled, even_labels, move, size
from stillhouse.denoiser import Denoiser, Kind
from stillhouse.draws import Draws
from stillhouse.errors import StillhouseError, require
from stillhouse.io.weights import load_denoiser, save_denoiser
from stillhouse.process import Process, process_from_config
from stillhouse.samplers.sampling import Sampling, draw_samples

if TYPE_CHECKING:
    from stillhouse.io.pipelines import Family

WEIGHTS = "model.safetensors"


def _text(described: dict[str, Any] | None) -> TextEncoder | None:
    """The text encoder that a header describes."""
    if described is None:
        return None
    from stillhouse.models.words import Words

    return Words.from_description(described)


class Codec(Protocol):
    """Between images (B, 3, H, W) in [-1, 1] and a model's latents."""

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass
class Model:
    """A denoiser with the shape of its samples, its classes and its ways of sampling.

    ``samplings``: by number of steps, the first one the default. ``free_steps``: it is a many-step model, any number of steps is
    allowed and makes a uniform grid with the default's solver; a student has only the numbers it was trained for.
    ``text``: makes conditions of prompts; ``prompts``: some to show it with. ``codec``: between images and the latents that
    ``shape`` speaks of; None where samples are what they are. ``pipeline``: the :class:`stillhouse.io.pipelines.Family` it was read by.
    ``info``: method, teacher, options, measured numbers; saved in the file's header.
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

    @property
    def conditional(self) -> bool:
        """Whether it takes conditions."""
        return self.classes > 0 or self.text is not None

    def sampling(self, steps: int | None = None, guidance: float | None = None) -> Sampling:
        """How ``steps`` steps are walked (the default number if not given), at a guidance scale of one's own."""
        require(steps is None or steps >= 1, f"A sample takes at least one step, not {steps}.")
        default = next(iter(self.samplings.values()))
        if steps is None:
            chosen = default
        elif self.free_steps and self.pipeline is not None:
            chosen = _walk(self.pipeline, steps)
        elif self.free_steps:
            chosen = Sampling.steps(self.denoiser.process, steps, solver=default.solver, guidance=default.guidance)
        elif steps in self.samplings:
            chosen = self.samplings[steps]
        else:
            known = ", ".join(map(str, self.samplings))
            raise StillhouseError(f"This student samples in {known} step(s), not {steps}; distil one for {steps} steps.")
        return chosen if guidance is None else replace(chosen, guidance=guidance)

    def sample(
        self, n: int = 16, cond: Condition = None, *, steps: int | None = None, guidance: float | None = None, seed: int = 0
    ) -> Tensor:
        """``n`` samples (n, *shape).

        ``cond``: labels (n,) or one number for all; a prompt or a list of them, repeated as often as needed; any condition of ``n`` rows;
        None: spread evenly over the classes or the model's own ``prompts``.
        """
        require(n >= 1, f"The number of samples must be 1 or more, not {n}.")
        device = next(self.denoiser.parameters(), torch.zeros(0)).device
        draws = Draws(n, seed, "sample", device=device)
        cond = move(self._condition(n, cond), device)
        return draw_samples(self.denoiser.eval(), self.sampling(steps, guidance), self.shape, cond, draws)

    def _condition(self, n: int, cond: Condition) -> Condition:
        """What :meth:`sample` was asked for, as a condition of ``n`` rows."""
        if cond is None:
            cond = even_labels(n, self.classes) if self.classes else list(self.prompts) or None
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
            require(low >= -1 and high < self.classes, f"Class labels lie in 0 … {self.classes - 1}, not {low if low < -1 else high}.")
        require(cond is None or size(cond) == n, f"{n} samples need {n} conditions, not {size(cond)}.")
        return cond

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``folder/model.safetensors``, whole or not at all; its header holds everything :func:`load` needs."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        header = {
            "shape": list(self.shape),
            "classes": self.classes,
            "samplings": {str(k): s.config() for k, s in self.samplings.items()},
            "free_steps": self.free_steps,
            "world": self.world,
            **({"text": self.text.describe(), "prompts": list(self.prompts)} if self.text else {}),
            **self.info,
        }
        plain = self.denoiser.merged() if isinstance(self.denoiser, Adapted) else self.denoiser
        save_denoiser(folder / WEIGHTS, plain, header)
        return folder / WEIGHTS

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.denoiser.parameters())


def shipped() -> dict[str, Path]:
    """Names of the teachers that come with the library, and their files."""
    folder = Path(str(files("stillhouse") / "assets" / "teachers"))
    return {f.stem: f for f in sorted(folder.glob("*.safetensors"))}


def _walk(family: Family, steps: int) -> Sampling:
    return Sampling(family.times(steps), family.schedule.solver, family.guidance, family.start(steps))


def from_pipeline(family: Family) -> Model:
    """The many-step model of a Diffusers pipeline, walked as its own scheduler does; weights are shared with the pipeline."""
    return Model(
        family.denoiser(),
        family.shape,
        family.classes,
        {family.steps: _walk(family, family.steps)},
        free_steps=True,
        text=family if family.tokenizers else None,
        codec=family.codec,
        pipeline=family,
    )


def load(
    source: str | Path | nn.Module | Denoiser,
    *,
    process: Process | str = "flow",
    kind: Kind | str = "velocity",
    shape: tuple[int, ...] | None = None,
    classes: int = 0,
    steps: int = 64,
    **pipeline: Any,
) -> Model:
    """A model from a folder that ``save_pretrained`` wrote, from its file, from a shipped name (``"mnist"``), or from a module.

    Or from a Diffusers pipeline: a folder, or ``"hub:owner/name"``, with the options of :func:`stillhouse.io.pipelines.open_pipeline`.

    A module needs ``shape`` (of one sample), its ``process`` and the ``kind`` of its output; a :class:`Denoiser` needs
    ``shape`` alone. Raises :class:`StillhouseError` for a missing, torn or foreign file, and for a pickle.
    """
    if isinstance(source, nn.Module):
        require(shape is not None, "Loading a module needs the shape of one sample, e.g. shape=(1, 32, 32).")
        assert shape is not None
        if isinstance(source, Denoiser):
            denoiser = source
        else:
            denoiser = Denoiser(source, process_from_config(process) if isinstance(process, str) else process, kind)
        default = Sampling.steps(denoiser.process, steps, solver="heun")
        return Model(denoiser, tuple(shape), classes, {steps: default}, free_steps=True)
    path = Path(source)
    if pipeline or str(source).startswith("hub:") or ((path / "model_index.json").is_file() and not (path / WEIGHTS).exists()):
        from stillhouse.io.pipelines import open_pipeline

        return from_pipeline(open_pipeline(source, **pipeline))
    if not path.exists() and str(source) in shipped():
        path = shipped()[str(source)]
    require(
        path.exists(), f"There is no model '{source}': neither a file or folder, nor a shipped teacher ({', '.join(shipped()) or 'none'})."
    )
    if path.is_dir():
        require((path / WEIGHTS).exists(), f"The folder '{path}' holds no {WEIGHTS} and no model_index.json; is it a folder that save_pretrained wrote?")
        path = path / WEIGHTS
    denoiser, info = load_denoiser(path)
    try:
        samplings = {int(k): Sampling.from_config(v) for k, v in info.pop("samplings").items()}
        known = (tuple(info.pop("shape")), info.pop("classes"), samplings, info.pop("free_steps"), info.pop("world"))
        text, prompts = info.pop("text", None), tuple(info.pop("prompts", ()))
        return Model(denoiser, *known, info, _text(text), prompts)
    except KeyError as error:
        raise StillhouseError(f"'{path}' lacks {error} in its header; it was not written by save_pretrained.") from error

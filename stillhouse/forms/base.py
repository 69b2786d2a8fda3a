"""What a form is: the common part of requesting samples, drawing them and writing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stillhouse.core.errors import StillhouseError, require

if TYPE_CHECKING:
    from torch import Tensor

    from stillhouse.core.conditions import Condition, ConditionLike
    from stillhouse.core.denoiser import Denoiser
    from stillhouse.forms.views import Display
    from stillhouse.models.letters import Tokenizer
    from stillhouse.samplers.sampling import Sampling

DEFAULT_OUT = "samples"  # of `stillhouse sample --out`


class Sampled(Protocol):
    """What a form needs of a :class:`stillhouse.model.Model`."""

    denoiser: Denoiser
    shape: tuple[int, ...]
    classes: int
    world: str
    info: dict[str, Any]
    pipeline: Any
    codec: Any
    cond_kind: str
    tokenizer: Tokenizer | None

    @property
    def conditional(self) -> bool: ...

    @property
    def networks(self) -> dict[str, Denoiser]: ...

    def sampling(self, steps: int | None = None, guidance: float | None = None) -> Sampling:
        """How the model is sampled in a number of steps.

        Arguments:
            steps: how many; None for the model's default.
            guidance: scale in the place of the sampling's own; None for that.

        Returns:
            The sampling.
        """
        ...

    def condition_of(self, n: int, cond: ConditionLike) -> Condition:
        """The ``cond`` of :meth:`sample` as a condition of ``n`` rows.

        Arguments:
            n: number of rows.
            cond: labels, prompts or a condition; None for the model's own.

        Returns:
            The condition of ``n`` rows; None for a model that takes none.
        """
        ...

    def pictures(self, samples: Tensor, cond: Condition = None) -> Tensor:
        """States as data.

        Arguments:
            samples: states at the end of a walk, (n, *shape).
            cond: the condition of the n rows; None for none.

        Returns:
            Data, decoded where there is a codec.
        """
        ...

    def of_length(self, frames: int, sampling: Sampling) -> tuple[int, ...]:
        """The shape of a sample of some length.

        Arguments:
            frames: number of frames; 0 for the model's own.
            sampling: how it is sampled.

        Returns:
            The shape of one sample.
        """
        ...

    def sample(
        self,
        n: int = 16,
        cond: ConditionLike = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Draw samples.

        Arguments:
            n: number of samples, 1 or more.
            cond: labels, prompts or a condition of ``n`` rows; None for the model's own.
            steps: number of steps; None for the default.
            guidance: scale ``w``, 1 for none; None for the sampling's own.
            seed: of all random draws.

        Returns:
            Samples, (n, *shape), decoded where there is a codec.
        """
        ...


class Setting(Protocol):
    """What a form needs of a :class:`stillhouse.worlds.base.World`."""

    name: str
    shape: tuple[int, ...]
    cond_kind: str

    @property
    def display(self) -> Display: ...

    def condition(self, labels: Tensor | None) -> Condition: ...

    def balanced_labels(self, n: int, split: str = "train") -> Tensor | None:
        """Labels spread evenly over the world's classes or conditions.

        Arguments:
            n: number of labels.
            split: ``train`` or ``test``, whose conditions are numbered.

        Returns:
            Labels, int64 (n,); None for a world without any.
        """
        ...


@dataclass(frozen=True)
class Option:
    """An option that a form adds to ``stillhouse sample``; given to another form's model it is refused."""

    flag: str
    type: Callable[[str], Any]
    help: str
    default: Any = None
    metavar: str | None = None

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")


@dataclass
class Request:
    """The arguments of ``stillhouse sample``.

    ``n``: how many, None for the form's own number; ``labels``: class labels, repeated as often as needed;
    ``prompts``: likewise; ``out``: the file to write; ``columns``: tiles in a row, 0 for about square;
    ``options``: of the forms, by name; ``world``: opens the world that the model is of, None where none is
    named; ``entry``: that world's name or configuration.
    """

    n: int | None = None
    labels: Sequence[int] = ()
    prompts: Sequence[str] = ()
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    columns: int = 0
    out: str = DEFAULT_OUT
    options: dict[str, Any] = field(default_factory=dict)
    world: Callable[[], Setting | None] = lambda: None
    entry: Any = None

    def file(self, usual: str) -> Path:
        """Where to write; ``usual`` if no file was named."""
        return Path(usual if self.out == DEFAULT_OUT else self.out)

    def label_rows(self, n: int) -> Tensor | None:
        """The labels in turn, (n,); None where none were given."""
        import torch

        require(n >= 1, f"The number of samples must be 1 or more, not {n}.")
        return torch.tensor([self.labels[i % len(self.labels)] for i in range(n)]) if self.labels else None


class Form:
    """One kind of sample. ``shown``: samples on a page; ``few``: samples where nobody says how many;
    ``title`` and ``options``: its part of ``stillhouse sample --help``; ``refusal``: of these options, for a
    model of another form. ``policy``: samples are what is done under an observation, learned from
    demonstrations and carried out in a closed loop; ``continuous``: an ODE leads from noise to them, and two
    of them have a distance."""

    name: str = "points"
    shown: int = 1000
    few: int = 64
    title: str = ""
    options: tuple[Option, ...] = ()
    refusal: str = ""
    policy: bool = False
    continuous: bool = True

    def fits(self, model: Sampled) -> bool:
        """Whether ``model`` makes samples of this form."""
        raise NotImplementedError

    def pictures(self, model: Sampled, samples: Tensor, cond: Condition = None) -> Tensor:
        """States as data: decoded one by one where there is a codec.

        Arguments:
            model: of this form.
            samples: states at the end of a walk, (n, *shape).
            cond: the condition of the n rows that they were drawn under; None for none.

        Returns:
            Data, (n, *shape), or what the codec makes of it.
        """
        import torch

        samples = model.denoiser.process.to_data(samples, cond)
        return (
            samples if model.codec is None else torch.cat([model.codec.decode(x) for x in samples.split(1)])
        )

    def of_length(self, model: Sampled, frames: int, sampling: Sampling) -> tuple[int, ...]:
        """The shape of a sample of some length; only clips have more than one.

        Arguments:
            model: of this form.
            frames: number of frames; 0 for the model's own.
            sampling: how it is sampled; only a stream makes clips of any length.

        Returns:
            The shape of one sample.

        Raises:
            StillhouseError: for a length that the model can't make.
        """
        require(frames >= 0, f"A clip has at least one frame, not {frames}.")
        if frames not in (0, model.shape[0]):
            raise StillhouseError(
                f"Only clips have a number of frames; this model makes samples of shape {tuple(model.shape)}."
            )
        return model.shape

    def gaps(self, model: Sampled, n: int, prompts: Sequence[str]) -> Tensor:
        """The states that texts with gaps are filled in from; only texts have any.

        Arguments:
            model: of texts, with a tokenizer and a masked process.
            n: number of rows.
            prompts: texts, each ``_`` a token to be filled in, like all that follows; repeated as often as
                needed.

        Returns:
            Tokens with masks at the gaps, (n, L) int64.

        Raises:
            StillhouseError: for a model of anything but masked tokens.
        """
        raise StillhouseError(f"Only a text is filled in; this model makes samples of the form {self.name}.")

    def prompted(self, model: Sampled, n: int, cond: Any, start: Tensor | None) -> tuple[Any, Tensor | None]:
        """What is asked for, as a condition and as states: a text's prompt is a state.

        Arguments:
            model: of this form.
            n: number of samples.
            cond: labels, prompts or a condition; None for the model's own.
            start: states to walk from, (n, *shape); None for noise.

        Returns:
            The condition of the samples, and the states that they are walked from; None for noise.
        """
        return cond, start

    def check(self, request: Request) -> None:
        """Refuse what can't be asked for together."""
        require(
            not (request.prompts and request.labels),
            "Give labels or prompts, not both.",
        )
        require(
            request.n is None or len(request.prompts) <= request.n,
            f"{len(request.prompts)} prompts need as many samples, not {request.n}; give -n "
            f"{len(request.prompts)}, or leave it away.",
        )

    def labels_shown(self, model: Sampled) -> int:
        """How many samples a page shows of ``model``."""
        return 12 if model.cond_kind else self.shown

    def sample(self, model: Sampled, request: Request) -> str:
        """Draw the samples of a request and write them, whole or not at all.

        Arguments:
            model: of this form.
            request: of the command line.

        Returns:
            The lines to print: where it is, and what it took.
        """
        from stillhouse.io.images import save_samples

        few = len(request.prompts) or 4
        n = (
            request.n
            if request.n is not None
            else few
            if model.pipeline
            else max(self.few, len(request.prompts))
        )
        labels = request.label_rows(n)
        x = model.sample(
            n,
            list(request.prompts) or labels,
            steps=request.steps,
            guidance=request.guidance,
            seed=request.seed,
        )
        path = save_samples(request.out, x, labels, request.columns)
        return f"{path}: {n} samples in {self.cost(model, request)} each"

    def cost(self, model: Sampled, request: Request) -> str:
        """What a sample takes.

        Arguments:
            model: of this form.
            request: of the command line; its steps and guidance count.

        Returns:
            A phrase, as in "2 step(s), 2 network call(s)".
        """
        sampling = model.sampling(request.steps, request.guidance)
        calls = sampling.nfe(model.denoiser, model.conditional, model.networks)
        return f"{sampling.count} step(s), {calls} network call(s)"

    def save_grid(self, path: Path, model: Sampled, samples: Tensor) -> Path:
        """Write samples of a run.

        Arguments:
            path: without an ending, which the form adds.
            model: of this form.
            samples: states at the end of a walk, (n, *shape).

        Returns:
            The file written.
        """
        from stillhouse.io.images import save_samples

        return save_samples(path, self.pictures(model, samples))

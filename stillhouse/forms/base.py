"""What a form is: the common part of asking for samples, drawing them and writing them down."""

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

    def sampling(self, steps: int | None = None, guidance: float | None = None) -> Sampling: ...

    def condition_of(self, n: int, cond: ConditionLike) -> Condition: ...

    def pictures(self, samples: Tensor, cond: Condition = None) -> Tensor: ...

    def of_length(self, frames: int, sampling: Sampling) -> tuple[int, ...]: ...

    def sample(
        self,
        n: int = 16,
        cond: ConditionLike = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
    ) -> Tensor: ...


class Setting(Protocol):
    """What a form needs of a :class:`stillhouse.worlds.base.World`."""

    name: str
    shape: tuple[int, ...]
    cond_kind: str

    @property
    def display(self) -> Display: ...

    def condition(self, labels: Tensor | None) -> Condition: ...

    def balanced_labels(self, n: int, split: str = "train") -> Tensor | None: ...


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
    """What ``stillhouse sample`` was asked for.

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
        """Where to write, ``usual`` if nobody named a file."""
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
        """Samples (n, *shape) drawn under ``cond`` as data: decoded one by one where there is a codec."""
        import torch

        samples = model.denoiser.process.to_data(samples, cond)
        return (
            samples if model.codec is None else torch.cat([model.codec.decode(x) for x in samples.split(1)])
        )

    def of_length(self, model: Sampled, frames: int, sampling: Sampling) -> tuple[int, ...]:
        """The shape of a sample of ``frames`` frames, 0 for the usual one; only clips have more than one
        length."""
        require(frames >= 0, f"A clip has at least one frame, not {frames}.")
        if frames not in (0, model.shape[0]):
            raise StillhouseError(
                f"Only clips have a number of frames; this model makes samples of shape {tuple(model.shape)}."
            )
        return model.shape

    def gaps(self, model: Sampled, n: int, prompts: Sequence[str]) -> Tensor:
        """The states (n, L) that texts with gaps are filled in from; only texts have any."""
        raise StillhouseError(f"Only a text is filled in; this model makes samples of the form {self.name}.")

    def prompted(self, model: Sampled, n: int, cond: Any, start: Tensor | None) -> tuple[Any, Tensor | None]:
        """The condition of ``n`` samples and the states they are walked from (None: noise), as asked for with
        ``cond``; a text's prompt is a state, not a condition."""
        return cond, start

    def check(self, request: Request) -> None:
        """Refuse what can't be asked for together."""
        require(
            not (request.prompts and request.labels),
            "A sample is asked for by labels or by prompts, not by both.",
        )

    def labels_shown(self, model: Sampled) -> int:
        """How many samples a page shows of ``model``."""
        return 12 if model.cond_kind else self.shown

    def sample(self, model: Sampled, request: Request) -> str:
        """Draw what was asked for and write it down, whole or not at all.

        Arguments:
            model: of this form.
            request: of the command line.

        Returns:
            The lines to print: where it is, and what it took.
        """
        from stillhouse.io.images import save_samples

        few = len(request.prompts) or 4
        n = request.n if request.n is not None else few if model.pipeline else self.few
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
        """What a sample takes, as in "2 step(s), 2 network call(s)"."""
        sampling = model.sampling(request.steps, request.guidance)
        calls = sampling.nfe(model.denoiser, model.conditional, model.networks)
        return f"{len(sampling.times) - 1} step(s), {calls} network call(s)"

    def save_grid(self, path: Path, model: Sampled, samples: Tensor) -> Path:
        """Write samples (n, *shape) of a run at ``path``, to which the form adds its ending."""
        from stillhouse.io.images import save_samples

        return save_samples(path, self.pictures(model, samples))

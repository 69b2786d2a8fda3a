"""What a world is: a small, complete testbed with data, an exact teacher, networks of a fitting size, and
metrics.

``get_world(name, **options)`` makes one; a world's own file is imported only then.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, TextEncoder, balanced_labels, require_labels
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.core.process import Process
from stillhouse.forms.views import Display
from stillhouse.metrics.metric import Metric
from stillhouse.models.letters import Tokenizer


class World:
    """A testbed. ``shape``: of one sample; ``classes``: number of labels, 0 for none; ``class_names``: one
    word each.

    Labels are int64 of shape (B,); -1 stands for "no label". In a world of captions a label is the number of
    a caption, ``classes`` is 0, and ``text`` makes conditions of prompts. Where ``cond_kind`` names another
    condition (an ``image`` to restore, an ``observation``, a ``camera``), a label is the number of one of
    those. ``config`` makes the same world again through :func:`get_world`.
    """

    name: str
    shape: tuple[int, ...]
    classes: int = 0
    class_names: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    text: TextEncoder | None = None
    cond_kind: str = ""
    tokenizer: Tokenizer | None = None  # of a world of texts
    # of teachers trained here, and of the closed form, by default
    default_process: str | dict[str, Any] = "flow"
    default_kind: str = "velocity"
    sigma_data: float = 0.5  # standard deviation of one number of the data, for EDM preconditioning
    shown_split: str = "train"  # whose conditions models are measured and shown under
    infinite: bool = False  # fresh samples are drawn for every batch; otherwise `data` is all there is
    network_defaults: dict[str, Any]
    metrics: tuple[Metric, ...] = ()  # all that `measure` may find, each with its direction and unit
    config: dict[str, Any]

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """All samples ``(N, *shape)`` float32 of a split (``train`` or ``test``) and their labels (N,)."""
        raise NotImplementedError

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Samples drawn at random, with replacement where the data is finite.

        Arguments:
            n: samples to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: what they belong to, (n,), with -1 for any; None for any throughout.

        Returns:
            The samples, (n, *shape), and their labels, (n,).
        """
        raise NotImplementedError

    def caption_ids(self, split: str = "train") -> Tensor:
        """The numbers of the captions of a split (``train`` or ``test``), int64; none in a world of
        labels."""
        return torch.arange(0)

    def condition(self, labels: Tensor | None) -> Condition:
        """The condition that belongs to ``labels`` (B,): they themselves, or what a world of captions makes
        of them.
        """
        return labels

    def balanced_labels(self, n: int, split: str = "train") -> Tensor | None:
        """Labels that are spread evenly, the same ones every time.

        Arguments:
            n: how many.
            split: ``train`` or ``test``, where the labels are numbers of captions, patches or rows.

        Returns:
            Labels of int64, (n,); None in a world without.
        """
        return balanced_labels(n, self.classes)

    def exact(self, process: Process) -> ExactDenoiser:
        """The closed-form denoiser of this world's data under ``process``."""
        raise NotImplementedError

    def measure(
        self, samples: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """The world's standard metrics, and how well samples follow their labels.

        Arguments:
            samples: at least 4, (B, *shape).
            labels: what the samples were made for, (B,), at least 0; None leaves out the metrics that need
                it.
            generator: for the random part of metrics; None for one that is the same every time.

        Returns:
            Values by name, of those in :attr:`metrics`.
        """
        raise NotImplementedError

    def floor(self, n: int, seed: int = 0) -> dict[str, float]:
        """The metrics of true samples: the best value that a figure beside it can hope for.

        Arguments:
            n: number of samples.
            seed: of their draws.

        Returns:
            What :meth:`measure` returns for them.
        """
        samples, labels = self.sample_data(n, Draws(n, "floor", seed))
        return self.measure(samples, labels if self.classes else None)

    def identity_metrics(self, n: int) -> dict[str, float] | None:
        """The metrics of ``n`` degraded samples left as they are, in a world of restoration; None
        elsewhere."""
        return None

    def network(
        self,
        process: Process,
        seed: int = 0,
        *,
        kind: str = "velocity",
        two_time: bool = False,
        guidance_input: bool = False,
        **options: Any,
    ) -> Denoiser:
        """A small untrained network of a size that fits this world.

        Arguments:
            process: that it is trained on.
            seed: of its initial weights.
            kind: what it predicts, one of ``x0 eps score v velocity edm``, in a world of tokens ``logits``.
            two_time: whether it takes the time ``s`` at which a jump ends.
            guidance_input: whether it takes a guidance scale.
            options: instead of this world's own for the model: ``name``, ``width``, ``depth`` …

        Returns:
            The network as a :class:`Denoiser`.
        """
        from stillhouse.core.prediction import EDM
        from stillhouse.models import build_model

        usual = (
            self.network_defaults
            if options.get("name", self.network_defaults["name"]) == self.network_defaults["name"]
            else {}
        )
        fields = {
            **usual,
            "classes": self.classes,
            "two_time": two_time,
            "guidance_input": guidance_input,
            **options,
        }
        return Denoiser(
            build_model(fields, seed),
            process,
            EDM(self.sigma_data) if kind == "edm" else kind,
            two_time=two_time,
        )

    @property
    def display(self) -> Display:
        """What this world adds to how its samples are shown and requested; see
        :class:`stillhouse.forms.views.Display`."""
        return Display()

    def endpoint(
        self, process: Process, x: Tensor, cond: Condition = None, t: float = 1.0, s: float = 0.0
    ) -> Tensor:
        """Where the exact teacher's probability-flow ODE ends, at a tight tolerance.

        Arguments:
            process: of the teacher.
            x: states at ``t``, (B, *shape).
            cond: the condition of the B rows; None for none.
            t: the time of the start, in [0, 1].
            s: the time of the end, in [0, 1].

        Returns:
            The states at ``s``, (B, *shape).
        """
        from stillhouse.solvers.rk45 import endpoint

        return endpoint(self.exact(process), x, t, s, cond)


# file below stillhouse.worlds, and the callable in it that makes the world
WORLDS: dict[str, tuple[str, str]] = {
    "mixture": ("mixture.layouts", "make_mixture"),
    "digits": ("digits.world", "Digits"),
    "mnist": ("mnist.world", "Mnist"),
    "shapes": ("shapes.world", "Shapes"),
    "text": ("text.world", "make_text"),
    "clips": ("clips.world", "make_clips"),
    "tones": ("tones.world", "Tones"),
    "photos": ("photos.world", "Photos"),
    "control": ("control.world", "Control"),
    "objects": ("objects.world", "Objects"),
    "tables": ("tables.world", "Tables"),
}


def get_world(name: str, **options: Any) -> World:
    """The world of a name.

    Arguments:
        name: one of :data:`WORLDS`.
        options: of that world.

    Returns:
        The world; its ``config`` makes it again.

    Raises:
        StillhouseError: for an unknown name or option.
    """
    if name not in WORLDS:
        raise unknown("world", name, WORLDS)
    file, maker = WORLDS[name]
    try:
        world: World = getattr(import_module(f"stillhouse.worlds.{file}"), maker)(**options)
    except TypeError as error:
        raise StillhouseError(f"World '{name}' can't be made from {options}: {error}.") from error
    world.config = {"name": name, **options}
    return world


def open_world(config: str | Mapping[str, Any]) -> World:
    """The world of a name or of a configuration; an empty one is a mistake."""
    require(bool(config), "The model does not name its world; give one: --world mnist.")
    options = {"name": config} if isinstance(config, str) else dict(config)
    require("name" in options, "A world's entry needs its name.")
    return get_world(str(options.pop("name")), **options)


def require_samples(world: World, samples: Tensor, labels: Tensor | None) -> None:
    """Refuse samples that aren't this world's, or labels that don't belong to them.

    Arguments:
        world: whose shape they must have.
        samples: at least 4, (B, *shape).
        labels: one a sample, (B,), at least 0; None for none.
    """
    require(
        tuple(samples.shape[1:]) == world.shape,
        f"World '{world.name}' measures samples of shape {world.shape}, not {tuple(samples.shape[1:])}.",
    )
    require(len(samples) >= 4, f"{len(samples)} samples are too few to measure anything.")
    if labels is not None:
        require(labels.shape == samples.shape[:1], "Give one label per sample.")
        require_labels(labels, world.classes or len(world.captions))

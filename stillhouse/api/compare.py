"""A student beside its teacher without a world: from the same noise under the same held-out conditions, and
as a distribution against data or the teacher's own samples. Batch by batch: only features are kept."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from stillhouse.api.held_out import BATCHES, HeldOut
from stillhouse.api.versions import plain, versions
from stillhouse.api.walks import Walk, turns, walks_of
from stillhouse.core.draws import seed_of
from stillhouse.core.errors import require
from stillhouse.metrics.diversity import DIVERSITY, diversity
from stillhouse.metrics.extractors import Features, pictorial
from stillhouse.metrics.fidelity import (
    FRECHET,
    KID,
    NEIGHBOURS,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from stillhouse.metrics.metric import Metric, declared
from stillhouse.metrics.scores import Score, mean_scores, metric_of
from stillhouse.model import Model
from stillhouse.solvers import make_solver

SAMPLES = 200  # of each way, unless another number is asked for
FEW = (4, 8)  # steps of a many-step student, beside its own number
SHOWN, SHOWN_NUMBERS = 8, 500  # samples of each way that are kept to be shown: pictures, and others
SHOWN_SIDE = 256  # pixels of the longer side of a picture that is kept to be shown
NEIGHBOURHOOD = 5  # precision and recall need more samples than this
ENDPOINT = "the teacher's endpoint from the same noise, root mean square of a number"
PAIRED = (
    Metric("paired_samples", "low", "", f"to {ENDPOINT}", "Paired distance"),
    Metric("paired_latents", "low", "", f"in latents, to {ENDPOINT}", "Paired distance, latents"),
)


@dataclass
class Gauge:
    """What has been measured of one way, batch by batch."""

    features: list[Tensor] = field(default_factory=list)
    squares: dict[str, list[Tensor]] = field(default_factory=dict)  # of each sample, by the paired distance
    scores: dict[str, float] = field(default_factory=dict)  # sums
    shown: list[Tensor] = field(default_factory=list)

    def take(
        self, samples: Tensor, network: Features, scores: Mapping[str, Score], prompts: Sequence[str]
    ) -> None:
        """Measure a batch of samples, and keep what is to be shown.

        Arguments:
            samples: of this way, (B, …).
            network: gives their features.
            scores: functions ``f(images, prompts) -> (B,)`` by name.
            prompts: of the samples, B of them; none without scores.
        """
        self.features.append(network(samples))
        for name, mean in mean_scores(scores, samples, prompts).items():
            self.scores[name] = self.scores.get(name, 0.0) + mean * len(samples)
        missing = (SHOWN if samples.dim() > 3 else SHOWN_NUMBERS) - sum(map(len, self.shown))
        if missing > 0:
            self.shown.append(shown(samples[:missing]))

    def pair(self, name: str, made: Tensor, end: Tensor) -> None:
        """Note how far samples are from the teacher's endpoints, if they are of one shape.

        Arguments:
            name: of the distance.
            made: samples or latents, (B, …).
            end: the teacher's from the same noise.
        """
        if made.shape == end.shape:
            gap = (made.float().cpu() - end.float().cpu()).flatten(1).square().mean(1)
            self.squares.setdefault(name, []).append(gap)

    def figures(self, reference: Tensor | None, numbers: Tensor | None, seed: int) -> dict[str, float | None]:
        """All figures of the way.

        Arguments:
            reference: features of what it is compared with, (N, F); None for nothing.
            numbers: of the conditions of the samples; None for none.
            seed: of the subsets that neighbours are looked for in.

        Returns:
            Figures by name.
        """
        features = torch.cat(self.features)
        found: dict[str, float | None] = {}
        if reference is not None:
            found |= distribution(features, reference, seed)
        found |= {name: float(torch.cat(parts).mean().sqrt()) for name, parts in self.squares.items()}
        found |= {name: total / len(features) for name, total in self.scores.items()}
        spread = None if numbers is None else diversity(features, numbers[: len(features)])
        return found | ({} if spread is None else {DIVERSITY.name: spread})


def distribution(features: Tensor, reference: Tensor, seed: int = 0) -> dict[str, float | None]:
    """Fréchet and kernel distance, precision, recall, density and coverage.

    Arguments:
        features: of samples, (B, F).
        reference: features of true samples, (B', F).
        seed: of the subsets that the neighbours are looked for in.

    Returns:
        Figures by name; without neighbours where there are too few samples for them.
    """
    found: dict[str, float | None] = {
        "frechet": frechet_distance(features, reference),
        "kid": kernel_distance(features[:5000], reference[:5000]),
    }
    m = min(len(features), len(reference), 2000)
    if m <= NEIGHBOURHOOD:
        return found
    generator = torch.Generator().manual_seed(seed_of("neighbours", seed))
    some, others = (torch.randperm(len(v), generator=generator)[:m] for v in (features, reference))
    return found | precision_recall(features[some], reference[others], NEIGHBOURHOOD)


def shown(samples: Tensor) -> Tensor:
    """Samples as they are kept to be shown: pictures as bytes, no larger than a page needs; others as they
    are."""
    if not pictorial(samples):
        return samples.float()
    frames = samples.float().flatten(0, -4) if samples.dim() == 5 else samples.float()
    times = SHOWN_SIDE / max(frames.shape[-2:])
    if times < 1:
        sides = tuple(max(1, round(side * times)) for side in frames.shape[-2:])
        frames = F.interpolate(frames, sides, mode="bilinear", antialias=True)
    whole = ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return whole.reshape(*samples.shape[:-3], *whole.shape[1:])


def compare(
    model: Model,
    held: HeldOut,
    *,
    teacher: Model | None = None,
    n: int = SAMPLES,
    seed: int = 0,
    teacher_steps: Sequence[int] | None = None,
    teacher_solver: str | dict[str, Any] | None = None,
    scores: Mapping[str, Score] | None = None,
    show: bool = False,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Measure every way of sampling the student and its teacher without a world.

    Arguments:
        model: the student.
        held: conditions, data and features.
        teacher: what it is compared with; None for the student alone, which then needs data or scores.
        n: samples of each way, 8 or more.
        seed: of all random draws.
        teacher_steps: numbers of steps of the teacher beside its own; None for the student's.
        teacher_solver: takes the place of the teacher's own solver; None for that.
        scores: functions ``f(images, prompts) -> (B,)`` by name.
        show: progress bars.

    Returns:
        The evaluation, see :func:`stillhouse.api.evaluate.evaluate`; and some samples of each row by its
        number, uint8 for pictures, with ``real`` for some of the reference.

    Raises:
        StillhouseError: if the models don't fit the conditions or each other, or a sample is not finite.
    """
    require(n >= 8, f"An evaluation needs at least 8 samples, not {n}.")
    scores = dict(scores or {})
    require(
        teacher is not None or held.data is not None or bool(scores),
        "There is nothing to compare the model with: give a teacher (--teacher) or pictures (--data DIR).",
    )
    require(
        teacher is None or (teacher.classes, teacher.text is None) == (model.classes, model.text is None),
        "Student and teacher take different kinds of conditions; they can't be compared.",
    )
    held = held.opened(model, model.denoiser.device)
    numbers = held.numbers(model, n)
    require(
        not scores or bool(held.prompts),
        "A score compares pictures with prompts, and this model is given none.",
    )
    walks = walks_of(model, "student", FEW if teacher_steps is None else teacher_steps)
    if teacher is not None:
        few = tuple(w.steps for w in walks) if teacher_steps is None else teacher_steps
        require(all(s >= 1 for s in few), f"The teacher's steps are 1 or more, not {list(few)}.")
        walks += walks_of(teacher, "teacher", few, teacher_solver)
    usual = next((w for w in walks if w.who == "teacher" and w.default), None)
    end = max(
        (i for i, w in enumerate(walks) if w.who == "teacher"),
        key=lambda i: (walks[i].nfe, not make_solver(walks[i].sampling.solver).stochastic),
        default=None,
    )
    taking = list(walks)
    if usual is not None and held.data is None:  # what the teacher makes of other noise
        taking.append(replace(usual, noise="reference", samples=[], seconds=[]))
    gauges = [Gauge() for _ in taking]
    batch = min(held.batch or BATCHES[model.codec is not None], math.ceil(n / 4))
    network: Features | None = None
    for start, made in turns(taking, held.condition, n, batch, numbers, seed, show):
        example = made[0][1]
        network = network or held.network(example, model.denoiser.device)
        asked = [] if numbers is None or not held.prompts else numbers[start : start + len(example)].tolist()
        for i, (gauge, (states, samples)) in enumerate(zip(gauges, made, strict=True)):
            gauge.take(samples, network, scores, [held.prompts[j] for j in asked])
            if end is not None and i != end:
                gauge.pair("paired_samples", samples, made[end][1])
                if model.codec is not None:
                    gauge.pair("paired_latents", states, made[end][0])
    assert network is not None
    kept = {str(i): torch.cat(gauge.shown) for i, gauge in enumerate(gauges[: len(walks)])}
    reference, floor = None, dict[str, float | None]()
    if held.data is not None:
        reference, floor, kept["real"] = _of_data(held, example[:1], network, batch, seed, show)
    elif usual is not None:
        reference = torch.cat(gauges[-1].features)
        kept["real"] = torch.cat(gauges[-1].shown)
        floor = gauges[-1].figures(torch.cat(gauges[walks.index(usual)].features), numbers, seed)
    found = [gauge.figures(reference, numbers, seed) for gauge in gauges[: len(walks)]]
    width = gauges[0].features[0].shape[1]
    known = [
        *_reference_metrics(held.data is None),
        *PAIRED,
        *(metric_of(k, s) for k, s in scores.items()),
        DIVERSITY,
    ]
    leads = "frechet" if n >= 2 * width else "kid"
    order = [
        leads,
        "paired_samples",
        *scores,
        "recall",
        DIVERSITY.name,
        "precision",
        *(m.name for m in known),
    ]
    measured = sorted({name for one in (*found, floor) for name in one}, key=order.index)
    mine = next(w for w in walks if w.who == "student" and w.default)
    return {
        "world": held.describe(numbers, network.name, n, seed),
        "n": n,
        "seed": seed,
        "batch": batch,
        "metric": measured[0],
        "metrics": {name: m.config() for name, m in declared(measured, known, "The evaluation").items()},
        "rows": [
            walk.row(one) | ({"memory": walk.memory} if walk.memory else {})
            for walk, one in zip(walks, found, strict=True)
        ],
        "floor": {k: None if v is None else plain(v) for k, v in floor.items()},
        "floor_name": "The teacher from other noise" if held.data is None else "One half of the data",
        "reference_name": "The teacher from other noise" if held.data is None else "Real data",
        "floor_phrase": "the teacher against itself from other noise"
        if held.data is None
        else "one half of the data against the other",
        "notes": [*held.notes, *_notes(held, numbers, n, width, reference, usual), network.note],
        "parameters": {"student": model.parameters, **({"teacher": teacher.parameters} if teacher else {})},
        "speed_up": statistics.median(a / b for a, b in zip(usual.seconds, mine.seconds, strict=True))
        if usual
        else None,
        "versions": versions(),
    }, kept


def _of_data(
    held: HeldOut, like: Tensor, network: Features, batch: int, seed: int, show: bool
) -> tuple[Tensor, dict[str, float | None], Tensor]:
    """Features of the data, the figures of one half of it against the other, and some of it to be shown."""
    gauge = Gauge()
    for part in tqdm(
        held.true_samples(like, batch), desc="data", disable=not show, unit="batch", leave=False
    ):
        gauge.take(part, network, {}, ())
    count = sum(map(len, gauge.features))
    require(count >= 2, f"A comparison needs at least 2 samples of data, not {count}.")
    found = torch.cat(gauge.features)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of("halves", seed)))
    halves = found[order[: count // 2]], found[order[count // 2 :]]
    return found, distribution(*halves, seed) if count >= 4 else {}, torch.cat(gauge.shown)


def _reference_metrics(teacher: bool) -> list[Metric]:
    """The metrics of distributions, worded for what they compare with: the teacher's samples, or data."""
    return [
        replace(m, help=m.help.replace("real data", "the teacher's samples").replace("real", "teacher's"))
        if teacher
        else m
        for m in (FRECHET, KID, *NEIGHBOURS)
    ]


def _notes(
    held: HeldOut, numbers: Tensor | None, n: int, width: int, reference: Tensor | None, usual: Walk | None
) -> list[str]:
    """What has to stand beside the figures, a sentence each."""
    notes = []
    if numbers is not None:
        what = "prompt" if held.prompts else "condition"
        used = len(numbers.unique())
        notes.append(f"{n} samples a way, of {used} {what}{'s' if used > 1 else ''}.")
    if held.data is not None and reference is not None:
        notes.append(f"Distributions are compared with {len(reference):,} samples of data.")
    elif reference is not None:
        notes.append(
            "Distributions are compared with the teacher's own samples from other noise, in its usual "
            "number of steps."
        )
    if n < 2 * width and reference is not None:
        notes.append(
            f"{n} samples are fewer than twice the {width} features, and the Fréchet distance of so few is "
            "too "
            "large: KID leads, which is right on average for any number."
        )
    if usual is not None and make_solver(usual.sampling.solver).stochastic:
        notes.append("The teacher's solver adds noise, so the paired distance holds its own chance.")
    return notes

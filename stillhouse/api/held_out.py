"""What models are measured under where there is no world: prompts, conditions and data that were held out of
their training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillhouse import forms
from stillhouse.api.run import CACHE
from stillhouse.core.conditions import Condition, balanced_labels, pick, require_condition, size
from stillhouse.core.errors import require
from stillhouse.core.structure import checked
from stillhouse.metrics.extractors import Features, open_features, pictorial, plain_features, small_features
from stillhouse.metrics.features import FeatureExtractor
from stillhouse.model import Model

NAME = "held-out"  # in the place of a world's name
SHARE = 0.02  # of the rows of a run's data is kept out of training, see stillhouse.train.cached.data_for
MOST = 10_000  # pictures of the data that are looked at
BATCHES = {True: 8, False: 64}  # samples made at once, of a model with a codec and of one without

# the types of what a HeldOut is given
GIVEN = {
    "prompts": [str],
    "conditions": (Tensor, dict, None),
    "data": (Tensor, str, Path, None),
    "features": Any,
    "batch": int,
    "notes": [str],
}


@dataclass
class HeldOut:
    """What to measure a model under, whose world nobody defined.

    Arguments:
        prompts: for a model of prompts; none for the model's own.
        conditions: of N rows, for a model of any other condition; None for none, or for its classes.
        data: true samples (N, *shape) to compare with, pictures in [-1, 1], or a folder or file of pictures
            (see :func:`stillhouse.io.data.open_source`); None to compare with the teacher's own samples.
        features: folder of a vision network, see :func:`stillhouse.metrics.extractors.open_features`, or a
            function of samples (B, …) to features (B, F); None for the library's small network, and for
            the own numbers of samples that are no pictures.
        batch: samples made at once; 0 for 8 of a model with a codec, and 64 of any other.
        notes: sentences for the page, such as where the prompts are from.
    """

    prompts: Sequence[str] = ()
    conditions: Condition = None
    data: Tensor | str | Path | None = None
    features: str | Path | FeatureExtractor | Features | None = None
    batch: int = 0
    notes: Sequence[str] = ()
    _encoded: dict[int, tuple[list[int], Condition]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        checked(vars(self), GIVEN, "Nothing can be measured so")
        require_condition(self.conditions, "A HeldOut's 'conditions'")
        require(self.batch >= 0, f"The batch of an evaluation is 0 or more, not {self.batch}.")

    def numbers(self, model: Model, n: int) -> Tensor | None:
        """The condition of each of ``n`` samples, by its number.

        Prompts and conditions are used at least twice each, where ``n`` is large enough for that, so that the
        diversity of a condition's samples can be measured.

        Arguments:
            model: whose conditions are meant.
            n: number of samples.

        Returns:
            Numbers, (n,) int64; None for a model without conditions.

        Raises:
            StillhouseError: where the model takes conditions that are not there, or none of those given.
        """
        form = forms.of(model)
        require(
            form.continuous,
            "A model of tokens is measured in a world; name one, e.g. --world text.",
        )
        if self.prompts:
            require(model.text is not None, "Prompts were given, and this model takes none.")
        if self.conditions is not None:
            known = size(self.conditions) or 0
            require(known > 0, "There are no conditions to measure the model under.")
        elif model.text is not None:
            known = len(self.prompts)
            require(
                known > 0,
                "The model takes prompts; give some that it was not trained on: --prompts FILE.",
            )
        elif model.classes:
            return balanced_labels(n, model.classes)
        else:
            require(
                not model.cond_kind,
                f"The model is conditioned on one {model.cond_kind} a sample; give them in Python: "
                "HeldOut(conditions=…).",
            )
            return None
        return torch.arange(n) % min(known, max(1, n // 2))

    def condition(self, numbers: Tensor | None, model: Model) -> Condition:
        """What numbers of conditions mean to a model; prompts of the last call are not encoded again.

        Arguments:
            numbers: as :meth:`numbers` gives them, (B,).
            model: student or teacher; one of prompts encodes them itself.

        Returns:
            The condition of B rows; None for none.
        """
        if numbers is None:
            return None
        if self.conditions is not None:
            return pick(self.conditions, numbers)
        if model.text is None:
            return numbers
        asked = numbers.tolist()
        last, cond = self._encoded.get(id(model), ([], None))
        if last != asked:
            with torch.no_grad():
                cond = model.text.encode([self.prompts[i] for i in asked])
            self._encoded[id(model)] = asked, cond
        return cond

    def opened(self, model: Model, device: torch.device | str) -> HeldOut:
        """The same with all that it names opened, so that nothing is missed after an hour of sampling.

        Arguments:
            model: whose own prompts are taken where none are given.
            device: of the feature network.

        Returns:
            A copy. Raises :class:`StillhouseError` for data or a network that can't be opened.
        """
        if isinstance(self.data, str | Path):
            from stillhouse.io.data import open_source

            open_source(self.data)
        own = () if model.text is None or self.conditions is not None else model.prompts
        folder = self.features if isinstance(self.features, str | Path) else None
        return replace(
            self,
            prompts=tuple(self.prompts or own),
            features=self.features if folder is None else open_features(folder, device),
        )

    def network(self, samples: Tensor, device: torch.device | str) -> Features:
        """The features that samples are compared by.

        Arguments:
            samples: some, (B, …).
            device: of the library's own network.

        Returns:
            The features. Raises :class:`StillhouseError` for a folder's network and samples that are no
            pictures.
        """
        found = self.features
        if found is None:
            return small_features(device) if pictorial(samples) else plain_features(samples[0].numel())
        if isinstance(found, str | Path):
            found = open_features(found, device)
        if isinstance(found, Features):
            require(
                pictorial(samples),
                f"The network '{found.name}' takes pictures, and the samples are of shape "
                f"{tuple(samples.shape[1:])}.",
            )
            return found
        name = getattr(found, "__name__", type(found).__name__)
        return Features(name, f"Features are those of {name}.", found)

    def true_samples(self, like: Tensor, batch: int) -> Iterator[Tensor]:
        """The data in batches, at most :data:`MOST` samples.

        Arguments:
            like: samples of the model, (B, …), whose size and channels pictures are brought to.
            batch: samples of a batch.

        Returns:
            An iterator of (B', …) float32.

        Raises:
            StillhouseError: for data that is not like the model's samples, or can't be read.
        """
        if torch.is_tensor(self.data):
            require(
                self.data.shape[1:] == like.shape[1:],
                f"The data is of shape {tuple(self.data.shape[1:])}, the samples of {tuple(like.shape[1:])}.",
            )
            yield from self.data[:MOST].float().split(batch)
            return
        require(
            pictorial(like) and like.dim() == 4,
            f"Samples of shape {tuple(like.shape[1:])} are no pictures; give data for them as a tensor, in "
            "Python: HeldOut(data=…).",
        )
        from stillhouse.io.data import open_source, to_tensor

        channels, height, width = like.shape[1:]
        kept: list[Tensor] = []
        count = 0
        for _, image, _ in open_source(str(self.data)):
            if image is None:
                continue
            kept.append(to_tensor(image, (height, width), channels))
            count += 1
            if len(kept) == batch or count == MOST:
                yield torch.stack(kept)
                kept = []
            if count == MOST:
                break
        if kept:
            yield torch.stack(kept)

    def describe(self, numbers: Tensor | None, features: str, n: int, seed: int) -> dict[str, Any]:
        """Plain data: two evaluations of which it is equal can be compared.

        Arguments:
            numbers: of the conditions of the samples, (n,); None for none.
            features: name of the network.
            n: samples of each way.
            seed: of the noise.

        Returns:
            ``name``, ``prompts``, ``reference`` (``data`` or ``teacher``), ``features``, ``n`` and ``seed``.
        """
        used = 0 if numbers is None else int(numbers.max()) + 1
        return {
            "name": NAME,
            "prompts": list(self.prompts[:used]),
            "conditions": used,
            "reference": "teacher" if self.data is None else "data",
            "features": features,
            "n": n,
            "seed": seed,
        }


def prompts_of_data(data: str | Path) -> list[str]:
    """The captions of pictures, each once, at most :data:`MOST` pictures' of them.

    Arguments:
        data: a folder or file of pictures.

    Returns:
        Captions in the order of the pictures; none where they have none.
    """
    from stillhouse.io.data import open_source

    rows = islice(open_source(data).rows(), MOST)
    return list(dict.fromkeys(row.caption for row in rows if row.caption))


def prompts_of_run(folder: str | Path, data: Any, model: Model) -> tuple[list[str], bool]:
    """Prompts that a run kept out of its training.

    Arguments:
        folder: of the run.
        data: as the run's file has it: a file of prompts, or a folder of pictures with captions.
        model: what the run made.

    Returns:
        Prompts, none where the run's data has none or is gone; and whether they were held out: of very few
        prompts none is, and all of these were trained on.
    """
    from stillhouse.io.data import open_cache, read_prompts, split_prompts
    from stillhouse.io.data.prompts import PROMPT_FILES
    from stillhouse.train.cached import LOOKED_AT, CachedData

    cache = Path(folder) / CACHE
    if cache.is_dir():
        rows = CachedData(open_cache(cache), held_out=SHARE, shape=tuple(model.shape))
        return [p for p in dict.fromkeys(rows.captions(LOOKED_AT)) if p], rows.held_out > 0
    if isinstance(data, str) and Path(data).suffix in PROMPT_FILES and Path(data).is_file():
        learnt, held = split_prompts(read_prompts(data), SHARE)
        return held or learnt, bool(held)
    return [], False

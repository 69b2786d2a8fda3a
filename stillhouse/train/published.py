"""Settings that systems were published with for real models, beside those for our worlds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What a system was trained with on some kind of model.

    Arguments:
        source: where that is published, and for what of it the nearest published value stands.
        lr: learning rates by player; of those that its options leave out, too.
        options: of the system.
        run: fields of :class:`~stillhouse.train.recipe.Recipe`. ``lora`` is the published rank, which
            ``lora_alpha`` belongs to: another rank keeps their ratio.
    """

    source: str
    lr: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)

    def __or__(self, over: Settings) -> Settings:
        """These settings with others over them."""
        sources = dict.fromkeys(s for s in (self.source, over.source) if s)
        return Settings(
            "; ".join(sources),
            {**self.lr, **over.lr},
            {**self.options, **over.options},
            {**self.run, **over.run},
        )


# By what the teacher is: `pipeline`, any of Diffusers; a family by the name of its class (`sd`, which `sdxl`
# is one of, `flux` …); `edm`, preconditioned as EDM's; `language`, a masked language model of Transformers.
# Then the same with adapters: `lora`, `sdxl lora`. Later ones in this order go over earlier ones.
Published = Mapping[str, Settings]

# what scripts derived from Diffusers' use where they are silent
ADAMW = {"optimiser": "adamw", "betas": (0.9, 0.999), "weight_decay": 0.01}
PLAIN_ADAM = {"optimiser": "adam", "betas": (0.9, 0.999), "weight_decay": 0.0}
CONSTANT = {"schedule": "constant", "warmup": 0, "ema": 0.0}


def for_kinds(published: Published, kinds: tuple[str, ...], lora: bool) -> Settings | None:
    """The settings for a teacher.

    Arguments:
        published: of the system.
        kinds: what the teacher is, from the general to the particular.
        lora: whether what learns is an adapter.

    Returns:
        All that fit, the particular over the general; None where nothing was published for any of it.
    """
    keys = [*kinds, "lora", *(f"{kind} lora" for kind in kinds)] if lora else [*kinds]
    found = [published[key] for key in keys if key in published] if kinds else []
    made = Settings("")
    for one in found:
        made = made | one
    return made if found else None

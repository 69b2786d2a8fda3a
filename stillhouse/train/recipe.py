"""How a run is carried out: plain data, kept in its YAML. No method reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from stillhouse.core.errors import require
from stillhouse.core.structure import checked
from stillhouse.train.option import check_options, option

OPTIMISERS = ("adam", "adamw", "radam", "sgd")
SCHEDULES = ("constant", "linear", "cosine")
MOST_RATE = 1e6


@dataclass
class Optim:
    """Optimiser settings of one player.

    ``name``: adam, adamw, radam or sgd. ``clip``: largest gradient norm (0: none). ``warmup``: steps of
    linear rise. ``schedule``: constant, linear or cosine, over the stage.
    """

    lr: float = 1e-3
    name: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 0.0
    warmup: int = 0
    schedule: str = "constant"

    def __post_init__(self) -> None:
        require(self.name in OPTIMISERS, f"Optimiser is {', '.join(OPTIMISERS)}, not '{self.name}'.")
        require(
            self.schedule in SCHEDULES,
            f"Schedule is {', '.join(SCHEDULES)}, not '{self.schedule}'.",
        )
        require(
            math.isfinite(self.lr) and self.lr > 0,
            f"A learning rate is positive and finite, not {self.lr}.",
        )
        require(self.clip >= 0 and self.warmup >= 0, "Clipping and warm-up are zero or more.")
        self.betas = (float(self.betas[0]), float(self.betas[1]))


@dataclass
class Recipe:
    """The run around a method: length, batch, precision, averages, what is kept and shown."""

    steps: int = option(1000, "iterations", low=1, high=10**12)
    batch: int = option(
        256, "samples per iteration, over all processes and accumulated micro-batches", low=1, high=10**9
    )
    grad_accum: int = option(1, "micro-batches per iteration", low=1)
    seed: int = option(0, "of all random draws")
    lr: dict[str, float] = field(default_factory=dict)  # player -> learning rate, over the method's default
    optimiser: str = option("", "of every player (none: the method's own)", choices=("", *OPTIMISERS))
    betas: tuple[float, ...] = ()  # of that optimiser, two numbers; none: the method's own
    weight_decay: float = option(-1.0, "of that optimiser (-1: the method's own)", low=-1, high=1e6)
    schedule: str = option("", "of the rates (none: the method's own)", choices=("", *SCHEDULES))
    warmup: int = option(-1, "linear rise of the rates (-1: the method's own)", unit="steps", low=-1)
    clip: float = option(-1.0, "largest gradient norm (0: no clipping, -1: the method's own)", low=-1)
    ema: float = option(
        0.999, "decay of the averaged student that is sampled and saved, below 1 (0: none)", low=0, high=1
    )
    ema_half_life: float = option(0.0, "takes the place of `ema` where above 0", unit="samples", low=0)
    ema_ramp: float = option(
        0.05, "the half-life is at most this share of the samples seen so far", low=0, high=1
    )
    ema_power: float = option(
        0.0, "exponent of a power-function average, which replaces both where above 0", low=0
    )
    lora: int = option(
        0, "rank; above 0 every copy of the teacher is an adapter on its weights, which are held once", low=0
    )
    lora_alpha: float = option(
        0.0, "an adapter's effect is scaled by this over the rank (0: the rank itself)", low=0
    )
    lora_targets: str = "attention"  # layers with an adapter: attention, blocks, linear, or all
    precision: str = option("fp32", "of the computation", choices=("fp32", "bf16", "fp16"))
    compile: bool = option(False, "compile the networks")
    checkpoint_activations: bool = option(False, "trade the memory of activations for a second forward pass")
    nonfinite: str = option("stop", "stop, or skip the player's step", choices=("stop", "skip"))
    save_every: int = option(
        0, "between checkpoints (0: only at the end and when interrupted)", unit="iterations", low=0
    )
    keep_checkpoints: int = option(2, "checkpoints that stay", low=1)
    log_every: int = option(10, "between lines of `metrics.jsonl`", unit="iterations", low=1)
    grid_every: int = option(0, "between sample grids (0: none)", unit="iterations", low=0)
    validation_every: int = option(
        0,
        "between samples of the validation prompts (0: a tenth of the run)",
        unit="iterations",
        low=0,
    )
    tensorboard: bool = option(False, "write TensorBoard's files as well")

    def __post_init__(self) -> None:
        check_options(self, "Run")
        for name in ("weight_decay", "clip"):
            value = getattr(self, name)
            require(value >= 0 or value == -1, f"Run option '{name}' is 0 or more, or -1, not {value}.")
        require(isinstance(self.lr, dict), f"Run option 'lr' is rates by player, not {self.lr!r}.")
        checked(self.lr, {"*": float}, "Run option 'lr' is rates by player")
        for player, rate in self.lr.items():
            require(rate > 0, f"A learning rate is positive and finite, not {rate!r} ('{player}').")
            require(
                rate <= MOST_RATE, f"A learning rate is at most {MOST_RATE:g}, not {rate!r} ('{player}')."
            )
        require(
            isinstance(self.betas, tuple | list) and all(isinstance(b, int | float) for b in self.betas),
            f"Run option 'betas' is two numbers in [0, 1), not {self.betas!r}.",
        )
        self.betas = tuple(float(beta) for beta in self.betas)
        require(
            len(self.betas) in (0, 2) and all(0 <= beta < 1 for beta in self.betas),
            f"Run option 'betas' is two numbers in [0, 1), not {self.betas}.",
        )
        require(0 <= self.ema < 1, f"Run option 'ema' lies in [0, 1), not {self.ema}.")
        require(
            self.batch % self.grad_accum == 0,
            f"A batch of {self.batch} can't be split into {self.grad_accum} equal micro-batches.",
        )

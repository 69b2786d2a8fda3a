"""How a run is carried out: plain data, kept in its YAML. No method reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

from stillhouse.core.errors import require

OPTIMISERS = ("adam", "adamw", "radam", "sgd")


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
            self.schedule in ("constant", "linear", "cosine"),
            f"Schedule is constant, linear or cosine, not '{self.schedule}'.",
        )
        require(self.lr > 0, f"A learning rate is positive, not {self.lr}.")
        require(self.clip >= 0 and self.warmup >= 0, "Clipping and warm-up are zero or more.")
        self.betas = (float(self.betas[0]), float(self.betas[1]))


@dataclass
class Recipe:
    """The run around a method: length, batch, precision, averages, what is kept and shown."""

    steps: int = 1000  # iterations
    batch: int = 256  # samples per iteration, over all processes and accumulated micro-batches
    grad_accum: int = 1  # micro-batches per iteration
    seed: int = 0
    lr: dict[str, float] = field(default_factory=dict)  # player -> learning rate, over the method's default
    optimiser: str = ""  # adam, adamw, radam or sgd, of every player; empty: the method's own
    betas: tuple[float, ...] = ()  # of that optimiser, two numbers; none: the method's own
    weight_decay: float = -1.0  # likewise; -1: the method's own
    schedule: str = ""  # constant, linear or cosine; empty: the method's own
    warmup: int = -1  # steps; -1: the method's own
    clip: float = -1.0  # gradient norm; 0: none, -1: the method's own
    ema: float = 0.999  # decay of the averaged student that is sampled and saved; 0: none
    ema_half_life: float = 0.0  # in samples; > 0 replaces `ema`
    ema_ramp: float = 0.05  # the half-life is at most this share of the samples seen so far
    ema_power: float = 0.0  # > 0: power-function average of this exponent, replaces both
    lora: int = 0  # rank; > 0: every copy of the teacher is an adapter on its weights, which are held once
    lora_alpha: float = 0.0  # an adapter's effect is scaled by this over the rank; 0: the rank itself
    lora_targets: str = "attention"  # layers with an adapter: attention, blocks, linear, or all
    precision: str = "fp32"  # fp32, bf16, fp16
    compile: bool = False
    checkpoint_activations: bool = False
    nonfinite: str = "stop"  # stop, or skip the player's step
    save_every: int = 0  # iterations; 0: only at the end and when interrupted
    keep_checkpoints: int = 2  # checkpoints
    log_every: int = 10
    grid_every: int = 0  # iterations between sample grids; 0: none
    validation_every: int = 0  # iterations between samples of the validation prompts; 0: a tenth of the run
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "grad_accum", "keep_checkpoints", "log_every"):
            value = getattr(self, name)
            require(
                isinstance(value, int) and value >= 1,
                f"Run option '{name}' is a whole number of 1 or more, not {value!r}.",
            )
        for name in ("save_every", "grid_every", "validation_every"):
            require(getattr(self, name) >= 0, f"Run option '{name}' is 0 or more, not {getattr(self, name)}.")
        require(
            isinstance(self.lora, int) and self.lora >= 0,
            f"Run option 'lora' is a rank, a whole number of 0 or more, not {self.lora!r}.",
        )
        require(self.lora_alpha >= 0, f"Run option 'lora_alpha' is 0 or more, not {self.lora_alpha}.")
        require(
            self.precision in ("fp32", "bf16", "fp16"),
            f"Precision is fp32, bf16 or fp16, not '{self.precision}'.",
        )
        require(
            self.nonfinite in ("stop", "skip"),
            f"Run option 'nonfinite' is stop or skip, not '{self.nonfinite}'.",
        )
        self.betas = tuple(float(beta) for beta in self.betas)
        require(
            len(self.betas) in (0, 2) and all(0 <= beta < 1 for beta in self.betas),
            f"Run option 'betas' is two numbers in [0, 1), not {self.betas}.",
        )
        require(
            not self.optimiser or self.optimiser in OPTIMISERS,
            f"Optimiser is {', '.join(OPTIMISERS)}, not '{self.optimiser}'.",
        )
        require(0 <= self.ema < 1, f"Run option 'ema' lies in [0, 1), not {self.ema}.")
        require(
            self.batch % self.grad_accum == 0,
            f"A batch of {self.batch} can't be split into {self.grad_accum} equal micro-batches.",
        )

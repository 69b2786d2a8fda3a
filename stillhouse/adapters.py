"""One base, many players: teacher, student, fake score and slow copies as adapters on a single set of base
weights.

:func:`adapted` makes a teacher whose copies are low-rank adapters (Hu et al., 2021, arXiv 2106.09685). A
method is the same either way: ``teacher.copy()`` is a network of its own in the one case and an adapter in
the other.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.draws import seed_of
from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.core.precision import learnable
from stillhouse.models.taps import plain_checkpoint

# endings of the names of the layers that get an adapter
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "query", "key_value", "attention.out", "cross.out")
# of a U-Net's or a transformer's blocks every layer (Luo et al., 2023, arXiv 2311.05556): all of the network
# but its first and last convolution and what makes the embedding of the time
BLOCKS = (
    *ATTENTION,
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
ENDINGS = {"attention": ATTENTION, "blocks": BLOCKS, "linear": (), "all": ()}
TARGETS = tuple(ENDINGS)


class Base:
    """A frozen network with low-rank layers in it, of which at most one set is on at a time."""

    def __init__(self, net: nn.Module, rank: int, alpha: float, names: Sequence[str], seed: int):
        try:
            from peft.tuners.lora import LoraLayer
        except ImportError as error:
            raise StillhouseError(
                "Adapters need the package PEFT; run: pip install 'stillhouse[pipelines]'"
            ) from error

        self.net, self.rank, self.alpha, self.names, self.seed = net, rank, alpha, list(names), seed
        self.active: str | None = None
        net.requires_grad_(False)
        self.spare: str | None = self._inject()  # the layers are made with the first adapter
        if any(isinstance(m, nn.TransformerEncoderLayer) for m in net.modules()):
            # torch's fused inference reads the weights of its linear layers, past what an adapter adds to
            # them
            torch.backends.mha.set_fastpath_enabled(False)
        made = ((name, m) for name, m in net.named_modules() if isinstance(m, LoraLayer))
        self.layers: dict[str, Any] = {name: m for name, m in made if self.spare in m.lora_A}
        self.switch(None)

    def add(self) -> str:
        """A new adapter without effect; its name."""
        if self.spare:
            name, self.spare = self.spare, None
            return name
        name = self._inject()
        self.switch(self.active)  # a new adapter arrives switched on
        return name

    def _inject(self) -> str:
        from peft import LoraConfig, inject_adapter_in_model

        count = getattr(self.net, "players", 0)  # of the network, which may have been a base before
        name, self.net.players = f"player{count}", count + 1  # type: ignore[assignment]
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            target_modules=self.names,
            init_lora_weights="gaussian",
        )
        with (
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
        ):  # torch's initialisers take no generator: lend them a seeded one
            torch.manual_seed(seed_of(self.seed, "adapter", name))
            warnings.filterwarnings(
                "ignore", "Already found a `peft_config`"
            )  # that there are several is the point
            inject_adapter_in_model(config, self.net, name)
        for layer, module in self.net.named_modules():  # made in the precision of their layer, but they learn
            if layer.endswith((f"lora_A.{name}", f"lora_B.{name}")):
                learnable(module)
        return name

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """The parameters of one adapter by layer."""
        found = {}
        for layer, module in self.layers.items():
            found[f"{layer}.down"], found[f"{layer}.up"] = (
                module.lora_A[name].weight,
                module.lora_B[name].weight,
            )
        return found

    def switch(self, name: str | None) -> None:
        """Turn one adapter on and all others off; None: all off. Touches no gradient switch, which are the
        loop's."""
        self.active = name
        for layer in self.layers.values():
            layer._active_adapter, layer._disable_adapters = [name] if name else [], name is None

    @contextmanager
    def on(self, name: str | None) -> Iterator[None]:
        """Inside the block adapter ``name`` is on; afterwards things are as before."""
        before = self.active
        self.switch(name)
        try:
            yield
        finally:
            self.switch(before)

    def recomputed(self, block: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        """Activation checkpointing of a block: the backward pass computes it again with the adapter that was
        on the first time.

        Arguments:
            block: the function, or submodule, that is computed twice.
            inputs: its arguments.
            options: its keyword arguments.

        Returns:
            The block's output.
        """
        name = self.active

        def again(*given: Any, **named: Any) -> Any:
            with self.on(name):
                return block(*given, **named)

        return plain_checkpoint(again, *inputs, **options)


class Adapted(Denoiser):
    """One player on a :class:`Base`. Its parameters and its state are its adapter's alone; without an adapter
    it is the teacher.

    ``copy()`` and ``copy.deepcopy`` make another player: of equal weights, or from the teacher one without
    effect yet.
    """

    def __init__(self, base: Base, model: Denoiser, name: str | None = None):
        nn.Module.__init__(self)
        # kept out of the module's tree: the base's weights are no player's
        object.__setattr__(self, "base", base)
        self.process, self.kind, self.call, self.two_time, self.empty = (
            model.process,
            model.kind,
            model.call,
            model.two_time,
            model.empty,
        )
        self.name, self.calls, self.negative_condition = name, 0, model.negative_condition
        own = base.weights(name) if name else {}
        self.weights = nn.ParameterDict({key.replace(".", "/"): p for key, p in own.items()})

    base: Base

    @property
    def net(self) -> nn.Module:  # type: ignore[override]
        """The base network, its adapters as they are switched now."""
        return self.base.net

    def forward(self, *inputs: Any, **options: Any) -> Any:
        with self.base.on(self.name):
            return super().forward(*inputs, **options)

    @property
    def off(self) -> Adapted:
        """The base with its adapters off."""
        return Adapted(self.base, self)

    @property
    def device(self) -> torch.device:
        return next(self.base.net.parameters()).device

    def copy(self) -> Adapted:
        twin = Adapted(self.base, self, self.base.add())
        if self.name:
            twin.load_state_dict(self.state_dict())
        twin.to(self.device)
        return twin.requires_grad_(True)

    def __deepcopy__(self, memo: dict[int, Any]) -> Adapted:
        return self.copy().train(self.training) if self.name else self.off.train(self.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Adapted:
        self.base.net._apply(fn, recurse)  # where a player goes, the base goes with it
        super()._apply(fn, recurse)
        return self

    def merged(self) -> Denoiser:
        """A plain denoiser with the adapter folded into a copy of the base's weights."""
        net = copy.deepcopy(self.base.net, {id(self.base): self.base})
        if hasattr(net, "checkpoint"):
            net.checkpoint, net.checkpointing = plain_checkpoint, False  # type: ignore[assignment]
        wrapped: list[tuple[str, Any]] = [
            (name, m) for name, m in net.named_modules() if hasattr(m, "lora_A")
        ]
        for name, layer in wrapped:  # another base's, too, if the network was one before
            if self.name and name in self.base.layers:
                layer.merge(adapter_names=[self.name])
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, layer.get_base_layer())
        return Denoiser(
            net, self.process, self.kind, call=self.call, two_time=self.two_time, empty=self.empty
        )

    def lora(self) -> dict[str, Tensor]:
        """The adapter as PEFT names it: ``LAYER.lora_A.weight``, ``LAYER.lora_B.weight``; float32 on the CPU,
        scale not applied."""
        made = {}
        for key, weight in self.weights.items():
            layer, _, part = key.replace("/", ".").rpartition(".")
            made[f"{layer}.lora_{'A' if part == 'down' else 'B'}.weight"] = (
                weight.detach().float().cpu().contiguous()
            )
        return made


def adapted(
    denoiser: Denoiser,
    rank: int,
    *,
    alpha: float | None = None,
    targets: str | Sequence[str] = "attention",
    seed: int = 0,
) -> Adapted:
    """``denoiser`` as a teacher whose copies share its weights: its layers get a place for low-rank adapters,
    all off.

    The network is changed in place; ``denoiser`` itself goes on as before.

    Arguments:
        denoiser: the teacher, with a network of its own.
        rank: of the adapters, 1 or more.
        alpha: an adapter's effect is scaled by ``alpha / rank``; None for ``rank``, a scale of 1.
        targets: which layers: ``attention`` (their projections), ``blocks`` (of Diffusers' blocks all
            linear layers and convolutions), where there are none of these every one; ``linear``, ``all``
            (convolutions as well), or endings of layer names.
        seed: of the adapters' first values.

    Returns:
        The teacher, a player without an adapter; its ``copy()`` adds one.

    Raises:
        StillhouseError: for a closed form, and where no layer is meant.
    """
    if isinstance(denoiser, Adapted):
        return denoiser.off
    require(
        not isinstance(denoiser, ExactDenoiser), "A closed-form teacher has no weights to put an adapter on."
    )
    require(rank >= 1, f"An adapter's rank is 1 or more, not {rank}.")
    names = _layers(denoiser.net, targets)
    base = Base(denoiser.net, rank, float(rank if alpha is None else alpha), names, seed)
    return Adapted(base, denoiser)


def _layers(net: nn.Module, targets: str | Sequence[str]) -> list[str]:
    plain = targets in ("attention", "linear")
    kinds: tuple[type[nn.Module], ...] = (nn.Linear,) if plain else (nn.Linear, nn.Conv2d)
    found: dict[str, nn.Module] = {}
    for name, module in net.named_modules():
        if any(part in name.split(".") for part in ("base_layer", "lora_A", "lora_B")):
            continue  # inside a layer that has adapters already
        found[name] = module.base_layer if hasattr(module, "base_layer") else module
    uses = Counter(id(m._parameters.get("weight")) for m in net.modules())
    # never called itself
    fused = {id(m.out_proj) for m in net.modules() if isinstance(m, nn.MultiheadAttention)}
    every = [
        name
        for name, module in found.items()
        if isinstance(module, kinds)
        and getattr(module, "groups", 1) == 1
        and id(module) not in fused
        # of two layers with one weight, an adapter would be folded into both
        and uses[id(module.weight)] == 1
    ]
    if isinstance(targets, str):
        if targets not in ENDINGS:
            raise unknown("choice of layers for adapters", targets, ENDINGS)
        endings = ENDINGS[targets]
        meant = [name for name in every if name.endswith(endings)] if endings else every
        meant = meant or every
    else:
        meant = [name for name in every if name.endswith(tuple(targets))]
    if not meant:
        raise StillhouseError(f"No layer of {type(net).__name__} can take an adapter under '{targets}'.")
    return meant


def checkpointed(denoiser: Denoiser) -> None:
    """Turn on activation checkpointing of a denoiser's network; the second computation uses the
    adapter of the first.

    Raises :class:`StillhouseError` for a network that has none.
    """
    net: Any = denoiser.net
    again = denoiser.base.recomputed if isinstance(denoiser, Adapted) else None
    if hasattr(net, "checkpointing"):
        net.checkpointing, net.checkpoint = True, again or plain_checkpoint
    elif getattr(net, "_supports_gradient_checkpointing", False):  # Diffusers'
        net.enable_gradient_checkpointing(again)
    else:
        raise StillhouseError(f"{type(net).__name__} has no activation checkpointing; switch it off.")

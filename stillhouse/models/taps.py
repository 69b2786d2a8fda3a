"""What all reference networks share: their configuration, taps on inner features, activation
checkpointing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from stillhouse.core.errors import StillhouseError, require, unknown

plain_checkpoint = partial(checkpoint, use_reentrant=False)


def transformed(*tensors: Tensor | None) -> bool:
    """Whether a ``torch.func`` transform or forward-mode differentiation is at work on any of ``tensors``."""
    return any(
        x is not None and (is_functorch_wrapped_tensor(x) or forward_ad.unpack_dual(x).tangent is not None)
        for x in tensors
    )


def taps(
    module: nn.Module, names: Iterable[str], *inputs: Any, **options: Any
) -> tuple[Any, dict[str, Tensor]]:
    """``module(*inputs, **options)`` and the outputs of its submodules ``names``, each with its gradient
    graph.

    Names are those of ``module.named_modules()``. A submodule called twice gives its last output. Raises
    :class:`StillhouseError` for a name that ``module`` lacks, or whose submodule was not called or gave no
    tensor.
    """
    inner, names = dict(module.named_modules()), list(names)
    for name in names:
        if name not in inner:
            raise unknown("submodule", name, [n for n in inner if n])
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: seen.__setitem__(name, output)

    hooks = [inner[name].register_forward_hook(keep(name)) for name in names]
    try:
        out = module(*inputs, **options)
    finally:
        for hook in hooks:
            hook.remove()
    for name in names:
        require(
            torch.is_tensor(seen.get(name)),
            f"Submodule '{name}' gave no tensor to tap; choose one that the network calls directly.",
        )
    return out, {name: seen[name] for name in names}


class Reached(Exception):
    """Thrown from inside a network when :func:`until` has what it wanted."""

    def __init__(self, submodule: nn.Module, output: Tensor):
        super().__init__()
        self.submodule, self.output = submodule, output


def until(submodule: nn.Module, run: Callable[[], object]) -> Tensor:
    """What ``submodule`` puts out while ``run()`` calls a network around it; nothing behind it is computed.

    With its gradient graph. Raises :class:`StillhouseError` if ``run`` never gets there.
    """

    def stop(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        raise Reached(submodule, output)

    hook = submodule.register_forward_hook(stop)
    try:
        run()
    except Reached as reached:
        return reached.output
    finally:
        hook.remove()
    raise StillhouseError("The network does not call the submodule whose features were asked for.")


class Network(nn.Module):
    """A reference network: ``net(x, t, cond, *, s, guidance) -> Tensor like x``.

    ``config``: name and options as plain data, from which ``build_model`` makes the same network. ``middle``:
    the submodule whose output a discriminator or a feature loss reads, ``middle_channels`` wide.
    ``checkpointing``: trade the memory of the blocks' activations for a second forward pass through them.
    """

    name: str = ""
    middle: str = ""
    middle_channels: int = 0

    def __init__(self, given: dict[str, Any]):
        """``given``: the ``locals()`` of the subclass's constructor, its options among them."""
        super().__init__()
        options = {key: given[key] for key in list(inspect.signature(type(self)).parameters)}
        self.config = {
            "name": self.name,
            **{key: list(v) if isinstance(v, tuple) else v for key, v in options.items()},
        }
        self.checkpointing = False
        self.checkpoint: Callable[..., Any] = plain_checkpoint

    def taps(
        self, names: Iterable[str], x: Tensor, t: Tensor, cond: Any = None, **extra: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and the features of the submodules ``names`` (``["mid", "down.0"]``) by name; see
        :func:`taps`."""
        return taps(self, names, x, t, cond, **extra)

    def run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        """``block(*inputs)``, with activation checkpointing if it is on (it has no forward mode, where
        nothing is kept anyway)."""
        if self.checkpointing and torch.is_grad_enabled() and not transformed(*inputs):
            out: Tensor = self.checkpoint(block, *inputs)
        else:
            out = block(*inputs)
        return out

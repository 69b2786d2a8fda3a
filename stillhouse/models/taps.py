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
    """A network's output and the outputs of its submodules, each with its gradient graph.

    A submodule called twice gives its last output. Raises :class:`StillhouseError` for a name that ``module``
    lacks, or whose submodule was not called or gave no tensor.

    Arguments:
        module: the network.
        names: of submodules, as in ``module.named_modules()``.
        inputs: of the network, by position.
        options: of the network, by name.

    Returns:
        ``module(*inputs, **options)``, and the submodules' outputs by name.
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
    """What a submodule returns while a network around it is called; nothing behind it is computed.

    Arguments:
        submodule: of the network, which calls it directly.
        run: calls the network.

    Returns:
        The submodule's output, with its gradient graph; raises :class:`StillhouseError` if it is not called.
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
    raise StillhouseError("The network does not call the submodule whose features are wanted.")


class Network(nn.Module):
    """A reference network: ``net(x, t, cond, *, s, guidance) -> Tensor like x``.

    ``config``: name and options as plain data, from which ``build_model`` makes the same network. ``middle``:
    the submodule whose output a discriminator or a feature loss reads, ``middle_channels`` wide.
    ``checkpointing``: trade the memory of the blocks' activations for a second forward pass through them.

    Arguments:
        given: the ``locals()`` of the subclass's constructor, its options among them.
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

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Any = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """The network's raw prediction; what it means is its :class:`~stillhouse.core.denoiser.Denoiser`'s.

        Arguments:
            x: states, (B, *shape).
            t: times in [0, 1], (B,); those of a video (B, F) as well.
            cond: the condition of the B rows; None for none.
            s: times at which jumps end, shaped as ``t``; None: ``t``. Only for a network built for two times.
            guidance: scales, (B,); None: 1. Only for a network built with that input.

        Returns:
            The prediction, (B, *shape); for tokens logits, (B, L, vocab).
        """
        raise NotImplementedError

    def taps(
        self, names: Iterable[str], x: Tensor, t: Tensor, cond: Any = None, **extra: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and features on the way to it; see :func:`taps`.

        Arguments:
            names: of submodules, such as ``["mid", "down.0"]``.
            x: states, (B, *shape).
            t: times in [0, 1], (B,).
            cond: the condition of the B rows; None for none.
            extra: ``s`` and ``guidance``, as in :meth:`forward`.

        Returns:
            The prediction, and the submodules' outputs by name.
        """
        return taps(self, names, x, t, cond, **extra)

    def run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        """Call a block, with activation checkpointing if it is on (it has no forward mode, where nothing is
        kept anyway).

        Arguments:
            block: a submodule.
            inputs: of the block, by position.

        Returns:
            The block's output.
        """
        if self.checkpointing and torch.is_grad_enabled() and not transformed(*inputs):
            out: Tensor = self.checkpoint(block, *inputs)
        else:
            out = block(*inputs)
        return out

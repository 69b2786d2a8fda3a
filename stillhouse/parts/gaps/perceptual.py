"""A perceptual distance of the user's own: a module on pictures or latents, by the file that makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.named import PerSample, named_object
from stillhouse.io.own import failure


class Perceptual:
    """``module(a, b)``, one distance a sample, as LPIPS has it (Zhang et al., 2018, arXiv 1801.03924).

    The module is no part of the run: its weights are frozen, move to where the samples are, and are not
    saved. It is given what the teacher makes: pictures in [-1, 1], or latents of a latent teacher, which it
    decodes itself.
    """

    def __init__(self, module: Callable[[Tensor, Tensor], Tensor]):
        self.module, self.distances = module, PerSample(module, "The perceptual distance")
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (B,), differentiable in both.

        Arguments:
            a: samples, (B, *shape).
            b: what they are compared with, (B, *shape).

        Returns:
            Distances, (B,).

        Raises:
            StillhouseError: for a module that fails, or gives anything but one number a sample.
        """
        if isinstance(self.module, nn.Module):
            self.module.to(a.device)
        return self.distances(a, b)


def find_perceptual(source: Any) -> Perceptual:
    """The distance that an option names.

    Arguments:
        source: ``./file.py:NAME`` or ``module:NAME``: a module, or a class or a function without arguments
            that makes one; or, in Python, the module itself. The code runs: it is the user's own.

    Returns:
        The distance.

    Raises:
        StillhouseError: where there is no such name, or it fails, or is no module.
    """
    name = source if isinstance(source, str) else type(source).__name__
    made = _made(source) if isinstance(source, str) else source
    require(
        callable(made) and not isinstance(made, type),
        f"The perceptual distance '{name}' is a module, called with two batches, not a "
        f"{type(made).__name__}.",
    )
    return Perceptual(made)


def _made(source: str) -> Any:
    found = named_object(source, "perceptual distance")
    if isinstance(found, nn.Module) or not callable(found):
        return found
    try:
        return found()
    except Exception as error:  # the user's code may fail in any way
        raise StillhouseError(
            f"The perceptual distance '{source}' can't be made: {failure(error)}."
        ) from error

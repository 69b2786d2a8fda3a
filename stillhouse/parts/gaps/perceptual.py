"""A perceptual distance of the user's own: a module on pictures or latents, by the file that makes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stillhouse.core.errors import StillhouseError, require, required
from stillhouse.io.own import imported


class Perceptual:
    """``module(a, b)``, one distance a sample, as LPIPS has it (Zhang et al., 2018, arXiv 1801.03924).

    The module is no part of the run: its weights are frozen, move to where the samples are, and are not
    saved. It is given what the teacher makes: pictures in [-1, 1], or latents of a latent teacher, which it
    decodes itself.
    """

    def __init__(self, module: Callable[[Tensor, Tensor], Tensor]):
        self.module = module
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
            StillhouseError: for a module that gives anything but one number a sample.
        """
        if isinstance(self.module, nn.Module):
            self.module.to(a.device)
        made = self.module(a, b)
        shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        require(
            isinstance(made, Tensor) and made.dim() > 0 and made.shape[0] == made.numel() == len(a),
            f"The perceptual distance gives one number a sample, a tensor of shape ({len(a)},), not {shape}.",
        )
        return made.flatten()


def find_perceptual(source: Any) -> Perceptual:
    """The distance that an option names.

    Arguments:
        source: ``FILE.py:NAME``, a module in that file, or a class or a function without arguments that makes
            one; or, in Python, the module itself. The file's code runs: it is the user's own.

    Returns:
        The distance.

    Raises:
        StillhouseError: where there is no such file or name, or it fails, or is no module.
    """
    name = source if isinstance(source, str) else type(source).__name__
    made = _from_file(source) if isinstance(source, str) else source
    require(
        callable(made) and not isinstance(made, type),
        f"The perceptual distance '{name}' is a module, called with two batches, not a "
        f"{type(made).__name__}.",
    )
    return Perceptual(made)


def _from_file(source: str) -> Any:
    file, _, name = source.rpartition(":")
    path = Path(file)
    require(
        path.suffix == ".py" and bool(name),
        f"A perceptual distance is named as FILE.py:NAME, or is a module in Python; not '{source}'.",
    )
    require(path.is_file(), f"There is no file '{file}' to make a perceptual distance of.")
    try:
        module = imported(path, "stillhouse_perceptual")
        found = getattr(module, name, None)
        made = (
            found()
            if isinstance(found, type) or not isinstance(found, nn.Module) and callable(found)
            else found
        )
    except Exception as error:  # the user's file may fail in any way
        raise StillhouseError(
            f"The perceptual distance '{source}' can't be made: {type(error).__name__}: {error}."
        ) from error
    return required(made, f"There is no '{name}' in '{file}' to be a perceptual distance.")

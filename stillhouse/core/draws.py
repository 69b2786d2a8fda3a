"""Every random number of a run: derived from the seed, the step and a name, never from global state.

A draw is made for the whole global batch and each process keeps its own rows. So one process and eight see
the same numbers, a resumed run sees the numbers it would have seen, and nothing about randomness has to be
stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def seed_of(*parts: object) -> int:
    """A 63-bit seed from anything that prints the same every time."""
    return (
        int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "little")
        >> 1
    )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Randomness that knows no generator (dropout's) starts from ``seed`` inside, and goes on outside as if
    nothing had been drawn.

    Twenty-five times cheaper than ``torch.random.fork_rng`` with ``torch.manual_seed``, which notes where it
    was called from for devices that are not there.

    Arguments:
        seed: 0 … 2^63 - 1.
        device: whose generator is meant, besides the CPU's.

    Returns:
        A context, in which the generators are seeded.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


class Draws:
    """A named stream of random numbers for ``rows`` samples, this process holding the part ``rank`` of
    ``world``.

    The same (seed, name parts) give the same numbers whatever the number of processes.
    """

    def __init__(
        self, rows: int, *name: object, rank: int = 0, world: int = 1, device: torch.device | str = "cpu"
    ):
        self.rows, self.rank, self.world, self.device = rows, rank, world, torch.device(device)
        self.name = name
        self.generator = torch.Generator(self.device).manual_seed(seed_of(*name))

    def stream(self, *purpose: object) -> Draws:
        """Another stream for the same rows, which takes nothing from this one."""
        return Draws(self.rows, *self.name, *purpose, rank=self.rank, world=self.world, device=self.device)

    def _mine(self, everyone: Tensor) -> Tensor:
        return everyone[self.rank * self.rows : (self.rank + 1) * self.rows]

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers.

        Arguments:
            shape: of one row.
            dtype: of the numbers.

        Returns:
            Numbers, (rows, *shape).
        """
        return self._mine(
            torch.randn(
                self.rows * self.world, *shape, generator=self.generator, device=self.device, dtype=dtype
            )
        )

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard normal numbers of the shape of ``x``, whose first dimension is ``rows``."""
        return self.normal(*x.shape[1:], dtype=x.dtype)

    def uniform(
        self, low: float = 0.0, high: float = 1.0, *shape: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Uniform numbers in ``[low, high)`` of shape ``(rows, *shape)``.

        Arguments:
            low: the least number.
            high: above the largest one.
            shape: of one row.
            dtype: of the numbers.

        Returns:
            Numbers, (rows, *shape).
        """
        drawn = torch.rand(
            self.rows * self.world, *shape, generator=self.generator, device=self.device, dtype=dtype
        )
        return low + (high - low) * self._mine(drawn)

    def integers(self, low: int, high: int) -> Tensor:
        """Integers in ``low … high - 1`` of shape ``(rows,)``.

        Arguments:
            low: the least one.
            high: above the largest one.

        Returns:
            Integers of int64, (rows,).
        """
        return self._mine(
            torch.randint(low, high, (self.rows * self.world,), generator=self.generator, device=self.device)
        )

    def categorical(self, weights: Tensor) -> Tensor:
        """Indices of shape ``(rows,)`` drawn with probability proportional to ``weights``."""
        return self._mine(
            torch.multinomial(
                weights.to(self.device), self.rows * self.world, replacement=True, generator=self.generator
            )
        )

    def one_integer(self, low: int, high: int) -> int:
        """One integer in ``low … high - 1``, the same for every sample and every process.

        Arguments:
            low: the least one.
            high: above the largest one.

        Returns:
            The integer.
        """
        return int(torch.randint(low, high, (1,), generator=self.generator, device=self.device))

    def one_uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number in ``[low, high)``, the same for every sample and every process.

        Arguments:
            low: the least number.
            high: above the largest one.

        Returns:
            The number.
        """
        return low + (high - low) * float(torch.rand(1, generator=self.generator, device=self.device))

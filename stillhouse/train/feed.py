"""What an iteration's losses are given: micro-batches of the data, and rows of the bank."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from stillhouse.core.conditions import pick
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.train import bank
from stillhouse.train.batch import Batch
from stillhouse.train.data import Data, Several
from stillhouse.train.engine import Engine
from stillhouse.train.method import Method
from stillhouse.train.recipe import Recipe
from stillhouse.train.stage import locate


class Feed:
    """The batches of a run. Everything in them follows from (seed, step, name), so that nothing of it is
    stored.

    Arguments:
        method: whose bank is kept.
        data: where rows come from.
        recipe: batch, accumulation and seed.
        engine: processes and the device.
        shape: of one sample, where the data has none.
        folder: of the run, below which the bank is written; None: it stays in memory.
        show: a progress bar while the bank is filled.
    """

    def __init__(
        self,
        method: Method,
        data: Data,
        recipe: Recipe,
        engine: Engine,
        shape: tuple[int, ...],
        folder: Path | None,
        *,
        show: bool = True,
    ):
        parts = recipe.grad_accum * engine.world
        require(
            recipe.batch % parts == 0,
            f"A batch of {recipe.batch} can't be split over {engine.world} process(es) and "
            f"{recipe.grad_accum} micro-batch(es).",
        )
        self.rows = recipe.batch // recipe.grad_accum // engine.world
        self.method, self.recipe, self.engine = method, recipe, engine
        self.data = data if isinstance(data, Several) else Several(data)
        self.shape, self.folder, self.show = shape, folder / "bank" if folder else None, show
        self.bank: dict[str, Tensor] | None = None
        self.in_parts = False  # make a shard of the bank in micro-batches: where a whole one is too large

    def stream(self, step: int, part: int, name: str) -> Draws:
        """The random numbers of one purpose in one micro-batch: its rows of those of the whole batch, however
        that is split.

        Arguments:
            step: iteration of the run.
            part: number of the micro-batch.
            name: the purpose.

        Returns:
            A source of randomness for the micro-batch's rows.
        """
        e, parts = self.engine, self.recipe.grad_accum
        rank, world = part * e.world + e.rank, parts * e.world
        return Draws(self.rows, self.recipe.seed, step, name, rank=rank, world=world, device=e.device)

    def batch(self, step: int, part: int, turns: tuple[str, ...]) -> Batch:
        """One micro-batch of an iteration.

        Arguments:
            step: iteration of the run.
            part: number of the micro-batch.
            turns: the players that move in this iteration, in order.

        Returns:
            What a loss is given.
        """
        start = step * self.recipe.batch
        x, cond = self.data.rows(start, self.stream(step, part, "data"))
        drawn = None if self.bank is None else (lambda draws: bank.draw(self.bank or {}, draws))
        # pictures of several sizes come a size a batch
        shape = self.shape if x is None else tuple(x.shape[1:])

        def stream(name: str) -> Draws:
            return self.stream(step, part, name)

        return Batch(
            step,
            self.rows,
            shape,
            x,
            cond,
            turns,
            stream,
            drawn,
            within=locate(self.method.plan, step)[1],
            parts=lambda name: self.data.parts[name].rows(start, stream(f"data {name}")),
            views=lambda name: self.data.view(name, x, start, stream(f"view {name}")),
        )

    # -- the bank ----------------------------------------------------------------------------------
    def open_bank(self, start: int) -> None:
        """The bank as it stands before iteration ``start``."""
        if self.method.bank_size and not self._due(start):
            every = self.method.bank_refresh
            self._fill(start // every if every else 0)

    def refresh(self, step: int) -> None:
        """Fill the bank anew where iteration ``step`` begins with that."""
        if self.method.bank_size and self._due(step):
            self._fill(step // self.method.bank_refresh)

    def forget(self, step: int) -> None:
        """Delete the banks that no run going on from ``step`` or later reads."""
        every = self.method.bank_refresh
        for old in self.folder.glob("[0-9]" * 5) if self.folder and every else ():
            if old.is_dir() and int(old.name) < step // every:
                shutil.rmtree(old, ignore_errors=True)

    def _due(self, step: int) -> bool:
        every = self.method.bank_refresh
        return bool(every) and step > 0 and step % every == 0

    def _fill(self, generation: int) -> None:
        folder = (
            self.folder / f"{generation:05d}" if self.folder and self.method.bank_refresh else self.folder
        )
        self.bank = bank.fill(
            self.method.bank_size,
            lambda shard, n, made: self._bank_rows(generation, shard, n, made),
            folder,
            show=self.show and self.engine.main,
            teacher=self.method.teacher,
        )

    def _bank_rows(
        self, generation: int, shard: int, count: int, made: Callable[[int], object]
    ) -> dict[str, Tensor]:
        again = [f"refresh {generation}"] if generation else []
        seed, device = self.recipe.seed, self.engine.device
        _, cond = self.data.rows(
            shard * bank.SHARD, Draws(count, seed, "bank data", *again, shard, device=device)
        )
        part = max(n for n in range(1, count + 1) if count % n == 0 and (n <= self.rows or not self.in_parts))
        parts = []
        for number in range(count // part):
            draws = Draws(part, seed, "bank", *again, shard, rank=number, world=count // part, device=device)
            mine = pick(cond, slice(number * part, (number + 1) * part))
            with torch.no_grad(), self.engine.autocast():
                parts.append({k: v.cpu() for k, v in self.method.bank_rows(draws, mine).items()})
            made(part)
        return {k: torch.cat([rows[k] for rows in parts]) for k in parts[0]}

"""The training loop. It depends on :class:`Method`, and on no concrete one."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from stillhouse.adapters import adapted, checkpointed
from stillhouse.core.denoiser import Denoiser, ExactDenoiser, Wrapped, count_calls
from stillhouse.core.draws import seed_of, seeded
from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.precision import held_in
from stillhouse.core.spellings import current_modules, current_run
from stillhouse.core.structure import checked
from stillhouse.io.own import is_own
from stillhouse.model import Model, Network
from stillhouse.train import checkpoint
from stillhouse.train.batch import Batch
from stillhouse.train.data import Data
from stillhouse.train.ema import EMA, decay_at
from stillhouse.train.engine import Engine
from stillhouse.train.feed import Feed
from stillhouse.train.finite import FiniteGuard
from stillhouse.train.guards import fitting
from stillhouse.train.health import Probe
from stillhouse.train.identity import (
    data_identity,
    network_identity,
    recipe_identity,
    same,
    weights_identity,
)
from stillhouse.train.journal import Journal
from stillhouse.train.method import Method, copy_weights, option_defaults
from stillhouse.train.player import Player, settings
from stillhouse.train.recipe import Recipe
from stillhouse.train.run_folder import is_free
from stillhouse.train.stage import locate

STATE = {
    "run": dict,
    "stage": int,
    "optimisers": dict,
    "scale?": float,
}  # of a checkpoint, what the loop keeps


class Interrupted(StillhouseError):
    """The run was stopped by its user; everything is saved."""


class Trainer:
    """One run, in which a method makes a student of a teacher.

    Arguments:
        method: losses, players and stages.
        teacher: frozen.
        data: of the teacher's shape.
        recipe: length, batch, precision, averages, what is kept and shown.
        student: to start from; None: the method's own choice.
        out: folder of the run; None: nothing is kept on disk.
        quiet: without a progress bar.
        device: ``cpu``; empty: a GPU if there is one.
        on_step: called as ``on_step(trainer, step)`` after each iteration, before its checkpoint.
        on_grid: called as ``on_grid(step, samples)`` with each sample grid.
        info: plain data that the product carries beside what :meth:`Method.describe` gives.
    """

    def __init__(
        self,
        method: Method,
        teacher: Model,
        data: Data,
        recipe: Recipe,
        *,
        student: Denoiser | None = None,
        out: str | Path | None = None,
        quiet: bool = False,
        device: str = "",
        on_step: Callable[[Trainer, int], None] | None = None,
        on_grid: Callable[[int, Tensor], None] | None = None,
        info: Mapping[str, Any] | None = None,
    ):
        # the teacher must be the same when the run goes on
        closed = isinstance(teacher.denoiser, ExactDenoiser | Wrapped)
        own = teacher.pipeline is None and teacher.tokenizer is None and is_own(teacher.denoiser.net)
        taught = out and not closed and method.requires("teacher")
        self.digest = weights_identity(teacher.denoiser.net, own) if taught else ""
        if recipe.lora:
            require(
                student is None,
                "With adapters the student is one on the teacher's weights; give no network of your own.",
            )
            alpha = recipe.lora_alpha or None
            base = adapted(
                teacher.denoiser, recipe.lora, alpha=alpha, targets=recipe.lora_targets, seed=recipe.seed
            )
            teacher = replace(teacher, denoiser=base)
        fitting(method, teacher, data, student)
        self.method, self.teacher, self.data, self.recipe = method, teacher, data, recipe
        self.out, self.quiet, self.on_step, self.on_grid = Path(out) if out else None, quiet, on_step, on_grid
        self.info = dict(info or {})
        scaled = held_in(teacher.denoiser.net) == torch.float16
        self.engine = Engine(recipe.precision, device, scaled=scaled)
        shape = tuple(teacher.shape)
        self.feed = Feed(method, data, recipe, self.engine, shape, self.out, show=not quiet)
        self.feed.in_parts = teacher.pipeline is not None
        method.stages(recipe.steps)  # too few iterations are refused before anything is made
        with torch.random.fork_rng(devices=[]):  # torch's initialisers take no generator: seed the global one
            torch.manual_seed(seed_of(recipe.seed, "weights"))
            student = student or method.make_student(teacher.denoiser)
            conditional = data.examples(1) is not None
            method.setup(teacher.denoiser, student, shape, conditional, recipe.steps, teacher.codec)
        for part in (method.student, teacher.denoiser):
            part.to(self.engine.device)
        self.modules: dict[str, nn.Module] = dict(method.modules())
        for module in self.modules.values():
            module.to(self.engine.device)
        # a stage begins with a young average, as the run does
        kept: dict[str, nn.Module] = {} if student is None else {"average": student}
        kept |= {f"average.{n}": m for n, m in method.companions.items()}
        self.averages = {
            name: EMA(method.copy_of(source), source, lambda step: decay_at(recipe, self._stage(step)[1]))
            for name, source in (kept.items() if recipe.ema else ())
        }
        method.averaged = {id(ema.source): ema.module for ema in self.averages.values()}
        self.average = self.averages.get("average")
        self.modules |= {name: slow.module for name, slow in self.averages.items()}
        self.players = {
            name: Player(name, module, settings(name, method.optim.get(name), recipe))
            for name, module in method.players.items()
        }
        unknown_players = set(recipe.lr) - set(self.players) - set(method.optim)  # or one left out by options
        require(
            not unknown_players,
            f"No player '{', '.join(sorted(unknown_players))}' to set a rate for; this method has "
            f"{', '.join(self.players)}.",
        )
        self._switches(method.student)
        self.journal = Journal(None, recipe.steps, show=False)  # silent until the run begins
        self.stopping = False
        product = self.product()
        if isinstance(product, Model):
            product.require_savable()  # now, and not after hours of training
        self.guard = FiniteGuard(
            skip=recipe.nonfinite == "skip",
            scaled=self.engine.scaler is not None,
            folder=self.out / "checkpoints" if self.out else None,
            begun=checkpoint.named_tensors(self.modules),
        )
        self.passes: dict[str, float] = {}  # by player, counted in its first turn of this process

    # -- a run -------------------------------------------------------------------------------------
    def fit(self, resume: bool = False) -> Model:
        """Train to the end, or from the newest checkpoint to the end.

        Returns:
            The method's product: a model, of a few methods a :class:`~stillhouse.model.Network`.
        """
        start = self._open(resume)
        previous = self._catch_signals()
        try:
            self.prepare(start)
            for step in range(start, self.recipe.steps):
                self.iterate(step)
                last = step + 1 == self.recipe.steps
                if last:
                    self.guard.require_moved()
                due = self.recipe.save_every and (step + 1) % self.recipe.save_every == 0
                stopping = self.stopping  # looked at once: a signal may come while the checkpoint is written
                if self.on_step:  # before the checkpoint: a kill between the two would leave it out
                    self.on_step(self, step)
                if self.out and (last or due or stopping):
                    self.save(step + 1)
                if stopping and not last:
                    raise Interrupted(
                        f"Stopped after step {step + 1} of {self.recipe.steps}, all saved."
                        if self.out
                        else "Stopped."
                    )
        finally:
            self.journal.close()
            for name, handler in previous.items():
                signal.signal(name, handler)
        if not self.out:
            self.guard.require_finite(checkpoint.named_tensors(self.modules), self.recipe.steps)
        product = self.product()
        if self.out and self.engine.main:
            product.save_pretrained(self.out / "model")
        return cast(Model, product)  # nearly always; every caller would have to ask otherwise

    def prepare(self, start: int = 0) -> None:
        """What the first iteration needs: the probe, the journal, the bank."""
        self.probe = Probe(self.teacher, self.data, self.recipe.seed)
        self.feed.open_bank(start)  # first: it has a bar of its own
        self.journal = Journal(
            self.out if self.engine.main else None,
            self.recipe.steps,
            start,
            title=type(self.method).__name__.lower(),
            show=self.engine.main and not self.quiet,
            tensorboard=self.recipe.tensorboard,
        )

    def iterate(self, step: int) -> None:
        """Iteration ``step``: every player whose turn it is moves once."""
        began = time.perf_counter()
        stage, within = self._stage(step)
        if stage != self.method.stage:
            self.method.enter(stage)
            for player in self.players.values():
                player.restart()
            for slow in self.averages.values():
                copy_weights(slow.module, slow.source)  # the average is of this stage's student
        self.feed.refresh(step)
        turns = tuple(self.method.turns(step))
        batches = [self.feed.batch(step, part, turns) for part in range(self.recipe.grad_accum)]
        shown: dict[str, float] = {}
        logged: dict[str, float] = {}
        new = [name for name in turns if name not in self.passes]
        for name in turns:
            player = self.players[name]
            with seeded(seed_of(self.recipe.seed, self.engine.rank, step, name), self.engine.device):
                turn = self._counted if name in new else self._turn
                value = turn(player, batches, step)
            logged[f"{name}/lr"] = player.schedule(within, self.method.current.length)
            length = player.gradient_norm()
            norm = float(length)
            if self.guard.allows(name, step, value, norm, self.journal.message):
                player.clip(length)
                player.optimiser.step()
                for slow in [*self.method.emas.values(), *self.averages.values()]:
                    if any(slow.source is m for m in self.method.players[name]):
                        slow.follow(step)
            player.optimiser.zero_grad(set_to_none=True)
            shown[name] = value
            logged |= {f"{name}/loss": value, f"{name}/gradient": norm}
        if step % self.recipe.log_every == 0 or step + 1 == self.recipe.steps:
            for batch in batches[-1:]:
                logged |= batch.logs
            self.journal.note(
                step,
                **{k: self.engine.mean(v) for k, v in logged.items()},
                seconds=time.perf_counter() - began,
            )
        if new:
            counts = ", ".join(f"{name} {self.passes[name]:g}" for name in new)
            self.journal.message(f"passes    forward through a network, for each micro-batch: {counts}")
        self._look(step)
        self.journal.tick(shown)

    def _counted(self, player: Player, batches: list[Batch], step: int) -> float:
        """:meth:`_turn`, with its evaluations of networks counted: how many a player's turn takes is a
        matter of its loss."""
        every = [m for module in (*self.modules.values(), self.teacher.denoiser) for m in module.modules()]
        with count_calls(*(m for m in every if isinstance(m, Denoiser))) as calls:
            value = self._turn(player, batches, step)
        self.passes[player.name] = calls() / len(batches)
        return value

    def _turn(self, player: Player, batches: list[Batch], step: int) -> float:
        """Loss and gradients of one player over the iteration's micro-batches."""
        total = 0.0
        for other in self.players.values():
            other.learn(other is player)
        for batch in batches:
            with self.engine.autocast(), torch.enable_grad():
                loss = self.method.loss(player.name, batch)
            self.engine.backward(loss / len(batches))
            total += float(loss.detach()) / len(batches)
        player.learn(False)
        self.engine.average_gradients(player.parameters)
        if self.engine.scaler is not None:
            self._unscale(player)
        return self.engine.mean(total)

    # -- pieces ------------------------------------------------------------------------------------
    def _unscale(self, player: Player) -> None:
        """Half precision: bring the gradients back to true size, and show the scaler whether they
        overflowed."""
        scaler = self.engine.scaler
        assert scaler is not None
        scaler.unscale_(player.optimiser)
        norm = player.gradient_norm()
        scaler.update(scaler.get_scale() * (1.0 if torch.isfinite(norm) else scaler.get_backoff_factor()))

    def _stage(self, step: int) -> tuple[int, int]:
        """The stage that ``step`` is in, and its number within it."""
        return locate(self.method.plan, step)

    def _look(self, step: int) -> None:
        """Sample a little with fixed noise: is the student collapsing? Show a grid if one is due."""
        every = max(1, self.recipe.steps // 20)
        grid = bool(self.on_grid and self.recipe.grid_every and (step + 1) % self.recipe.grid_every == 0)
        if not self.engine.main or not (grid or (step + 1) % every == 0):
            return
        made = self.product()
        if not isinstance(made, Model):
            return  # a network that makes no samples
        samples = self.probe.samples(made)
        health, warning = self.probe.assess(samples)
        self.journal.note(step, **health)
        if warning:
            self.journal.message(f"Step {step + 1}: {warning}")
        if grid and self.on_grid:
            self.on_grid(step + 1, samples)

    def _switches(self, student: Denoiser) -> None:
        """Run-wide switches, which are no method's business."""
        inner = [m for m in student.modules() if isinstance(m, Denoiser) and not isinstance(m, ExactDenoiser)]
        for denoiser in inner if self.recipe.checkpoint_activations else []:
            checkpointed(denoiser)
        for denoiser in inner if self.recipe.compile else []:
            denoiser.net.compile()

    def product(self) -> Model | Network:
        """What comes out of the run as it stands: the averaged weights if the recipe averages."""
        product = self.method.product(self.teacher)
        return replace(product, info=product.info | self.info)

    # -- stop and go on ----------------------------------------------------------------------------
    def save(self, step: int) -> None:
        """Write the checkpoint after ``step`` iterations; raises :class:`StillhouseError` for a state that is
        not finite."""
        if self.engine.main:
            assert self.out
            tensors, numbers = checkpoint.optimisers_of(self.players)
            state = {"stage": self.method.stage, "optimisers": numbers, "run": self._fingerprint()}
            if self.engine.scaler is not None:
                state["scale"] = self.engine.scaler.get_scale()
            files = {"weights": checkpoint.weights_of(self.modules), "optimisers": tensors}
            for part in files.values():
                self.guard.require_finite(part, step)
            checkpoint.write(self.out / "checkpoints", step, files, state, self.recipe.keep_checkpoints)
            self.feed.forget(checkpoint.oldest(self.out / "checkpoints"))
        self.engine.wait()

    def _open(self, resume: bool) -> int:
        """Make or reopen the run's folder; the step to go on from."""
        if not self.out:
            return 0
        require(not self.out.exists() or self.out.is_dir(), f"'{self.out}' is a file, not a folder.")
        require(
            resume or is_free(self.out),
            f"The folder '{self.out}' is not empty; resume the run in it or give another name.",
        )
        self.out.mkdir(parents=True, exist_ok=True)
        found = checkpoint.newest(self.out / "checkpoints") if resume else None
        self.engine.wait()
        if found is None:
            return 0
        state, files = found
        checked(state, STATE, f"The checkpoint of the run in '{self.out}' can't be read")
        checked(files, {"weights": dict, "optimisers": dict}, f"The checkpoint in '{self.out}' can't be read")
        mine = self._fingerprint()
        noted = current_run(state["run"], mine, _as_json(option_defaults(self.method)))
        require(
            noted.get("teacher_weights", self.digest) == self.digest,
            f"The teacher of the run in '{self.out}' had other weights than the one given now; code of "
            "one's own must make the same network each time, from saved weights or under a fixed seed.",
        )
        # of an entry that a checkpoint of before does not have its default was meant
        meant = {**_as_json(recipe_identity(Recipe())), **{k: mine[k] for k in ("student", "data")}, **noted}
        changed = [k for k in mine if k != "teacher_weights" and not same(mine[k], meant.get(k))]
        require(
            not changed,
            f"The run in '{self.out}' was started with other settings ({', '.join(changed)}); give the "
            "same ones to resume it.",
        )
        checkpoint.restore_weights(self.modules, current_modules(files["weights"]))
        self.method.stage = state["stage"]
        checkpoint.restore_optimisers(self.players, files["optimisers"], state["optimisers"])
        if self.engine.scaler is not None and "scale" in state:
            self.engine.scaler.update(state["scale"])
        step: int = state["step"]
        return step

    def _fingerprint(self) -> dict[str, Any]:
        """What must not change between a run and its continuation."""
        made = {
            **recipe_identity(self.recipe),
            "method": self.method.describe(),
            "student": network_identity(self.method.student),
            "data": data_identity(self.feed.data),
            **({"teacher_weights": self.digest} if self.digest else {}),
        }
        return _as_json(made)

    def _catch_signals(self) -> dict[int, Any]:
        """Let Ctrl-C and a polite kill end the run after the step in hand. Only the main thread may."""
        previous: dict[int, Any] = {}

        def stop(*_: object) -> None:
            self.stopping = True

        try:
            for name in (signal.SIGINT, signal.SIGTERM):
                previous[name] = signal.signal(name, stop)
        except ValueError:
            return previous
        return previous


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """Plain data as a checkpoint gives them back."""
    made: dict[str, Any] = json.loads(json.dumps(values))
    return made

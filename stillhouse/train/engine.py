"""The distributed engine: what we use of `accelerate`, in one place.

Gradients are averaged here after a player's backward pass, in one flat buffer, and not by wrapping modules: a
method calls its networks any number of times, with and without gradient, through forward mode and through
each other, which wrappers do not bear.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed

from stillhouse.core.errors import require
from stillhouse.core.processes import require_processes

HOLDER = "torch.distributed.nn.functional"


def leave() -> None:
    """End the process group: its threads, if they outlive the interpreter, abort a process that has done all
    its work.

    A group lives as long as anything refers to it, destroyed or not, and its threads with it.
    ``torch.distributed.nn.functional``, which every optimiser imports, keeps the group of that moment as the
    default value of its functions.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    group = distributed.group.WORLD
    for function in vars(sys.modules[HOLDER]).values() if HOLDER in sys.modules else ():
        if isinstance(function, FunctionType) and function.__defaults__:
            function.__defaults__ = tuple(None if v is group else v for v in function.__defaults__)
    distributed.destroy_process_group()


class Engine:
    """Processes, devices and precision of a run.

    Arguments:
        precision: ``fp32``, ``bf16`` or ``fp16``, of the networks' computation.
        device: ``cpu``; empty: a GPU if there is one.
        scaled: losses are scaled whatever the precision, for gradients that pass through a float16 network.
    """

    def __init__(self, precision: str = "fp32", device: str = "", *, scaled: bool = False):
        require_processes()
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        require(
            not (precision == "fp16" and on_cpu),
            "Half precision (fp16) needs a GPU; use bf16 or fp32 on a CPU.",
        )
        # precision is a run's, accelerate's is the whole process's: two runs of one notebook may differ
        self.accelerator = Accelerator(cpu=on_cpu)
        self.dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        atexit.unregister(leave)  # one Engine or many, the process leaves once
        atexit.register(leave)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        scaled = scaled or precision == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type) if scaled else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which networks compute in the run's precision."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss``, scaled where half precision needs it."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Make every process's gradients their mean."""
        if self.world == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        for dtype in {g.dtype for g in grads}:
            these = [g for g in grads if g.dtype == dtype]
            flat = self.accelerator.reduce(torch.cat([g.flatten() for g in these]), "mean")
            for g, mine in zip(these, flat.split([g.numel() for g in these]), strict=True):
                g.copy_(mine.view_as(g))

    def mean(self, value: float) -> float:
        """A number's mean over the processes."""
        if self.world == 1:
            return value
        return float(
            self.accelerator.reduce(torch.tensor(value, dtype=torch.float64, device=self.device), "mean")
        )

    def wait(self) -> None:
        """Wait for every process."""
        self.accelerator.wait_for_everyone()

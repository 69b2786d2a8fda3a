"""How many processes make a run, and which of them this one is, from what launchers leave in the environment;
without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping

from stillhouse.core.errors import require

# of torchrun and accelerate, then of mpirun, in the order in which accelerate reads them
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def process_count(environment: Mapping[str, str] = os.environ) -> int:
    """Processes of the run, at least 1."""
    return next((int(environment[name]) for name in SIZES if environment.get(name, "").isdigit()), 1)


def process_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Number of this process, 0 for the one that prints and writes."""
    return next((int(environment[name]) for name in RANKS if environment.get(name, "").isdigit()), 0)


def require_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a run that was to have several processes and has one.

    On a CPU, ``accelerate launch --num_processes N`` without an mpirun host file starts a single process. It
    only leaves the address at which the others would meet.

    Arguments:
        environment: of the process.

    Raises:
        StillhouseError: where accelerate launched this process for several, and there is no number of them.
    """
    launched, several = "ACCELERATE_MIXED_PRECISION" in environment, "MASTER_ADDR" in environment
    require(
        not (launched and several) or any(name in environment for name in SIZES),
        "accelerate launch was asked for several processes and starts only one of them on a CPU; start "
        "them with "
        "torchrun --nproc_per_node N -m -- stillhouse …, or leave --num_processes away (and unset "
        "MASTER_ADDR).",
    )

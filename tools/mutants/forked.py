"""Tests in forked processes: torch, pytest and the other libraries are imported once, and each run of tests
is a fork of that process, in which Stillhouse is imported anew."""

from __future__ import annotations

import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LIBRARIES = (
    "torch numpy scipy.stats sklearn.linear_model sklearn.datasets safetensors.torch accelerate tqdm yaml "
    "PIL.Image hypothesis.strategies pytest_timeout matplotlib.pyplot diffusers transformers peft"
).split()
QUIET = [
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "pytest_timeout",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
]
COMPILED = Path("build/mutants/pycache")
TIMED_OUT = -1


def prepare(root: Path, scratch: Path) -> None:
    """Import what the forks share, and lead imports of Stillhouse to ``root``."""
    os.chdir(root)
    os.environ["PYTHONPATH"] = str(root)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(scratch / "hypothesis")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # looking for plugins takes a second, each time
    sys.path[:] = [str(root), *(p for p in sys.path if p and not (Path(p) / "stillhouse").is_dir())]
    import torch
    from hypothesis import HealthCheck, settings

    torch.set_num_threads(1)
    settings.register_profile(
        "mutants", database=None, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
    )
    settings.load_profile("mutants")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that forks end with it, too
    share(["pytest_timeout"])
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(root / COMPILED)


def share(names: Iterable[str]) -> None:
    """Import libraries that the forks need, so that they don't each do it."""
    prefix, sys.pycache_prefix = sys.pycache_prefix, None
    for name in names:
        importlib.import_module(name)
    sys.pycache_prefix = prefix
    gc.collect()
    gc.freeze()  # a fork's collections pass over what is here already


class Chosen:
    """A plugin of pytest: the named tests alone, in their order."""

    def __init__(self, tests: Iterable[str]):
        self.place = {test: n for n, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.place), key=lambda item: self.place[item.nodeid]
        )


class Mutated(importlib.abc.MetaPathFinder):
    """A finder that gives one module the source of a mutant."""

    def __init__(self, root: Path, file: str, source: str):
        name = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        self.name, self.path, self.source = name, str(root / file), source

    def find_spec(
        self, name: str, path: Any = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=_Loader(self))


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the mutant's source, and neither reads nor writes a cache of it."""

    def __init__(self, mutated: Mutated):
        super().__init__(mutated.name, mutated.path)
        self.mutated = mutated

    def get_code(self, fullname: str) -> types.CodeType:
        return compile(self.mutated.source, self.mutated.path, "exec", dont_inherit=True)


def run_tests(tests: Iterable[str], scratch: Path, plugins: Iterable[object] = ()) -> int:
    """pytest on tests by their ids, in their order, to the first failure.

    Arguments:
        tests: ids, ``FILE::NAME``.
        scratch: a folder of this run's own.
        plugins: further ones.

    Returns:
        pytest's exit status: 0 where all pass.
    """
    tests = list(tests)
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    words = [*QUIET, "-x", f"--basetemp={scratch / 'tmp'}", *files]
    return int(pytest.main(words, plugins=[Chosen(tests), *plugins]))


@dataclass
class Job:
    """What a fork does. ``key``: names it; ``work``: gives its exit status; ``limit``: seconds it has."""

    key: Any
    work: Callable[[Path], int]
    limit: float


def run_all(jobs: Iterable[Job], at_once: int, scratch: Path) -> Iterator[tuple[Job, int, Path]]:
    """Run jobs in forks, several at once.

    Arguments:
        jobs: an iterable that is read as places become free.
        at_once: how many.
        scratch: a folder in which each fork has its own.

    Returns:
        An iterator of each job as it ends, its exit status (that of a signal is negative,
        :data:`TIMED_OUT` where its time was over) and its folder, with what it printed in ``output``.
    """
    waiting, count = iter(jobs), 0
    running: dict[int, tuple[Job, Path, float]] = {}  # by the fork's number: when its time is over
    try:
        while True:
            while len(running) < at_once and (job := next(waiting, None)) is not None:
                folder = scratch / f"job{count}"
                folder.mkdir(parents=True)
                running[_fork(job, folder)] = (job, folder, time.monotonic() + job.limit)
                count += 1
            if not running:
                return
            for pid, (job, folder, end) in list(running.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                over = not done and time.monotonic() > end
                if over:
                    _stop(pid)
                if done or over:
                    del running[pid]
                    yield job, TIMED_OUT if over else os.waitstatus_to_exitcode(status), folder
            time.sleep(0.02)
    finally:
        for pid in running:
            _stop(pid)


def _stop(pid: int) -> None:
    """End a fork and what it started."""
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _fork(job: Job, folder: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = job.work(folder)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)

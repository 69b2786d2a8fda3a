"""One process or two: the same rows, the same random numbers, the same losses. Run by itself, this file is
what each process runs."""

import atexit
import json
import os
import subprocess
import sys

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow
from stillhouse.opening import load
from stillhouse.systems.registry import find
from stillhouse.train.data import InfiniteData, NoData, TensorData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

RUNS = {
    "dmd2": ({"steps": 2, "fake_per_student": 2}, {}),
    "tbcm": ({"levels": 4, "warmup": 2, "high_guidance": 3.0}, {"grad_accum": 2}),
    "progressive": ({"teacher_steps": 4}, {}),
    "slimflow": ({"pairs": 16, "pair_steps": 4}, {}),
}


def work(folder):
    """Each method in turn; the main process writes down losses and what the student samples."""
    torch.set_num_threads(1)
    world = get_world("mixture")
    for slug, (options, recipe) in RUNS.items():
        method = find(slug)(**options)
        teacher = load(world.network(Flow(), width=16, depth=1), shape=world.shape, classes=world.classes)
        data = (
            InfiniteData(world, labelled=True)
            if method.requires("data")
            else NoData(world.shape, world.classes)
        )
        if slug == "progressive":
            data = TensorData(*world.sample_data(13, Draws(13, "finite")), world.classes)
        settings = Recipe(steps=4, batch=8, log_every=1, save_every=2, **recipe)
        trainer = Trainer(method, teacher, data, settings, out=f"{folder}/{slug}", quiet=True, device="cpu")
        student = trainer.fit()
        if trainer.engine.main:
            rows = [
                {k: v for k, v in r.items() if k.endswith(("/loss", "/gradient"))}
                for r in trainer.journal.rows
                if "seconds" in r
            ]
            told = {
                "world": trainer.engine.world,
                "rows": rows,
                "samples": student.sample(4, seed=1).tolist(),
            }
            with open(f"{folder}/{slug}.json", "w") as file:
                json.dump(told, file)
        trainer.engine.wait()


def write_threads(folder):
    """At the very end of a process: the threads that the kernel still runs for it, by name."""
    tasks = os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else []
    names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in tasks]
    with open(f"{folder}/threads-{os.environ['RANK']}.json", "w") as file:
        json.dump(names, file)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return [tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")]


@pytest.fixture(scope="module")
def told(folders):
    """What runs in one process and in two wrote down."""
    work(str(folders[0]))
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        __file__,
        str(folders[1]),
    ]
    done = subprocess.run(
        launch,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [{slug: json.loads((folder / f"{slug}.json").read_text()) for slug in RUNS} for folder in folders]


@pytest.mark.parametrize("slug", RUNS)
def test_two_processes_lose_what_one_does(slug, told):
    one, two = (t[slug] for t in told)
    assert (one["world"], two["world"]) == (1, 2) and len(one["rows"]) == len(two["rows"]) == 4
    for mine, its in zip(one["rows"], two["rows"], strict=True):
        assert mine.keys() == its.keys() and len(mine) >= 2
        for name in mine:
            assert its[name] == pytest.approx(mine[name], rel=1e-5, abs=1e-5), name
    assert torch.allclose(torch.tensor(one["samples"]), torch.tensor(two["samples"]), atol=1e-4)


def test_no_thread_of_the_group_outlives_it(told, folders):
    """One that does may abort the interpreter as it ends, which a scheduler takes for a failed run."""
    names = [json.loads((folders[1] / f"threads-{rank}.json").read_text()) for rank in (0, 1)]
    assert not [name for one in names for name in one if "gloo" in name]


if __name__ == "__main__":
    atexit.register(write_threads, sys.argv[1])  # first, so that it is last
    work(sys.argv[1])

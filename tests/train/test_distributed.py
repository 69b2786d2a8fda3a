"""The same global batch gives the same losses with one process and with two (gloo)."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, torch
torch.set_num_threads(1)
from stillhouse.model import load
from stillhouse.process import VE, Flow
from stillhouse.systems import find
from stillhouse.train.data import Endless
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

found = {}
for slug, options, process, kind in (
    ("cm", {}, VE(), "edm"),
    ("dmd2", {"steps": 2, "fake_per_student": 2}, Flow(), "velocity"),
    ("tbcm", {"levels": 4}, Flow(), "velocity"),
):
    world = get_world("mixture")
    teacher = load(world.network(process, kind=kind, width=16, depth=1), shape=world.shape, classes=8)
    run = Trainer(find(slug)(**options), teacher, Endless(world, labelled=True), Recipe(steps=6, batch=8, log_every=1), quiet=True)
    run.fit()
    found[slug] = [{k: v for k, v in row.items() if k.endswith("/loss")} for row in run.journal.rows if "seconds" in row]
if run.engine.main:
    open(sys.argv[1], "w").write(json.dumps([run.engine.world, found]))
"""


def test_two_processes_are_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    made = {}
    for count in (1, 2):
        out = tmp_path / f"{count}.json"
        done = subprocess.run([*launcher, str(count), str(script), str(out)], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        world, made[count] = json.loads(out.read_text())
        assert world == count
    for slug, rows in made[1].items():
        assert len(rows) == 6
        for one, two in zip(rows, made[2][slug], strict=True):
            for name in one:
                assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), (slug, name)

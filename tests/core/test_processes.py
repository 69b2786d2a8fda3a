"""Several processes: how they are started as the docs have it, and what is refused."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse import cli
from stillhouse.core.errors import StillhouseError
from stillhouse.core.processes import process_count, process_rank, require_processes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/tasks/several-processes.md").read_text()
# what accelerate 1.15 leaves in the one process of `accelerate launch --cpu --num_processes 2`
ALONE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}


def test_numbers_and_ranks_of_the_launchers():
    assert process_count({}) == 1 and process_rank({}) == 0
    launched = {"WORLD_SIZE": "8", "RANK": "3"}
    assert process_count(launched) == 8 and process_rank(launched) == 3
    assert process_rank({"RANK": "0"}) == 0 and process_rank({"OMPI_COMM_WORLD_RANK": "1"}) == 1
    assert process_count({"PMI_SIZE": "2"}) == 2 and process_rank({"RANK": "", "PMI_RANK": "x"}) == 0


def test_one_process_in_the_place_of_several_is_refused(monkeypatch, tmp_path, capsys):
    for fine in (
        {},
        {"MASTER_ADDR": "here"},
        {**ALONE, "WORLD_SIZE": "2"},
        {"ACCELERATE_MIXED_PRECISION": "no"},
    ):
        require_processes(fine)
    with pytest.raises(StillhouseError, match="torchrun --nproc_per_node N -m -- stillhouse"):
        require_processes(ALONE)
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["distill", "dmd2", "--world", "mixture", "--out", str(tmp_path / "run")]) == 2
    assert "only one of them on a CPU" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_accelerates_launcher_still_starts_one_process_on_a_cpu():
    """If it starts two one day, nothing has to be refused any more."""
    args = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    code = "import os; print(sorted(n for n in os.environ if n in ('WORLD_SIZE', 'MASTER_ADDR')))"
    environment = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK")}
    done = subprocess.run(
        [*args, "--no_python", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.stdout.splitlines() == ["['MASTER_ADDR']"], done.stderr[-1000:]


@pytest.mark.parametrize("line", re.findall(r"^torchrun .*", PAGE.replace("\\\n", " "), re.M))
def test_documented_torchrun_reads_no_option_of_ours(line, monkeypatch):
    """torchrun takes a beginning of one of its own options for that option, wherever it stands."""
    from torch.distributed.run import get_args_parser

    words = shlex.split(line, comments=True)[1:]
    given = get_args_parser().parse_args([*words, "--start", "0.7", "--log", "5"])
    assert given.training_script == "stillhouse" and given.module
    assert given.training_script_args[-4:] == ["--start", "0.7", "--log", "5"]
    assert given.training_script_args[0] in cli.COMMANDS


def test_two_processes_print_and_show_once(tmp_path):
    words = ["distill", "dmd2", "--teacher", "mixture", "--gan-weight", "0", "--first-time", "0.7"]
    words += ["--iterations", "2", "--batch", "8", "--out", str(tmp_path / "run")]
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "--",
        "stillhouse",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *words], capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("2 processes on cpu") == done.stdout.count("44,610 weights") == 1

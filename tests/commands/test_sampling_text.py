"""``stillhouse sample`` of models of texts: printed, written, filled in; and a run on texts from end to
end."""

import json

import numpy as np
import pytest

from stillhouse.cli import main
from stillhouse.core.discrete import Masked
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import process_from_config
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.samplers.sampling import Sampling
from stillhouse.worlds.base import get_world


def saved(folder, process="masked"):
    world = get_world("text", kind="chain", process=process)
    net = world.network(process_from_config(world.default_process))
    model = Model(
        net,
        world.shape,
        0,
        {4: Sampling.steps(net.process, 4, "ancestral")},
        True,
        "text",
        tokenizer=world.tokenizer,
    )
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"))


def test_a_text_with_gaps_is_filled_in_and_gone_on_with(model, tmp_path, capsys):
    assert (
        main(
            [
                "sample",
                model,
                "--prompt",
                "Ab__cd",
                "--prompt",
                "",
                "-n",
                "4",
                "--out",
                str(tmp_path / "texts.txt"),
            ]
        )
        == 0
    )
    *lines, where, told = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(len(line) == 12 and set(line) <= set("abcdef") for line in lines)
    assert all(line.startswith("ab") and line[4:6] == "cd" for line in lines[::2])
    assert where == str(tmp_path / "texts.txt") and (tmp_path / "texts.txt").read_text().splitlines() == lines
    assert told == "4 texts of 12 tokens in 4 step(s)"


def test_a_text_is_filled_in_in_one_line(model):
    filled = load(model).fill("ab__cd", n=3)
    assert len(filled) == 3 and all(text.startswith("ab") and text[4:6] == "cd" for text in filled)
    assert len(load(model).fill(["ab", "cd"])) == 2
    with pytest.raises(StillhouseError, match="Only a text is filled in"):
        load("mixture").fill("a _")


def test_without_a_prompt_texts_are_written_freely(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", model, "--steps", "3"]) == 0
    assert len(set(capsys.readouterr().out.splitlines())) == 9 and not list(tmp_path.iterdir())
    assert main(["sample", model, "-n", "2", "--out", "tokens.npy"]) == 0
    assert np.load("tokens.npy").shape == (2, 12)


@pytest.mark.parametrize(
    "words,what",
    [
        (["--prompt", "ab", "--prompt", "ba", "-n", "1"], "2 prompts need as many samples, not 1"),
        (["--prompt", "abz"], "no token for 'z' in 'abz'"),
        (["--prompt", "abcabcabcabca"], "has 13 tokens, the model writes 12"),
        (["--labels", "1"], "takes no labels"),
        (["--out", "texts.png"], "no images"),
        (["-n", "0"], "1 or more, not 0"),
    ],
)
def test_bad_wishes_get_one_sentence(model, capsys, words, what):
    assert main(["sample", model, *words]) == 2
    pred = capsys.readouterr().err
    assert what in pred and "Traceback" not in pred and len(pred.strip().splitlines()) == 1


def test_a_process_that_revises_every_token_keeps_no_prompt(tmp_path, capsys):
    assert main(["sample", saved(tmp_path, "uniform_tokens"), "--prompt", "ab"]) == 2
    assert "Only a masked process keeps a prompt's tokens" in capsys.readouterr().err


def test_train_distil_evaluate_and_read_in_the_chain_world(tmp_path, capsys):
    world, small = ["--world", "text", "kind=chain"], ["--iterations", "3", "--batch", "8", "--quiet"]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert main(["train", *world, *small, "--out", str(teacher)]) == 0
    shorter = ["--teacher", str(teacher), "--teacher-steps", "4", "--rounds", "1", "--grid-every", "2"]
    assert main(["distill", "sdtt", *world, *small, *shorter, "--out", str(student)]) == 0
    assert len((student / "grids/step-00000002.txt").read_text().splitlines()[0]) == 12
    assert load(student / "model").denoiser.process == Masked(6)
    assert main(["evaluate", str(student), "-n", "40", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (
        result["metric"] == "nll"
        and 1 < result["floor"]["nll"] < 1.3
        and {"nll", "entropy"} <= set(result["rows"][0]["metrics"])
    )
    assert "paired_rmse" not in result["rows"][0]["metrics"]
    assert main(["report", str(student)]) == 0 and (student / "report.html").is_file()

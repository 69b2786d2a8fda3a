"""A bad value ends in one clear sentence, from Python and on the command line: the examples that once did
not, and a search through options and arguments (``FAULTS_EXAMPLES=10000`` for its long form)."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from stillhouse.api.evaluate import evaluate
from stillhouse.api.held_out import HeldOut
from stillhouse.api.runs import distill, train_model
from stillhouse.core.errors import StillhouseError
from stillhouse.core.prediction import KINDS
from stillhouse.core.process import PROCESSES
from stillhouse.core.schedules import process_from_config
from stillhouse.core.structure import Number, differs
from stillhouse.io.data import open_source
from stillhouse.io.weights import kind_from_config
from stillhouse.models import MODELS, build_model
from stillhouse.opening import load
from stillhouse.systems.registry import class_of
from stillhouse.train.recipe import Recipe
from tests.faults.values import EXAMPLES, ODD, WORDS, command, sentence_of

SMALL: dict[str, Any] = {"world": "mixture", "student": {"width": 8, "depth": 1}, "batch": 4, "iterations": 1}
SYSTEMS = (
    "cm",
    "ctm",
    "dmd2",
    "dmd",
    "sid",
    "progressive",
    "lcm",
    "flash_diffusion",
    "msd",
    "oss",
    "hyper_sd",
)
X, LABELS = torch.zeros(8, 2), torch.zeros(8, dtype=torch.long)


@pytest.fixture(autouse=True, scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder to work in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("values"))
        yield


def run(teacher: Any = "exact", system: Any = "cm", **options: Any) -> Any:
    return distill(teacher, system, quiet=options.pop("quiet", True), **{**SMALL, **options})


REFUSED: dict[str, tuple[Any, str]] = {
    "teacher": (lambda: run(5), "'teacher' is a Model, a Denoiser, a text, a Path or none, not 5"),
    "module": (lambda: run(torch.nn.Linear(2, 2)), "'teacher' is a Model.*, not a Linear"),
    "long": (lambda: run("a" * 5000), "'teacher' holds a zero byte, or is longer than any path"),
    "world": (lambda: run(world=5), "'world' is a World, a text, a table of names and values or none, not 5"),
    "world keys": (
        lambda: run(world={"name": "mixture", 3: 4}),
        "'world' is .* not {'name': 'mixture', 3: 4}",
    ),
    "data": (lambda: run(data=3.5), "'data' is .x, cond., a Data, a folder, a file or a word, not 3.5"),
    "data parts": (lambda: run(data=(1, 2, 3)), "data in memory is .x, cond."),
    "data list": (lambda: run(data=([[0, 0]], None)), "of which x is a tensor of numbers"),
    "data complex": (lambda: run(data=(X.to(torch.complex64), None)), "of which x is a tensor of numbers"),
    "cond": (lambda: run(data=(X, {})), "the condition of data in memory is None, a tensor"),
    "cond scalar": (lambda: run(data=(X, {"x": 1})), "the condition of data in memory is None, a tensor"),
    "cond rows": (
        lambda: run(data=(X, {"a": X, "b": X[:3]})),
        "the condition of data in memory has parts of 3 and 8 rows",
    ),
    "float labels": (lambda: run(data=(X, torch.zeros(8))), "The teacher takes labels, whole numbers"),
    "student depth": (lambda: run(student={"depth": 0}), "'depth' is 1 or more, not 0"),
    "student layers": (lambda: run(student={"depth": 10**9}), "10,000 layers at most, not 1,000,000,000"),
    "student type": (lambda: run(student={"width": "x"}), "'width' is a whole number below 2.63, not 'x'"),
    "student bool": (lambda: run(student={"width": True}), "'width' is a whole number below 2.63, not True"),
    "student keys": (lambda: run(student={3: 4}), "'student' is .*, not {3: 4}"),
    "student list": (lambda: run(student=[4]), "'student' is .*, not .4."),
    "out": (lambda: run(out=5), "'out' is a text, a Path or none, not 5"),
    "out file": (lambda: run(out="/dev/null/run"), "/dev/null.* can't be made|is a file"),
    "quiet": (lambda: run(quiet=torch.zeros(2)), "'quiet' is true or false, not a Tensor"),
    "resume": (lambda: run(resume=1), "'resume' is true or false, not 1"),
    "prompts": (lambda: run(validation_prompts=5), "'validation_prompts' is a text, a Path or a list, not 5"),
    "negative": (lambda: run(negative_prompt=X), "'negative_prompt' is a text or none, not a Tensor"),
    "lr": (lambda: run(lr={5: 1.0}), "rates by player"),
    "lr large": (lambda: run(lr={"student": 1e300}), "A learning rate is at most 1e.06"),
    "decay": (lambda: run(optimiser="adamw", weight_decay=1e308), "'weight_decay' is at most 1000000"),
    "iterations": (lambda: run(iterations=10**30), "'steps' is at most 1000000000000, not"),
    "network": (
        lambda: train_model(world="mixture", network=5, iterations=1),
        "'network' is a Model.* not 5",
    ),
    "kind": (lambda: train_model(world="mixture", kind=5, iterations=1), "'kind' is a text or none, not 5"),
    "load": (lambda: load(5), "'source' is a text, a Path or a Module, not 5"),
    "load option": (
        lambda: load("mixture", heigth=5),
        "There is no argument of load named 'heigth'; did you",
    ),
    "load shape": (lambda: load(torch.nn.Linear(2, 2), shape=(0,)), "whole numbers from 1, not .0,."),
    "sample n": (lambda: load("mixture").sample("x"), "'n' is a whole number below 2.63, not 'x'"),
    "sample steps": (lambda: load("mixture").sample(1, steps=10**9), "at most 100000, not 1000000000"),
    "guidance": (
        lambda: load("mixture").sample(1, guidance="x"),
        "'guidance' is a finite number or none, not 'x'",
    ),
    "evaluate": (lambda: evaluate(5), "'model' is a Model, not 5"),
    "held out": (lambda: HeldOut(prompts=5), "'prompts' is a list, not 5"),
    "dmd2 of text": (lambda: distill(None, "dmd2", world="text", iterations=1), "not of tokens"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_of_another_type_is_named(name: str) -> None:
    call, pattern = REFUSED[name]
    with pytest.raises(StillhouseError, match=pattern):
        call()


def test_a_critic_reads_the_student_where_the_teacher_is_a_closed_form() -> None:
    assert run("exact:trig", "ctm", critic_from=0.5, iterations=2).parameters


def test_the_folder_that_one_works_in_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Image.new("RGB", (8, 8)).save("a.png")
    net = build_model({"name": "unet", "image_channels": 3, "channels": [8], "patch": 1})
    with_pictures = load(net, shape=(3, 8, 8))
    distill(with_pictures, "cm", data=".", iterations=1, batch=2, quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["work", "work.cache"]
    with pytest.raises(StillhouseError, match="no place beside '/'"):
        distill(with_pictures, "cm", data="/", iterations=1, batch=2, quiet=True)


def test_a_file_that_is_no_picture_leaves_its_shard(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "png")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (
            *(("0.png", picture.getvalue()), ("0.pth", b"\x80\x04."), ("0.json", b"[" * 5000)),
            *(("1.pth", b""), ("1.cls", b"\xff"), ("2.png", picture.getvalue()), ("2.txt", b"two")),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    rows = list(open_source(tmp_path / "a.tar").rows())
    assert [row.caption for row in rows] == [None, "two"]


@pytest.mark.parametrize("name", MODELS)
def test_a_network_refuses_what_none_can_be_built_with(name: str) -> None:
    usual = {"vocab": 4} if name == "token_transformer" else {}
    build_model({"name": name, **usual})
    for option in MODELS[name].__init__.__annotations__:
        for value in ODD:
            sentence_of(lambda o=option, v=value: build_model({"name": name, **usual, o: v}))


@pytest.mark.parametrize("name", [*PROCESSES, *KINDS])
def test_a_process_and_a_kind_refuse_what_they_cannot_be_made_with(name: str) -> None:
    """As a header of anybody's may describe them."""
    table, make = (PROCESSES, process_from_config) if name in PROCESSES else (KINDS, kind_from_config)
    make({"name": name})
    for option in getattr(table[name], "__dataclass_fields__", ()):
        for value in ODD:
            sentence_of(lambda o=option, v=value: make({"name": name, o: v}))


def test_a_structure_names_the_first_entry_that_differs() -> None:
    shape = {"a": int, "b?": [(str, None)], "c?": ({"d": float}, None), "*": Number}
    assert differs({"a": 1, "b": ["x", None], "c": {"d": 1}, "e": float("nan")}, shape) == ""
    for value, clause in (
        ([], "it is a table of names and values, not []"),
        ({}, "it lacks 'a'"),
        ({"a": True}, "'a' is a whole number below 2^63, not True"),
        ({"a": 2**63}, "'a' is a whole number below 2^63, not 9223372036854775808"),
        ({"a": 1, "b": ["x", 3]}, "'b[1]' is a text or none, not 3"),
        ({"a": 1, "c": {}}, "'c' lacks 'd'"),
        ({"a": 1, "c": {"d": float("inf")}}, "'c.d' is a finite number, not inf"),
        ({"a": 1, "e": "x"}, "'e' is a number, not 'x'"),
        ({"a": 10**5000}, "'a' is a whole number below 2^63, not what no line can show"),
    ):
        assert differs(value, shape) == clause


# -- the search ----------------------------------------------------------------------------------------
def search(examples: int) -> settings:
    long = EXAMPLES > 0
    return settings(
        max_examples=EXAMPLES or examples,
        deadline=None,
        derandomize=not long,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def values_of(field: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
    """Good and bad values of an option that is declared with its range."""
    meta = field.metadata
    ends = [v for v in (meta.get("low"), meta.get("high")) if v is not None and abs(v) <= 8]
    return st.sampled_from([field.default, *ends, *(meta.get("choices") or ())]) | st.sampled_from(ODD)


# what makes a run long, and may
LONG = {"steps", "batch", "compile", "bank_size", "tensorboard", "out"}
RECIPE = {f.name: values_of(f) for f in dataclasses.fields(Recipe) if f.name not in LONG}


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Of ``distill``: some of a system's options, of the run's, and of the call's own arguments."""
    system = draw(st.sampled_from(SYSTEMS))
    fields = {
        f.name: values_of(f) for f in dataclasses.fields(class_of(system)) if f.init and f.name not in LONG
    }
    own = (
        "world",
        "data",
        "student",
        "resume",
        "adapter",
        "negative_prompt",
        "validation_prompts",
        "network",
    )
    call = {name: st.sampled_from(ODD) for name in own}
    made: dict[str, Any] = {"system": system}
    made["teacher"] = draw(st.sampled_from(["exact", "exact:trig", "mixture"]) | st.sampled_from(ODD))
    for known in (fields, RECIPE, call):
        for name in draw(st.lists(st.sampled_from(sorted(known)), max_size=2, unique=True)):
            made[f"run_{name}" if known is RECIPE and name in fields else name] = draw(known[name])
    return made


@search(20)
@given(arguments())
@example({"system": "ctm", "teacher": "exact", "critic_from": 0.5})
def test_distill_ends_well_or_in_a_sentence(given: dict[str, Any]) -> None:
    given = {"iterations": 1, **given}
    sentence_of(lambda: run(given.pop("teacher"), given.pop("system"), **given))


@search(15)
@given(
    st.dictionaries(
        st.sampled_from(["n", "cond", "steps", "guidance", "seed", "latents", "start", "frames"]),
        st.sampled_from(ODD),
        max_size=3,
    )
)
def test_sample_ends_well_or_in_a_sentence(given: dict[str, Any]) -> None:
    sentence_of(lambda: load("mixture").sample(**{"n": 2, "steps": 1, **given}))


@search(15)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "source",
                "process",
                "kind",
                "shape",
                "classes",
                "steps",
                "call",
                "empty",
                "examples",
                "base",
                "network",
                "adapter",
                "dtype",
                "height",
                "config",
                "prediction",
                "local",
            ]
        ),
        st.sampled_from(ODD),
        max_size=3,
    )
)
@example({"call": None, "examples": {}})
@example({"call": torch.zeros(2)})
@example({"process": {"name": 5}})
@example({"process": {"name": []}})
@example({"process": {"name": "ve", "sigma_max": "x"}})
def test_load_ends_well_or_in_a_sentence(given: dict[str, Any]) -> None:
    usual = {"source": torch.nn.Linear(2, 2), "shape": (2,)}
    sentence_of(lambda: load(**{**usual, **given}))


@search(5)
@given(
    st.dictionaries(
        st.sampled_from(
            ["model", "world", "teacher", "n", "seed", "teacher_steps", "teacher_solver", "scores", "out"]
        ),
        st.sampled_from(ODD),
        min_size=1,
        max_size=3,
    )
)
def test_evaluate_ends_well_or_in_a_sentence(given: dict[str, Any]) -> None:
    usual = {"model": load("mixture"), "n": 8, "teacher_steps": (1,)}
    sentence_of(lambda: evaluate(**{**usual, **given}))


COMMAND = (
    "distill cm --world mixture --teacher exact --student width=8 depth=1 --batch 4 --iterations 1 --quiet"
)
TRAINING = "train --world mixture --network width=8 depth=1 --batch 4 --iterations 1 --quiet"
FLAGS = {
    COMMAND: (
        "--levels --source --decay --loss --lr --optimiser --betas --clip --ema --schedule --warmup --seed "
        "--data --student --world --precision --nonfinite --save-every --log-every --grid-every --lora "
        "--lora-targets --config --resume --teacher --adapter --network --height --dtype --negative-prompt "
        "--validation-prompts --out"
    ),
    TRAINING: (
        "--network --process --kind --data --world --label-dropout --lr --seed --config --resume --out"
    ),
    "sample mixture -n 2 --steps 1 --out x.npy": (
        "-n --labels --prompt --prompts --steps --guidance --seed --columns --out --base --config "
        "--prediction --dtype --adapter --network --frames --scale"
    ),
    "evaluate mixture -n 8 --teacher-steps 1": (
        "-n --world --teacher --teacher-steps --seed --score --clip --prompts --data --features --batch "
        "--out --dtype"
    ),
    "report": "--out --teacher --network --adapter",
    "export mixture --steps 1 --out x.pt2": "--to --out --base --steps --config --dtype --network --adapter",
    "inspect mixture": "--config --prediction --dtype --height --width --frames --adapter --network",
}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    usual = draw(st.sampled_from(sorted(FLAGS)))
    words = usual.split()
    for flag in draw(st.lists(st.sampled_from(FLAGS[usual].split()), min_size=1, max_size=3)):
        words += [flag, *draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=2))]
    return words


@search(25)
@given(command_lines())
@example(["report", "--out", "x", "."])
@example(["distill", "dmd2", "--world", "text", "--iterations", "1"])
def test_a_command_line_ends_well_or_in_a_sentence(words: list[str]) -> None:
    command(*words)

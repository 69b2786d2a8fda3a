"""``stillhouse sample`` on models of clips."""

import wave

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import stillhouse
from stillhouse.cli import main
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.io.media import read_clip, read_sound
from stillhouse.model import Model
from stillhouse.models import build_model
from stillhouse.samplers.sampling import Leg, Sampling
from stillhouse.worlds.clips.talking import TalkingClips

TINY = {"dim": 16, "depth": 1, "heads": 2}
SHORT = {
    "iterations": 2,
    "batch": 4,
    "paths": 8,
    "teacher_steps": 4,
    "ode_share": 0.5,
    "warmup": 1,
    "quiet": True,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("ring", "talking"):
        world = {"name": "clips", "kind": kind}
        stillhouse.distill("exact", "livetalk", world=world, student=TINY, out=folder / kind, **SHORT)
    stillhouse.train_teacher(
        "clips", {"dim": 16, "depth": 1}, steps=2, iterations=1, batch=2, out=folder / "whole", quiet=True
    )
    return folder


def say(capsys, *words):
    code = main(["sample", *map(str, words)])
    told = capsys.readouterr()
    return code, told.out + told.err


def test_a_student_streams_as_many_frames_as_one_asks_for(runs, tmp_path, capsys):
    code, pred = say(capsys, runs / "ring", "--frames", 23, "-n", 2, "--out", tmp_path / "a.gif", "--fps", 10)
    clip, rate = read_clip(tmp_path / "a.gif")
    assert code == 0 and len(clip) == 23 and rate == pytest.approx(10, rel=0.02)
    assert (
        "2 clip(s) of 23 frames in 2 step(s), 3 network call(s) per chunk of 2 frames" in pred
        and "frames a second" in pred
    )


def test_clips_as_a_contact_sheet_and_as_numbers(runs, tmp_path, capsys):
    assert say(capsys, runs / "ring", "-n", 3, "--out", tmp_path / "a.png")[0] == 0
    assert Image.open(tmp_path / "a.png").size[0] > 10 * 64
    assert say(capsys, runs / "ring", "-n", 3, "--frames", 7, "--out", tmp_path / "a.safetensors")[0] == 0
    assert load_file(tmp_path / "a.safetensors")["samples"].shape == (3, 7, 16, 1, 1)


def test_a_model_of_whole_clips_takes_prompts_and_keeps_its_length(runs, tmp_path, capsys):
    prompt = "a red circle moving right"
    assert say(capsys, runs / "whole", "--prompt", prompt, "--out", tmp_path / "a.gif")[0] == 0
    assert len(read_clip(tmp_path / "a.gif")[0]) in (1, 12)  # frames that are all alike are kept once
    code, pred = say(capsys, runs / "whole", "--prompt", prompt, "--frames", 24, "--out", tmp_path / "b.gif")
    assert code == 2 and "distil a causal student" in pred and not (tmp_path / "b.gif").exists()
    code, pred = say(
        capsys, runs / "whole", "--prompt", "a red circle moving sideways", "--out", tmp_path / "b.gif"
    )
    assert code == 2 and "sideways" in pred


def test_the_companions_of_whole_clips_walk_and_are_called_by_hooks(tmp_path, capsys):
    shape, made = (2, 3, 8, 8), {}
    for seed in (0, 1):
        net = build_model({"name": "video_dit", "channels": 3, "patch": 4, **TINY}, seed)
        made[seed] = Denoiser(net, Flow())
    mix = {"name": "distillation_pp", "network": "other"}
    legs = [Leg([1.0, 0.5], hooks=[mix]), Leg([0.5, 0.2, 0.0], network="other")]
    model = Model(made[0], shape, samplings={3: Sampling(legs=legs)}, companions={"other": made[1]})
    model.save_pretrained(tmp_path / "model")
    code, printed = say(capsys, tmp_path / "model", "-n", 2, "--out", tmp_path / "a.safetensors")
    assert code == 0 and "in 3 step(s), 4 network call(s) per clip" in printed
    assert torch.equal(load_file(tmp_path / "a.safetensors")["samples"], model.sample(2))


def voice(path, seconds=1.5, rate=8000):
    time = np.arange(int(seconds * rate)) / rate
    loud = np.where(time < seconds / 2, 0.05, 0.8)  # quiet, then loud
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((loud * np.sin(2 * np.pi * 220 * time) * 32767).astype("<i2").tobytes())
    return path


def test_a_model_that_hears_takes_a_sound_which_sets_its_length(runs, tmp_path, capsys):
    code, pred = say(
        capsys,
        runs / "talking",
        "--sound",
        voice(tmp_path / "v.wav"),
        "-n",
        2,
        "--fps",
        8,
        "--out",
        tmp_path / "a.gif",
    )
    assert code == 0 and "2 clip(s) of 12 frames" in pred
    assert say(capsys, runs / "talking", "--frames", 16, "-n", 2, "--out", tmp_path / "b.gif")[0] == 0
    assert len(read_clip(tmp_path / "b.gif")[0]) in (1, 16)


def test_a_sound_is_cut_into_frames_and_heard_by_its_loudness(tmp_path):
    sound = read_sound(voice(tmp_path / "v.wav"), 8)
    assert sound.shape == (12, 1000)
    heard = TalkingClips().listen(sound)
    assert heard.shape == (1, 12, 2) and (heard[..., 0] == 1).all()
    torch.testing.assert_close(heard[0, :, 1], torch.tensor([0.0625] * 6 + [1.0] * 6), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "words,sentence",
    [
        (["ring", "--frames", "0"], "at least one frame, not 0"),
        (["ring", "--frames", "-4"], "at least one frame, not -4"),
        (["ring", "--fps", "0"], "positive number of frames"),
        (["ring", "--out", "a.avi"], "'.avi'"),
        (["ring", "--prompt", "a red circle"], "takes no prompts"),
        (["talking", "--sound", "none.wav"], "There is no sound"),
        (["talking", "--sound", "v.wav", "--frames", "8"], "leave out --frames or --sound"),
        (["talking", "--sound", "v.wav", "--fps", "0.5"], "less than one frame"),
        (["talking", "--sound", "torn.wav"], "no whole .wav"),
    ],
)
def test_mistakes_are_told_in_one_sentence(runs, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    voice(tmp_path / "v.wav")
    (tmp_path / "torn.wav").write_bytes(b"RIFF")
    model, *rest = words
    code, printed = say(
        capsys, runs / model, "-n", "1", *(rest if "--out" in rest else [*rest, "--out", "a.gif"])
    )
    assert code == 2 and sentence in printed and "Traceback" not in printed and not list(tmp_path.glob("a.*"))


def test_a_stream_is_one_line_and_the_same_as_the_clips(runs):
    model = stillhouse.load(runs / "ring" / "model")
    chunks = list(model.stream(n=2, frames=5, seed=3))
    assert [chunk.shape[1] for chunk in chunks] == [2, 2, 1]
    assert torch.equal(torch.cat(chunks, 1), model.sample(2, seed=3, frames=5))
    endless = model.stream([0, 1]) if model.text else model.stream(torch.tensor([0, 1]))
    assert next(endless).shape == (2, 2, 16, 1, 1)
    with pytest.raises(StillhouseError, match="distil a causal student"):
        stillhouse.load(runs / "whole" / "model").stream()
    with pytest.raises(StillhouseError, match="Only clips are streamed"):
        stillhouse.load("mixture").stream()


def test_only_clips_have_frames(capsys):
    code, pred = say(capsys, "mixture", "--frames", "8")
    assert code == 2 and "Only a model of clips" in pred

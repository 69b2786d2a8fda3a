import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.functional import interpolate

from stillhouse.cli import main
from stillhouse.commands.sample import world_entry
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import process_from_config
from stillhouse.forms.photograph import scale_of
from stillhouse.io.photo import read_photo, write_photo
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.samplers.sampling import Sampling
from stillhouse.worlds.photos.world import Photos


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a network whose answer is the spoilt picture as it is: the residual 0."""
    world, folder = Photos(), tmp_path_factory.mktemp("run")
    process = process_from_config(world.default_process)
    net = world.network(process, kind="x0", channels=(8, 8), blocks=1)
    model = Model(
        net, world.shape, 0, {2: Sampling.steps(process, 2, "ddim")}, True, "photos", cond_kind="image"
    )
    model.save_pretrained(folder / "model")
    (folder / "run.yaml").write_text(
        yaml.safe_dump({"command": "train", "world": {"name": "photos", "task": "x2"}})
    )
    return folder


def photograph(path, mode, *shape):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), mode).save(path)
    return path


@pytest.mark.parametrize(
    "mode,shape", [("RGB", (21, 50, 3)), ("L", (33, 20)), ("RGBA", (16, 40, 4)), ("LA", (16, 16, 2))]
)
def test_any_photograph_comes_back_larger_in_its_own_mode(run, tmp_path, capsys, mode, shape):
    given = photograph(tmp_path / "in.png", mode, *shape)
    assert (
        main(
            [
                "sample",
                str(run),
                "--image",
                str(given),
                "--out",
                str(tmp_path / "out.png"),
                "--tile",
                "32",
                "--overlap",
                "8",
            ]
        )
        == 0
    )
    told, made = capsys.readouterr().out, Image.open(tmp_path / "out.png")
    assert made.mode == mode and made.size == (2 * shape[1], 2 * shape[0])
    assert f"{2 * shape[1]} x {2 * shape[0]} pixels, 2 times as large, in 2 step(s), 2 call(s) on" in told
    if mode != "LA":  # a network that adds nothing leaves the bicubic copy
        pixels = torch.from_numpy(np.array(Image.open(given).convert("RGBA"))).permute(2, 0, 1).float()
        expected = interpolate(pixels[None], scale_factor=2, mode="bicubic")[0].clamp(0, 255)
        planes = torch.from_numpy(np.array(made.convert("RGBA"))).permute(2, 0, 1)
        assert float((planes - expected).abs().max()) <= 0.51


def test_steps_seed_scale_and_name_are_obeyed(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = photograph(tmp_path / "in.png", "RGB", 12, 12, 3)
    assert main(["sample", str(run), "--image", str(given), "--steps", "3", "--scale", "3"]) == 0
    assert "in 3 step(s), 3 call(s) on 1 tiles" in capsys.readouterr().out
    assert Image.open(tmp_path / "restored.png").size == (36, 36)


def test_the_scale_is_that_of_the_run(run):
    model = load(run / "model")
    assert model.cond_kind == "image"
    assert scale_of(world_entry(model, str(run))) == scale_of(world_entry(model, str(run / "model"))) == 2
    assert scale_of(world_entry(model, "elsewhere")) == 4
    model.info["recipe"] = {"world": {"name": "photos", "task": "jpeg"}}
    assert scale_of(world_entry(model, "elsewhere")) == 1


def test_a_photograph_is_restored_in_one_line(run, tmp_path):
    model = load(run / "model")
    given = photograph(tmp_path / "in.png", "RGBA", 20, 24, 4)
    main(["sample", str(run), "--image", str(given), "--scale", "2", "--out", str(tmp_path / "out.png")])
    photo = model.restore(given, 2)
    write_photo(tmp_path / "own.png", photo)
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "out.png").read_bytes()
    colour = read_photo(given).colour
    assert model.restore(colour).shape == (3, 80, 96) and model.restore(colour[None], 1).shape == (
        1,
        3,
        20,
        24,
    )
    torch.testing.assert_close(model.restore(colour, 2), photo.colour)
    with pytest.raises(StillhouseError, match="restores no photographs"):
        load("mnist").restore(colour)


def test_bad_input_gets_one_sentence_and_writes_nothing(run, tmp_path, capsys):
    good = photograph(tmp_path / "in.png", "RGB", 16, 16, 3)
    (tmp_path / "bad.png").write_bytes(good.read_bytes()[:200])
    out = tmp_path / "out.png"
    for words, sentence in (
        ([str(run)], "give it one: --image"),
        (["mixture", "--image", str(good)], "it takes no image"),
        ([str(run), "--image", str(tmp_path / "bad.png")], "is damaged"),
        ([str(run), "--image", str(tmp_path / "none.png")], "There is no picture"),
        ([str(run), "--image", str(good), "--tile", "33"], "divisible by 8, not 33"),
        ([str(run), "--image", str(good), "--scale", "0"], "1 to 8 times as large, not 0"),
        ([str(run), "--image", str(good), "--labels", "1"], "without labels and prompts"),
        ([str(run), "--image", str(good), "-n", "3"], "One photograph is restored at a time, not 3"),
        ([str(run), "--image", str(good), "--out", str(tmp_path / "out.npy")], "not '.npy'"),
    ):
        assert main(["sample", *words, *([] if "--out" in words else ["--out", str(out)])]) == 2
        told = capsys.readouterr().err
        assert sentence in told and told.count("\n") == 1 and not out.exists()

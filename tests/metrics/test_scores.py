"""Scores of pictures under prompts, with a tiny CLIP of random weights; transformers' own CLIP is the
judge."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stillhouse.api.evaluate import evaluate
from stillhouse.api.runs import open_model
from stillhouse.cli import main
from stillhouse.core.errors import StillhouseError
from stillhouse.metrics.scores import MEAN, STD, ClipScore, find_score, mean_scores
from stillhouse.samplers.sampling import Sampling
from stillhouse.worlds.base import get_world

SIDE = 16
MINE = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
PROMPTS = [
    "a red circle",
    "a photo of a small dog and a cat",
    "the green square left of the blue triangle " * 4,
    "",
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPModel

    from stillhouse.io.pipelines.tiny_text import LENGTH, clip_tokenizer

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = clip_tokenizer()
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(
        text_config={**common, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH},
        vision_config={**common, "image_size": SIDE, "patch_size": 4},
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(config)
        for weights in model.parameters():  # larger than CLIP's own start, so that the scores are far apart
            weights.data += 0.3 * torch.randn_like(weights)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": MINE[0], "image_std": MINE[1]})
    )
    return folder


def changed(clip: Path, place: Path) -> Path:
    return Path(shutil.copytree(clip, place / "changed"))


def pictures(n: int, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """Smooth ones, on the 8-bit grid, as a file would hold them."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (fine * 255).round() / 127.5 - 1


def test_scores_are_those_of_the_librarys_own_clip(clip: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    images = pictures(4)
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    mean, std = (torch.tensor(m).view(3, 1, 1) for m in MINE)
    words = tokenizer(PROMPTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = (
            model(**words, pixel_values=((images + 1) / 2 - mean) / std).logits_per_image
            / model.logit_scale.exp()
        )
    cos = logits.diagonal()
    assert float(cos.min()) < 0 < float(cos.max())  # both sides of the clip are met
    torch.testing.assert_close(
        ClipScore(clip).score(images, PROMPTS), 100 * cos.clamp(min=0), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(("height", "width"), [(40, 40), (24, 51), (9, 9)])
def test_pictures_are_prepared_as_clips_own_processor_does(clip: Path, height: int, width: int) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = pictures(2, height, width)
    cut = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    processor = CLIPImageProcessorPil(image_mean=MINE[0], image_std=MINE[1], **cut)
    whole = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    wanted = processor(images=list(whole), return_tensors="pt")["pixel_values"]
    made = ClipScore(clip).prepare(images)
    assert made.shape == wanted.shape == (2, 3, SIDE, SIDE)
    # theirs is rounded to whole levels after the rows and after the columns; a cubic's weights sum to 1.25 at
    # most, in size
    levels = 255 * (made - wanted).abs() * torch.tensor(MINE[1]).view(3, 1, 1)
    assert float(levels.max()) < 0.5 * 1.25 + 0.5 and float(levels.mean()) < 0.4


def test_moments_are_read_from_either_file_or_clips_own(clip: Path, tmp_path: Path) -> None:
    folder = changed(clip, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    grey = torch.zeros(1, 3, SIDE, SIDE)
    own = [(0.5 - m) / s for m, s in zip(MEAN, STD, strict=True)]
    assert ClipScore(folder).prepare(grey)[0, :, 0, 0].tolist() == pytest.approx(own, rel=1e-5)
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": {"image_mean": MINE[0], "image_std": MINE[1]}})
    )
    theirs = [(0.5 - m) / s for m, s in zip(*MINE, strict=True)]
    assert ClipScore(folder).prepare(grey)[0, :, 3, 5].tolist() == pytest.approx(theirs, abs=1e-6)
    (folder / "processor_config.json").write_text(json.dumps({"image_mean": [0.5]}))
    with pytest.raises(StillhouseError, match=r"\[0.5\] where three numbers"):
        ClipScore(folder)


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def torn(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def lacking(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (shutil.rmtree, "no folder .* nothing is downloaded"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "is no JSON"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "model_type 'bert', not 'clip'"),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
        (without_weights, "has no weights"),
        (pickled, r"pytorch_model.bin' is a pickle"),
        (torn, "can't be opened: SafetensorError"),
        (lacking, "lack 1 of a CLIP's tensors, 'visual_projection.weight'"),
    ],
)
def test_bad_folders_get_a_sentence(clip: Path, tmp_path: Path, harm, sentence: str) -> None:
    folder = changed(clip, tmp_path)
    harm(folder)
    with pytest.raises(StillhouseError, match=sentence):
        ClipScore(folder)


def test_bad_pictures_get_a_sentence(clip: Path) -> None:
    score = ClipScore(clip).score
    with pytest.raises(StillhouseError, match="2 images and 1 prompts"):
        score(pictures(2), ["a cat"])
    with pytest.raises(StillhouseError, match=r"not \(2, 1, 16, 16\)"):
        score(pictures(2)[:, :1], ["a cat", "a dog"])


def test_functions_of_ones_own_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scores.py").write_text(
        "LIMIT = 3\ndef length(images, prompts):\n    return images.new_tensor([len(p) for p in prompts])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_scores:length", f"{tmp_path}/my_scores.py:length"):
        assert find_score(name)(pictures(2), ["cat", "horse"]).tolist() == [3, 5]
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    for name, sentence in {
        "length": "named as module:function",
        "my_scores:width": "There is no 'width' in 'my_scores'",
        "my_scores:LIMIT": "LIMIT' is no function",
        "no_such_module:f": "can't be imported: ModuleNotFoundError",
        f"{tmp_path}/none.py:f": "There is no file",
        f"{tmp_path}/broken.py:f": "can't be imported: ModuleNotFoundError",
    }.items():
        with pytest.raises(StillhouseError, match=sentence):
            find_score(name)


def test_means_are_over_all_pictures_whatever_the_batch() -> None:
    images, prompts = torch.arange(150.0).view(150, 1, 1, 1), ["a"] * 100 + ["bb"] * 50
    scores = {"level": lambda x, p: x.flatten(), "letters": lambda x, p: torch.tensor([len(q) for q in p])}
    assert mean_scores(scores, images, prompts) == {"level": 74.5, "letters": pytest.approx(200 / 150)}
    with pytest.raises(StillhouseError, match=r"'one' gives one number a sample, .* shape \(64,\), not \(\)"):
        mean_scores({"one": lambda x, p: x.mean()}, images, prompts)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped teacher of captions, to be walked in one step or two only."""
    model = open_model("shapes")
    walks = {steps: Sampling.steps(model.denoiser.process, steps, "ddim") for steps in (1, 2)}
    return (
        replace(model, samplings=walks, free_steps=False)
        .save_pretrained(tmp_path_factory.mktemp("student"))
        .parent
    )


def test_an_evaluation_scores_every_row_under_its_captions(student: Path) -> None:
    model, world = open_model(student), get_world("shapes")
    seen: list[tuple[torch.Tensor, list[str]]] = []

    def letters(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        seen.append((images, prompts))
        return torch.tensor([float(len(p)) for p in prompts])

    found = evaluate(model, world, n=8, scores={"letters": letters})
    told = [world.captions[i] for i in world.balanced_labels(8).tolist()]
    assert len(found["rows"]) == 2 and len(seen) == 3  # real data, then two ways
    assert [prompts for _, prompts in seen[1:]] == [told, told] and not torch.equal(seen[1][0], seen[2][0])
    assert all(images.shape == (8, 3, 32, 32) for images, _ in seen)
    assert all(row["metrics"]["letters"] == pytest.approx(sum(map(len, told)) / 8) for row in found["rows"])
    assert found["floor"]["letters"] == pytest.approx(sum(map(len, seen[0][1])) / 8)
    with pytest.raises(StillhouseError, match="metric 'fidelity' already"):
        evaluate(model, world, n=8, scores={"fidelity": letters})


def test_there_is_no_score_without_captions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f(images, prompts):\n    return images[:, 0]\n")
    assert main(["evaluate", "mixture", "-n", "8", "--score", f"{file}:f"]) == 2
    assert "'mixture' has no captions" in capsys.readouterr().err


def test_the_command_line_takes_both(
    clip: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def level(images, prompts):\n    return images.mean((1, 2, 3))\n")
    words = ["evaluate", str(student), "-n", "8", "--clip", str(clip), "--score", f"{file}:level", "--json"]
    assert main(words) == 0
    figures = json.loads(capsys.readouterr().out)
    for metrics in (*(row["metrics"] for row in figures["rows"]), figures["floor"]):
        assert 0 <= metrics["clip"] <= 100 and -1 < metrics["level"] < 1
    assert len({row["metrics"]["level"] for row in figures["rows"]}) == 2
    assert main([*words, "--score", "./other.py:level"]) == 2
    assert "Two scores have the name 'level'" in capsys.readouterr().err


def test_the_library_is_imported_only_where_a_clip_is_opened() -> None:
    code = (
        "import stillhouse, stillhouse.metrics.scores, stillhouse.api.evaluate, sys; "
        "print('transformers' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )

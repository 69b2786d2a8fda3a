"""Precision is the user's, learning is float32: bases in half precision, adapters and whole students on
them."""

import pytest
import torch

from stillhouse import distill, load
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.schedules import Flow
from stillhouse.io.pipelines import open_pipeline
from stillhouse.io.pipelines.tiny import build
from stillhouse.models import build_model
from stillhouse.systems.registry import find
from stillhouse.train.data import Prompts, TensorData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe

HALF = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny SDXL by the precision of its files."""
    place = tmp_path_factory.mktemp("held")
    build("sdxl", place / "whole")
    made = {torch.float32: place / "whole"}
    for dtype in HALF:
        made[dtype] = place / str(dtype)
        open_pipeline(place / "whole", dtype=dtype).pipe.save_pretrained(str(made[dtype]))
    return made


def trainer(folder, out=None, **recipe):
    teacher = load(folder)
    data = Prompts(tuple(teacher.shape), teacher.text.encode(["a red circle", "a cat"]), None)
    settings = {"steps": 4, "batch": 2, "ema": 0.5, "lr": {"student": 1e-4}, **recipe}
    method = find("swiftbrush")(first_time=0.4, rank=2)
    return Trainer(method, teacher, data, Recipe(**settings), out=out, quiet=True, device="cpu")


def moved(before, after):
    """Share of the entries that differ."""
    pairs = list(zip(before, after, strict=True))
    return sum(int((a != b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_a_folder_is_opened_in_its_own_precision(folders, dtype):
    pipe = open_pipeline(folders[dtype]).pipe
    parts = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {p.dtype for part in parts for p in part.parameters()} == {dtype}
    other = open_pipeline(folders[dtype], dtype=torch.float32)
    assert {p.dtype for p in other.network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("dtype", "lora"), [(torch.bfloat16, 2), (torch.float16, 2), (torch.float16, 0)], ids=str
)
def test_what_learns_is_float32_on_a_half_base_under_any_autocast(folders, dtype, lora):
    run = trainer(folders[dtype], lora=lora, precision="bf16")
    student = run.method.student
    frozen = {p.dtype for p in run.method.teacher.net.parameters() if p.requires_grad is False}
    assert dtype in frozen
    before = [p.detach().clone() for p in student.parameters()]
    run.fit()
    learnt = [*student.parameters(), *run.average.module.parameters(), *run.method.fake.parameters()]
    assert {p.dtype for p in learnt} == {torch.float32}
    states = [s for player in run.players.values() for s in player.optimiser.state.values()]
    assert states and {v.dtype for s in states for k, v in s.items() if k != "step"} == {torch.float32}
    assert moved(before, student.parameters()) >= 0.99


def test_a_student_is_saved_in_its_bases_precision_and_its_adapter_in_full(folders, tmp_path):
    from safetensors.torch import load_file

    trainer(folders[torch.bfloat16], tmp_path / "lora", lora=2).fit()
    trainer(folders[torch.bfloat16], tmp_path / "full", steps=1).fit()
    for name in ("lora", "full"):
        weights = load_file(tmp_path / name / "model" / "unet" / "diffusion_pytorch_model.safetensors")
        assert {w.dtype for w in weights.values()} == {torch.bfloat16}
        assert {p.dtype for p in load(tmp_path / name / "model").denoiser.parameters()} == {torch.bfloat16}
    adapter = load_file(tmp_path / "lora" / "model" / "lora" / "pytorch_lora_weights.safetensors")
    assert {w.dtype for w in adapter.values()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_of_ones_own_in_half_precision_is_a_teacher(precision):
    net = build_model({"name": "unet", "channels": (8, 8), "classes": 4}, 0)
    torch.nn.init.normal_(net.output.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    teacher = load(Denoiser(net.half(), Flow()), shape=(1, 16, 16), classes=4)
    x = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    data = TensorData(x, torch.arange(8) % 4, 4)
    student = distill(
        teacher, "cm", data=data, levels=4, iterations=2, batch=4, precision=precision, quiet=True
    )
    assert {p.dtype for p in student.denoiser.parameters()} == {torch.float32}
    assert {p.dtype for p in net.parameters()} == {torch.float16}
    assert bool(torch.isfinite(student.sample(2, seed=0)).all())


def test_an_adapter_of_convolutions_is_opened_whole(folders, tmp_path):
    """Names of layers, as a saved adapter has them, mean convolutions as well."""
    student = trainer(
        folders[torch.float32], tmp_path / "run", lora=2, lora_targets="blocks", lr={"student": 1e-2}
    ).fit()
    names = set(student.denoiser.base.layers)
    assert any(name.endswith("conv1") for name in names) and "conv_in" not in names
    assert not any("time_embedding" in name for name in names)
    again = load(tmp_path / "run" / "model" / "lora", base=folders[torch.float32])
    assert set(again.denoiser.base.layers) == names
    same = [student.denoiser.weights[k].equal(v) for k, v in again.denoiser.weights.items()]
    assert same and all(same)

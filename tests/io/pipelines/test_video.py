"""Pipelines of clips: our denoiser and solver give the pipeline's own latents, and a distillation runs on
them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import stillhouse
from stillhouse.core.errors import StillhouseError
from stillhouse.core.guidance import Guided
from stillhouse.io.pipelines import Family, open_pipeline
from stillhouse.io.pipelines.ltx import pack, unpack
from stillhouse.io.pipelines.wan import Wan
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers import make_solver

Built, Opened = Callable[[str], Path], Callable[[str], Family]
PROMPTS = ["a red circle above a blue square", "small cat"]
STEPS = 5
SHAPES = {"wan": (2, 4, 2, 4), "ltx": (2, 8, 2, 3)}
SMALL = {"height": 16, "width": 32, "frames": 5}


def noise(family: Family, rows: int = 2) -> Tensor:
    return torch.randn(rows, *family.shape, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def ours(family: Family, z: Tensor, scale: float, prompts: list[str] = PROMPTS) -> Tensor:
    model = family.denoiser() if scale == 1 else Guided(family.denoiser(), scale)
    return rollout(
        model,
        z * family.start(STEPS),
        family.times(STEPS),
        make_solver(family.schedule.solver),
        family.encode(prompts),
    )


def theirs(family: Family, z: Tensor, scale: float) -> Tensor:
    """Latents by the pipeline's own call, in our order of frames and channels."""
    height, width = family.size
    packed = type(family.pipe).__name__ == "LTXPipeline"
    pred = family.pipe(
        PROMPTS,
        num_inference_steps=STEPS,
        guidance_scale=scale,
        latents=pack(z) if packed else z.transpose(1, 2),
        height=height,
        width=width,
        num_frames=family.frames,
        output_type="latent",
    ).frames
    return unpack(pred, z.shape[1], *z.shape[-2:]) if packed else pred.transpose(1, 2)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["wan", "ltx"])
def test_latents_are_those_of_the_pipeline(kind: str, scale: float, opened: Opened) -> None:
    family = opened(kind)
    z = noise(family)
    assert family.shape == SHAPES[kind]
    its = theirs(family, z, scale)
    assert (ours(family, z, scale) - its).abs().max() < 1e-4
    assert its.std() > 0.1
    assert (ours(family, z, scale, ["dog", "dog"]) - its).abs().max() > 1e-3
    assert (ours(family, z, scale + 1) - its).abs().max() > 1e-3


def test_wan_on_an_even_grid_of_euler(opened: Opened) -> None:
    """Wan under the scheduler that its flow was trained with, whose times are no whole numbers."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipe = opened("wan").pipe
    twin = type(pipe)(**{**pipe.components, "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0)})
    twin.set_progress_bar_config(disable=True)
    family = Wan(twin, **SMALL)
    assert family.schedule.solver == "ddim" and not family.schedule.whole and opened("wan").schedule.whole
    z = noise(family)
    assert (ours(family, z, 3.0) - theirs(family, z, 3.0)).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["wan", "ltx"])
def test_clips_through_the_autoencoder(kind: str, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    family = opened(kind)
    z = noise(family, 1)
    clips = family.images(z)
    assert clips.shape == (1, family.frames, 3, *family.size)
    assert family.latents(clips).shape == z.shape
    pipe, (height, width) = family.pipe, family.size  # the pipeline's own decoding of one step's end
    monkeypatch.setattr(pipe.scheduler, "step", lambda pred, t, x, **_: (x,))
    start = pack(z) if kind == "ltx" else z.transpose(1, 2)
    its = pipe(
        "cat",
        num_inference_steps=2,
        guidance_scale=1.0,
        latents=start,
        height=height,
        width=width,
        num_frames=family.frames,
        output_type="pt",
    ).frames
    assert (clips.clamp(-1, 1) / 2 + 0.5 - its).abs().max() < 1e-5
    with pytest.raises(StillhouseError, match=f"multiple of {family.pace} frames, not {family.frames - 1}"):  # type: ignore[attr-defined]
        family.latents(clips[:, 1:])


@pytest.mark.parametrize("kind", ["wan", "ltx"])
def test_gradients_flow_and_states_are_checked(kind: str, opened: Opened) -> None:
    family = opened(kind)
    student = family.denoiser().copy()
    x = noise(family).requires_grad_()
    student(x, torch.tensor([0.7, 0.3]), family.encode(PROMPTS)).x0.square().mean().backward()
    assert x.grad is not None and x.grad.abs().min(dim=0).values.max() > 0
    assert all(p.grad is not None for p in student.parameters())
    assert student.get_submodule(f"net.{family.middle}") is not None
    with pytest.raises(StillhouseError, match=r"takes states \(B, f, "):
        student(noise(family).transpose(1, 2)[:, :1].transpose(1, 2)[:, :, :, 0], torch.tensor([0.7, 0.3]))


def test_distilling_wan(built: Built, tmp_path: Path) -> None:
    """Two iterations on prompts alone; the student is saved, and opens as a student and as a pipeline."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\nsmall cat\na blue square\na dog\n")
    teacher = stillhouse.load(built("wan"), **SMALL)
    assert teacher.form == "video" and teacher.sample(1, "a red cat", steps=2).shape == (1, 5, 3, 16, 32)
    options: dict[str, Any] = {
        "gan_weight": 0,
        "fake_per_student": 1,
        "iterations": 2,
        "batch": 2,
        "steps": 1,
    }
    student = stillhouse.distill(teacher, "dmd2", data=prompts, out=tmp_path / "run", quiet=True, **options)
    mine = student.sample(2, ["small cat"], latents=True)
    assert mine.shape == (2, 2, 4, 2, 4) and mine.isfinite().all()
    moved = [
        (p - q).abs().max()
        for p, q in zip(student.denoiser.parameters(), teacher.denoiser.parameters(), strict=True)
    ]
    assert max(moved) > 0

    again = stillhouse.load(student.save_pretrained(tmp_path / "student"))
    assert again.shape == student.shape
    torch.testing.assert_close(again.sample(2, ["small cat"], latents=True), mine, atol=1e-5, rtol=0)

    from diffusers import DiffusionPipeline, WanPipeline

    pipe = DiffusionPipeline.from_pretrained(str(tmp_path / "student"))
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe, WanPipeline)
    z = torch.randn(1, 2, 4, 2, 4, generator=torch.Generator().manual_seed(2))
    pred = pipe(
        "small cat",
        num_inference_steps=1,
        guidance_scale=1.0,
        latents=z.transpose(1, 2),
        height=16,
        width=32,
        num_frames=5,
        output_type="latent",
    ).frames
    with torch.no_grad():
        expected = student.denoiser(z, torch.ones(1), student.condition_of(1, "small cat")).x0
    assert (pred.transpose(1, 2) - expected).abs().max() < 1e-4
    card = (tmp_path / "student" / "README.md").read_text()
    assert "text-to-video" in card and "num_frames=5" in card and ".frames[0]" in card


def test_streaming_needs_a_causal_network(built: Built) -> None:
    teacher = stillhouse.load(built("wan"), **SMALL)
    data = torch.zeros(2, *teacher.shape), teacher.condition_of(2, PROMPTS)
    with pytest.raises(StillhouseError, match="can be causal .video_dit., not WanTransformer3DModel"):
        stillhouse.distill(teacher, "causvid", data=data, iterations=1, quiet=True)


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("wan", {"frames": 0}, "1 more than a multiple of 4 for WanPipeline, not 0"),
        ("wan", {"frames": 6}, "1 more than a multiple of 4 for WanPipeline, not 6"),
        ("ltx", {"frames": 10}, "1 more than a multiple of 8 for LTXPipeline, not 10"),
        ("wan", {"frames": 5, "height": 24}, "height must be a multiple of 16 pixels"),
        ("sd", {"frames": 5}, "makes pictures, which have no frames"),
    ],
)
def test_bad_sizes(kind: str, options: dict[str, Any], sentence: str, built: Built) -> None:
    with pytest.raises(StillhouseError, match=sentence):
        open_pipeline(built(kind), **options)


def test_two_networks_are_refused(opened: Opened) -> None:
    pipe = opened("wan").pipe
    pair = type(pipe)(**{**pipe.components, "transformer_2": pipe.transformer}, boundary_ratio=0.9)
    with pytest.raises(StillhouseError, match="two networks"):
        Wan(pair, **SMALL)

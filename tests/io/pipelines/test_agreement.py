"""The proof: our denoiser, our solver and the pipeline's own times give what the pipeline's own call
gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stillhouse.core.guidance import Guided
from stillhouse.io.pipelines import Family
from stillhouse.io.pipelines.flux import pack, unpack
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers import make_solver

Opened = Callable[[str], Family]
PROMPTS = ["a red circle above a blue square", "small cat"]
STEPS, SCALE = 4, 3.0
TEXT = [
    "sd",
    "sd2",
    "sd2_zero",
    "sdxl",
    "sdxl_edm",
    "sd3",
    "flux",
    "flux_schnell",
    "pixart",
    "pixart_alpha",
    "sana",
]


def noise(family: Family, rows: int = 2) -> Tensor:
    return torch.randn(rows, *family.shape, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def ours(
    family: Family, z: Tensor, cond: Any, scale: float = SCALE, solver: Any = "ddim", steps: int = STEPS
) -> Tensor:
    """Latents by our denoiser and solver along the pipeline's times."""
    denoiser = family.denoiser()
    told = torch.full((len(z),), scale) if family.takes_guidance else None
    model = denoiser if family.takes_guidance or scale == 1 else Guided(denoiser, scale)
    return rollout(
        model, z * family.start(steps), family.times(steps), make_solver(solver), cond, guidance=told
    )


def theirs(family: Family, z: Tensor, scale: float = SCALE, steps: int = STEPS) -> Tensor:
    """Latents by the pipeline's own call."""
    name = type(family.pipe).__name__
    height, width = family.size
    packed = name == "FluxPipeline"
    pred = family.pipe(
        PROMPTS,
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=pack(z) if packed else z,
        height=height,
        width=width,
        output_type="latent",
        **({"use_resolution_binning": False} if name.startswith(("PixArt", "Sana")) else {}),
    ).images
    return unpack(pred, *family.shape[1:]) if packed else pred


@pytest.mark.parametrize("kind", TEXT)
def test_latents_are_those_of_the_pipeline(kind: str, opened: Opened) -> None:
    family = opened(kind)
    z = noise(family)
    mine, its = (
        ours(family, z, family.encode(PROMPTS), 1.0 if kind == "flux_schnell" else SCALE),
        theirs(family, z),
    )
    assert (mine - its).abs().max() < 1e-4
    assert its.std() > 0.1  # and there is something to agree on


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "flux", "pixart"])
def test_the_prompt_and_the_scale_matter(kind: str, opened: Opened) -> None:
    family = opened(kind)
    z = noise(family)
    right = theirs(family, z)
    assert (ours(family, z, family.encode(["dog", "dog"])) - right).abs().max() > 1e-3
    assert (ours(family, z, family.encode(PROMPTS), 2.0) - right).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "config", "steps"),
    [
        ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}, 5),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", "use_karras_sigmas": True}, 5),
        ("DPMSolverMultistepScheduler", {}, 6),
        ("HeunDiscreteScheduler", {"timestep_spacing": "linspace"}, 3),
        ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}, 5),
        ("DDIMScheduler", {"beta_schedule": "linear", "prediction_type": "sample"}, 5),
        (
            "DDIMScheduler",
            {"num_train_timesteps": 200, "trained_betas": [1e-4 * (1 + i) for i in range(200)]},
            5,
        ),
    ],
)
def test_other_schedulers(name: str, config: dict[str, Any], steps: int, opened: Opened) -> None:
    """The same network under another scheduler: other grids, starts, solvers and tables."""
    import diffusers

    pipe = opened("sd").pipe
    pipe = type(pipe)(
        **{
            **pipe.components,
            "scheduler": getattr(diffusers, name).from_config({**pipe.scheduler.config, **config}),
        },
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    family = type(opened("sd"))(pipe)
    z = noise(family)
    mine = ours(family, z, family.encode(PROMPTS), solver=family.schedule.solver, steps=steps)
    assert (mine - theirs(family, z, steps=steps)).abs().max() < 1e-4


def recorded(family: Family, call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The last state of a pipeline that gives pictures only."""
    step, states = family.pipe.scheduler.step, []

    def stepped(*args: Any, **kwargs: Any) -> Any:
        pred = step(*args, **kwargs)
        states.append(pred.prev_sample)
        return pred

    monkeypatch.setattr(family.pipe.scheduler, "step", stepped)
    call()
    return states[-1]


def test_dit(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    family = opened("dit")
    generator = torch.Generator().manual_seed(5)
    labels = [3, 970]
    its = recorded(family, lambda: family.pipe(labels, SCALE, generator, STEPS, "pt"), monkeypatch)[:2]
    assert (ours(family, noise(family), torch.tensor(labels)) - its).abs().max() < 1e-4


def test_ddpm(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    family = opened("ddpm")
    generator = torch.Generator().manual_seed(5)
    its = recorded(
        family, lambda: family.pipe(2, generator, num_inference_steps=STEPS, output_type="pt"), monkeypatch
    )
    assert (ours(family, noise(family), None, 1.0) - its).abs().max() < 1e-4
    assert family.encode is not None and family.empty is None and family.codec is None


def test_edm_unet(opened: Opened) -> None:
    """No stock pipeline walks an EDM U-Net of pixels: its scheduler is walked by hand, with its own scaling
    of input and output."""
    family = opened("edm")
    scheduler, z = family.pipe.scheduler, noise(family)
    scheduler.set_timesteps(STEPS)
    x = z * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(family.network(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    mine = ours(family, z, None, 1.0)
    assert (mine - x).abs().max() < 1e-4 * x.abs().max()
    assert family.start(STEPS) == pytest.approx(scheduler.init_noise_sigma)

"""Saving students of pipelines: which scheduler is chosen, what the folder holds, what the card says, and
what is refused."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DDIMPipeline
from safetensors.torch import load_file

from stillhouse.adapters import Adapted, adapted
from stillhouse.api.runs import distill, open_model
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError
from stillhouse.core.guidance import takes_guidance
from stillhouse.io.export import choose, save_pipeline, with_guidance_input
from stillhouse.io.export.few_step_scheduler import FewStepScheduler
from stillhouse.io.export.schedulers import own_scheduler
from stillhouse.io.export.walks import walk
from stillhouse.io.pipelines import open_pipeline, tiny
from stillhouse.model import Model
from stillhouse.opening import from_pipeline, load
from stillhouse.parts.players.students import with_inputs
from stillhouse.samplers.rollout import rollout
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers import make_solver

Opened = Callable[[str], Model]
ONE = {1: Sampling([1.0, 0.0], "renoise")}


def even(k: int, solver: Any = "renoise") -> Sampling:
    return Sampling([1 - i / k for i in range(k)] + [0.0], solver)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture(scope="module")
def opened(root: Path) -> Opened:
    """Tiny pipelines as models; shared, so not to be changed."""
    made: dict[str, Model] = {}

    def model(kind: str) -> Model:
        if kind not in made:
            sides = {"height": 64, "width": 64} if kind == "flux" else {}
            made[kind] = from_pipeline(open_pipeline(tiny.build(kind, root / kind), **sides))
        return made[kind]

    return model


def student(
    teacher: Model, samplings: dict[int, Sampling], denoiser: Denoiser | None = None, **info: Any
) -> Model:
    return replace(
        teacher,
        denoiser=denoiser or teacher.denoiser,
        samplings=samplings,
        free_steps=False,
        info={"method": "dmd2", **info},
    )


def with_lora(root: Path, kind: str = "sd", seed: int = 0) -> Model:
    """A student that is an adapter, on a base of its own."""
    teacher = from_pipeline(open_pipeline(tiny.build(kind, root / f"{kind}-{seed}", seed=seed)))
    own = adapted(teacher.denoiser, 3, alpha=6.0).copy()
    with torch.no_grad():
        for p in own.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    return student(teacher, ONE, own)


# -- the scheduler ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "samplings", "name", "config", "steps"),
    [
        ("sd", ONE, "DDIMScheduler", {"timestep_spacing": "trailing"}, [1]),
        ("sd", {k: even(k) for k in (4, 1, 2)}, "LCMScheduler", {}, [4, 1, 2]),
        (
            "sd",
            {4: Sampling([1.0, 0.76, 0.5, 0.26, 0.0], "renoise")},
            "LCMScheduler",
            {"original_inference_steps": 50},
            [4],
        ),
        ("sd", {4: even(4, "ddim")}, "DDIMScheduler", {"timestep_spacing": "trailing"}, [4]),
        ("sd", {3: even(3, "ddim")}, "FewStepScheduler", {}, [3]),  # thirds are no steps of the table
        ("sd", {3: Sampling([1.0, 0.75, 0.5, 0.0], "leap")}, "FewStepScheduler", {}, [3]),
        (
            "sd",
            {2: Sampling([1.0, 0.5, 0.0], "leap")},
            "LCMScheduler",
            {},
            [2],
        ),  # a leap from 1 over 1/2 ends at the clean end
        ("sd3", {4: even(4, "ddim")}, "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": False}, [4]),
        (
            "sd3",
            {k: even(k) for k in (4, 1, 2)},
            "FlowMatchEulerDiscreteScheduler",
            {"stochastic_sampling": True},
            [4],
        ),
        ("sd3", {3: Sampling([1.0, 0.8, 0.1, 0.0], "ddim")}, "FewStepScheduler", {}, [3]),
        (
            "flux",
            {k: even(k) for k in (4, 1, 2)},
            "FlowMatchEulerDiscreteScheduler",
            {"shift": 1.0},
            [4, 1, 2],
        ),
        (
            "flux",
            {3: Sampling([1.0, 6 / 7, 0.6, 0.0], "ddim")},
            "FlowMatchEulerDiscreteScheduler",
            {"shift": 3.0},
            [3],
        ),
    ],
)
def test_the_choice(
    kind: str,
    samplings: dict[int, Sampling],
    name: str,
    config: dict[str, Any],
    steps: list[int],
    opened: Opened,
) -> None:
    model = student(opened(kind), samplings)
    choice = choose(model.pipeline, model.denoiser, model.samplings)  # type: ignore[arg-type]
    assert (choice.name, choice.steps, choice.own) == (name, steps, name == "FewStepScheduler")
    assert {k: choice.scheduler.config[k] for k in config} == config
    assert any("use stillhouse.load" in pred for pred in choice.remarks) == (len(steps) < len(samplings))


def test_a_start_that_a_pipeline_cannot_make_is_told(opened: Opened) -> None:
    low = {1: Sampling([0.6, 0.0], "renoise")}
    there = {kind: student(opened(kind), low) for kind in ("sd", "sd3")}
    pred = {kind: choose(m.pipeline, m.denoiser, m.samplings) for kind, m in there.items()}  # type: ignore[arg-type]
    walked = pred["sd"].scheduler
    walked.set_timesteps(1)
    ratio = float(opened("sd").denoiser.process.ratio(torch.tensor([0.6])))  # Euler's counts in sigma / alpha
    assert walked.timesteps.tolist() == [599] and float(walked.init_noise_sigma) == pytest.approx(
        ratio, rel=1e-5
    )
    assert not pred["sd"].remarks and "starts from 0.6" in pred["sd3"].remarks[0]


def test_students_start_as_pipelines_do(opened: Opened) -> None:
    assert student(opened("sd"), ONE).sampling().start == 1.0  # not sigma(1) = 0.9977
    assert (
        student(opened("flux"), ONE).sampling().guidance == 3.5
    )  # what it is told where nobody says anything
    assert student(opened("sd"), ONE).sampling().guidance == 1.0


@pytest.mark.parametrize(
    "solver", ["ddim", "renoise", "leap", {"name": "renoise", "gamma": 0.4}, {"name": "ddim", "eta": 0.7}]
)
@pytest.mark.parametrize("kind", ["sd", "sd2", "sd3"])
def test_rows_are_the_solver(kind: str, solver: Any, opened: Opened) -> None:
    """Our scheduler's weighted sums are the steps of the solver, whatever the network predicts."""
    model = student(opened(kind), {3: Sampling([1.0, 0.61, 0.2, 0.0], solver)})
    scheduler = own_scheduler(
        model.denoiser, {3: walk(model.pipeline, model.denoiser, model.sampling())}, True
    )  # type: ignore[arg-type]
    scheduler.set_timesteps(3)

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.sin(x + t / 500)

    def call(_: Any, x: torch.Tensor, t: torch.Tensor, cond: Any) -> torch.Tensor:
        return net(x, model.pipeline.step_of(t)[:, None])  # type: ignore[union-attr]

    class Noise:
        stream = torch.Generator().manual_seed(2)

        def normal_like(self, x: torch.Tensor) -> torch.Tensor:
            return torch.randn(x.shape, generator=self.stream)

    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    fake = Denoiser(torch.nn.Identity(), model.denoiser.process, model.denoiser.kind, call=call)
    ours = rollout(fake, x, model.sampling().times, make_solver(solver), draws=Noise())  # type: ignore[arg-type]
    generator, y = torch.Generator().manual_seed(2), x
    for t in scheduler.timesteps:
        y = scheduler.step(net(scheduler.scale_model_input(y, t), t), t, y, generator=generator).prev_sample
    assert (y - ours).abs().max() < 1e-4
    clean = torch.ones(1, 5)
    level = model.denoiser.process.alpha(torch.tensor(0.61)).item()
    assert scheduler.add_noise(clean, 0 * clean, scheduler.timesteps[1:2]).mean().item() == pytest.approx(
        level, abs=1e-5
    )


def test_solvers_with_memory_are_refused(opened: Opened) -> None:
    model = student(opened("sd"), {4: even(4, "dpm++")})
    with pytest.raises(StillhouseError, match=r"solver 'dpm\+\+' can't be given to Diffusers"):
        choose(model.pipeline, model.denoiser, model.samplings)  # type: ignore[arg-type]


def test_our_scheduler_speaks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pred: list[str] = []
    monkeypatch.setattr("stillhouse.io.export.few_step_scheduler.logger.warning", pred.append)
    row = [999.0, 1.0, 0.5, -0.5, 0.0, 0.1, 0.99]
    scheduler = FewStepScheduler({"1": [row]}, {"1": 0.5})
    with pytest.raises(ValueError, match=r"made for 1 step\(s\), not 30: pass num_inference_steps=1"):
        scheduler.set_timesteps(30)
    for _ in range(2):
        scheduler.set_timesteps(sigmas=[1.0], mu=0.7)
        x = torch.ones(2, 3)
        scheduler.scale_model_input(torch.cat([x, x]), scheduler.timesteps[0])  # as pipelines do for guidance
        scheduler.step(x, scheduler.timesteps[0], x)
    assert len(pred) == 1 and "guidance_scale=1.0" in pred[0]
    assert scheduler.init_noise_sigma == 0.5 and scheduler.timesteps.tolist() == [999.0]


# -- the folder ------------------------------------------------------------------------------------


def test_the_live_network_is_left_alone(root: Path, tmp_path: Path) -> None:
    model = with_lora(root)
    pipe = model.pipeline.pipe  # type: ignore[union-attr]
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    scheduler, config = pipe.scheduler, dict(pipe.unet.config)
    model.save_pretrained(tmp_path / "student")
    after = pipe.unet.state_dict()
    assert list(after) == list(before) and all(torch.equal(v, after[k]) for k, v in before.items())
    assert (
        pipe.scheduler is scheduler
        and dict(pipe.unet.config) == config
        and pipe.unet.time_embedding.cond_proj is None
    )
    saved = load_file(tmp_path / "student" / "unet" / "diffusion_pytorch_model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in saved)
    assert not saved[
        "time_embedding.cond_proj.weight"
    ].any()  # the input that keeps pipelines from evaluating twice


def test_forms(root: Path, tmp_path: Path) -> None:
    model = with_lora(root)
    model.save_pretrained(tmp_path / "lora", form="lora")
    model.save_pretrained(tmp_path / "full", form="full")
    files = {f.name for f in (tmp_path / "lora").iterdir()}
    assert files == {
        "pytorch_lora_weights.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
        "kohya.safetensors",
        "scheduler",
        "stillhouse.json",
        "README.md",
    }
    assert not (tmp_path / "full" / "lora").exists()
    ours, theirs = (
        load_file(tmp_path / "lora" / name)
        for name in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
    )
    up = next(key for key in theirs if ".lora_B." in key)
    assert torch.allclose(
        theirs[up], 2 * ours[f"base_model.model.{up.removeprefix('unet.')}"]
    )  # alpha / rank = 6 / 3
    with pytest.raises(StillhouseError, match="saved as a LoRA"):
        student(model, ONE, model.denoiser.merged()).save_pretrained(tmp_path / "no", form="lora")  # type: ignore[union-attr]
    with pytest.raises(StillhouseError, match="no form of a saved student 'lor'"):
        model.save_pretrained(tmp_path / "no", form="lor")
    assert not (tmp_path / "no").exists()


def test_an_inverse_student_is_kept(root: Path, tmp_path: Path) -> None:
    model = with_lora(root)
    back = model.denoiser.copy()
    with torch.no_grad():
        for p in back.parameters():
            p += 0.1
    model = replace(model, companions={"inverse": back})
    folder = model.save_pretrained(tmp_path / "both")
    x, t = torch.ones(1, *model.shape), torch.tensor([0.5])
    with torch.no_grad():
        for again in (load(folder), load(folder / "lora", base=root / "sd-0")):
            for ours, theirs in ((model.denoiser, again.denoiser), (back, again.companions["inverse"])):
                assert (ours(x, t).raw - theirs(x, t).raw).abs().max() < 1e-5
        assert (back(x, t).raw - model.denoiser(x, t).raw).abs().max() > 1e-2


def test_a_run_leaves_a_pipeline(root: Path, tmp_path: Path) -> None:
    teacher = from_pipeline(open_pipeline(tiny.build("ddpm", root / "ddpm-run")))
    x = torch.randn(4, *teacher.shape, generator=torch.Generator().manual_seed(0))
    options = {"teacher_steps": 4, "steps": 2, "iterations": 1, "batch": 2}
    made = distill(teacher, "progressive", data=(x, None), out=tmp_path / "run", quiet=True, **options)
    again = open_model(tmp_path / "run")
    assert torch.equal(again.sample(2, seed=1), made.sample(2, seed=1))
    assert again.info["options"]["steps"] == 2 and not again.free_steps
    assert (
        DDIMPipeline.from_pretrained(tmp_path / "run" / "model").scheduler.config.timestep_spacing
        == "trailing"
    )


def test_a_lora_wants_its_own_base(root: Path, tmp_path: Path) -> None:
    model = with_lora(root)
    model.save_pretrained(tmp_path / "lora", form="lora")
    other = tiny.build("sd", root / "other", seed=1)
    with pytest.raises(
        StillhouseError, match="was trained on other weights than this UNet2DConditionModel's"
    ):
        load(tmp_path / "lora", base=other)
    with pytest.raises(
        StillhouseError,
        match="belongs to a UNet2DConditionModel of .* weights, not to this SD3Transformer2DModel",
    ):
        load(tmp_path / "lora", base=tiny.build("sd3", root / "sd3-base"))
    with pytest.raises(StillhouseError, match="give the pipeline it was trained on"):
        load(tmp_path / "lora")
    again = load(tmp_path / "lora", base=model)  # the base in memory, with the run's adapters on it
    assert isinstance(again.denoiser, Adapted)
    kept = [load_file(tmp_path / "lora" / "adapter_model.safetensors")]
    again.save_pretrained(tmp_path / "again", form="lora")
    kept.append(load_file(tmp_path / "again" / "adapter_model.safetensors"))
    assert all(torch.equal(kept[0][k], kept[1][k]) for k in kept[0])
    with pytest.raises(StillhouseError, match="a whole pipeline, no LoRA"):
        load(model.save_pretrained(tmp_path / "full", form="full"), base=other)


def test_whole_or_not_at_all(opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = student(opened("sd"), ONE)
    folder = model.save_pretrained(tmp_path / "mine")
    before = (folder / "README.md").read_text()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stillhouse.io.export.save._write_about", full)
    with pytest.raises(StillhouseError, match="No space left on device"):
        model.save_pretrained(folder)
    monkeypatch.undo()
    assert [f.name for f in tmp_path.iterdir()] == ["mine"] and (folder / "README.md").read_text() == before
    replace(model, info={"method": "sid"}).save_pretrained(folder)  # a student may be saved again
    assert "`sid`" in (folder / "README.md").read_text()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    with pytest.raises(StillhouseError, match="something else than a saved student"):
        model.save_pretrained(tmp_path / "photos")
    assert (tmp_path / "photos" / "a.png").exists()


def test_a_foreign_network_is_refused(opened: Opened, tmp_path: Path) -> None:
    model = student(opened("sd"), ONE)
    foreign = Denoiser(torch.nn.Linear(2, 2), model.denoiser.process, "eps")
    with pytest.raises(StillhouseError, match="no network of the StableDiffusionPipeline"):
        save_pipeline(tmp_path / "no", model.pipeline, foreign, model.samplings)  # type: ignore[arg-type]


# -- the card --------------------------------------------------------------------------------------


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    text = (folder / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1]), text


def test_the_card_runs_and_inherits(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.build("sd", tmp_path / "base")
    (base / "README.md").write_text(
        "---\nlicense: creativeml-openrail-m\nbase_model: owner/name\n---\n# Base\n"
    )
    teacher = from_pipeline(open_pipeline(base))
    own = student(
        teacher,
        ONE,
        adapted(teacher.denoiser, 2).copy(),
        options={"guidance": 7.5},
        measured={"fidelity": 0.93},
    )
    folder = own.save_pretrained(tmp_path / "turbo")
    for place in (folder, folder / "lora"):
        meta, text = card_of(place)
        assert "\n# base in 1 step\n" in text  # of what, and how fast; not the folder's name
        assert (
            meta["license"] == "creativeml-openrail-m"
            and meta["base_model"] == "owner/name"
            and meta["pipeline_tag"] == "text-to-image"
        )
        assert (
            "| fidelity | 0.93 |" in text and "| guidance | 7.5 |" in text and "names no licence" not in text
        )
        assert ("lora" in meta["tags"]) == (place != folder) and str(tmp_path) not in text
        code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
        assert code
        monkeypatch.chdir(tmp_path)
        pred: dict[str, Any] = {}
        exec(code[1], pred)
        assert pred["image"].size == (64, 64)


def test_the_card_tells_the_guidance(opened: Opened, tmp_path: Path) -> None:
    pred = {
        kind: card_of(student(opened(kind), ONE).save_pretrained(tmp_path / kind))[1]
        for kind in ("sd", "sd3", "flux")
    }
    assert "whatever its `guidance_scale`" in pred["sd"] and "guidance_scale=" not in pred["sd"]
    assert (
        "num_inference_steps=1, guidance_scale=1.0)" in pred["sd3"]
        and "default is 7, and no setting" in pred["sd3"]
    )
    assert "guidance_scale=3.5, height=64, width=64)" in pred["flux"] and "costs nothing" in pred["flux"]
    assert "names no licence" in pred["sd"]


def test_our_own_scheduler_is_announced(opened: Opened, tmp_path: Path) -> None:
    folder = student(opened("sd"), {3: even(3, "ddim")}).save_pretrained(tmp_path / "thirds")
    assert "trust_remote_code=True" in card_of(folder)[1]
    assert json.loads((folder / "model_index.json").read_text())["scheduler"] == [
        "few_step_scheduler",
        "FewStepScheduler",
    ]
    assert "stillhouse" not in re.sub(
        r'"""(.*?)"""', "", (folder / "scheduler" / "few_step_scheduler.py").read_text(), flags=re.DOTALL
    )


# -- guidance as an input --------------------------------------------------------------------------


def test_a_grown_guidance_input_starts_without_effect(opened: Opened) -> None:
    teacher = opened("sd").denoiser
    more = with_inputs(teacher, guidance_input=True)
    assert takes_guidance(more) and not takes_guidance(teacher)
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.9, 0.4])
    w = torch.tensor([1.0, 7.5])
    with torch.no_grad():
        assert torch.equal(more(x, t, guidance=w).raw, teacher(x, t).raw)
        more.net.time_embedding.cond_proj.weight.normal_(generator=torch.Generator().manual_seed(1))  # type: ignore[operator, union-attr]
        heard = more(x, t, guidance=w).raw
        waves = opened("sd").pipeline.pipe.get_guidance_scale_embedding(w - 1, embedding_dim=256)  # type: ignore[union-attr]
        cond = opened("sd").pipeline.empty["tokens"].expand(2, -1, -1)  # type: ignore[union-attr]
        theirs = more.net(x, t * 1000 - 1, encoder_hidden_states=cond, timestep_cond=waves).sample
    assert (heard - theirs).abs().max() < 1e-4 < (heard - teacher(x, t).raw).abs().max()


def test_networks_without_such_an_input(opened: Opened) -> None:
    with pytest.raises(StillhouseError, match="A SD3Transformer2DModel has no input for the guidance scale"):
        with_guidance_input(opened("sd3").denoiser.net)


def test_guidance_asked_of_a_student_without(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    model = student(opened("sd"), ONE)
    with caplog.at_level(logging.WARNING, logger="stillhouse"):
        model.sample(1, "a dog")
        assert not caplog.records
        model.sample(1, "a dog", guidance=7.5)
        model.sample(1, "a dog", guidance=7.5)
    assert caplog.text.count("needs no guidance") == 1


def test_a_fine_tuned_pipeline_is_guided_as_before(tmp_path):
    model = load(tiny.build("sd", tmp_path / "sd"))
    model.samplings = {4: model.sampling(4).changed(guidance=1.0)}
    for method, no_scale in (("denoising", False), ("lora_distill", True)):
        replace(model, info={"method": method}).save_pretrained(tmp_path / method)
        config = json.loads((tmp_path / method / "unet" / "config.json").read_text())
        assert (config.get("time_cond_proj_dim") is not None) == no_scale


def test_nothing_tells_where_on_this_machine_it_was_made(tmp_path):
    model = load(tiny.build("sd", tmp_path / "secret-place"))
    model.save_pretrained(tmp_path / "out")
    told = [f.name for f in (tmp_path / "out").rglob("*.json") if str(tmp_path) in f.read_text()]
    assert not told and load(tmp_path / "out").shape == model.shape

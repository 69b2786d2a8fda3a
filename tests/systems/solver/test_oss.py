import json
import sys
from dataclasses import replace

import diffusers
import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import VE, Cosine, Flow
from stillhouse.io.pipelines import tiny
from stillhouse.opening import load
from stillhouse.parts.states.schedule_search import median_path, search, straight_times, walk
from stillhouse.samplers.rollout import rollout
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers import make_solver
from stillhouse.systems.base import Work
from stillhouse.systems.solver.oss import OSS, slope_of
from stillhouse.train.data import NoData, Prompts
from stillhouse.worlds.mixture.layouts import make_mixture

GRID = 20


def setting(process, rows=6, guidance=1.0, classes=0):
    """A slope, the states it starts from, the straight times and the grid, rising."""
    world = make_mixture("grid")
    base = Sampling.steps(process, GRID, solver="ddim", guidance=guidance)
    grid = list(reversed(base.times))
    cond = torch.arange(rows) % world.classes if classes else None
    slope = slope_of(world.exact(process), base, grid, cond)
    y = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    return slope, y, straight_times(process, grid), base


@pytest.mark.parametrize("process", [Flow(), Cosine(), VE()], ids=lambda p: p.name)
def test_the_straight_path_is_the_ddim_walk_of_every_process(process):
    world = make_mixture("grid")
    teacher = load(world.exact(process), shape=(2,), steps=GRID)
    slope, _, times, base = setting(process)
    x = process.start(Work(NoData((2,))).draws(6, "x"), (2,))
    scale = float(process.alpha(torch.ones(1).double()) + process.sigma(torch.ones(1).double()))
    ours = walk(slope, x / scale, times, range(GRID, -1, -1))[-1]
    theirs = rollout(teacher.denoiser, x, base.times, make_solver("ddim"))
    assert torch.allclose(ours, theirs, atol=2e-4)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("anchor", [False, True])
def test_a_path_read_back_ends_at_the_cost_that_was_noted(each, anchor):
    slope, y, times, _ = setting(Flow(), guidance=2.0, classes=1)
    tables = search(slope, y, times, 5, each=each, anchor=anchor)
    target = walk(slope, y, times, range(GRID, -1, -1))[-1]
    for group in range(len(y) if each else 1):
        path = tables.path(5, group)
        assert path[-1] == 0 and all(a > b for a, b in zip(path, path[1:], strict=False))
        assert len(path) <= 6 and (path[0] == GRID or not anchor)
        away = (walk(slope, y, times, path)[-1] - target).square()
        cost = away[group].mean() if each else away.mean()
        assert float(cost) == pytest.approx(float(tables.costs[0, group]), rel=1e-4)


def test_more_steps_never_cost_more_and_all_of_them_cost_nothing():
    slope, y, times, _ = setting(Flow())
    costs = [float(search(slope, y, times, n).costs[0, 0]) for n in (1, 2, 4, 8, GRID)]
    assert all(a >= b for a, b in zip(costs, costs[1:], strict=False))
    assert search(slope, y, times, 1).path(1) == (GRID, 0)
    assert costs[-1] < 1e-10


def test_two_steps_are_the_best_of_all_pairs():
    slope, y, times, _ = setting(Flow())
    target = walk(slope, y, times, range(GRID, -1, -1))[-1]
    every = {
        i: float((walk(slope, y, times, (GRID, i, 0))[-1] - target).square().mean()) for i in range(1, GRID)
    }
    assert search(slope, y, times, 2).path(2)[1] == min(every, key=every.__getitem__)


def test_a_median_is_floored_and_drops_its_repetitions():
    assert median_path([(9, 5, 0), (9, 4, 0)], 2) == (9, 4, 0)
    assert median_path([(9, 0), (9, 4, 0), (9, 0)], 2) == (9, 0)
    assert median_path([(9, 7, 0), (9, 5, 0), (9, 2, 0)], 2) == (9, 5, 0)


def found(teacher, data=None, **options):
    return OSS(**{"steps": 4, "grid_steps": GRID, "searched": 4, **options}).apply(
        {"teacher": teacher}, Work(data or NoData(teacher.shape, teacher.classes), quiet=True)
    )


def test_the_product_is_the_teacher_itself_with_searched_times():
    world = make_mixture()
    teacher = load(world.exact(Flow()), shape=(2,), classes=8)
    before = dict(teacher.samplings)
    product = found(teacher, guidance=1.5)
    assert product.denoiser is teacher.denoiser and teacher.samplings == before and teacher.free_steps
    assert list(product.samplings) == [4, 3, 2, 1] and not product.free_steps
    for n, sampling in product.samplings.items():
        assert len(sampling.times) == n + 1 and sampling.guidance == 1.5
        assert sampling.times[0] == 1 and sampling.times[-1] == 0
        assert {round(t * GRID, 6) % 1 for t in sampling.times} == {0}
    with pytest.raises(StillhouseError, match=r"samples in 4, 3, 2, 1 step"):
        product.sample(2, steps=5)


def test_a_schedule_without_anchor_starts_from_the_noise_as_it_was_searched_with():
    world = make_mixture("grid")
    teacher = load(world.exact(Flow()), shape=(2,))
    product = found(teacher, anchor=False)
    assert product.samplings[4].times[0] < 1 and product.samplings[4].start == pytest.approx(1.0)


def test_saved_and_opened_it_samples_the_same(tmp_path):
    world = make_mixture()
    network = world.network(Flow(), 0, width=16, depth=1)
    product = found(load(network, shape=(2,), classes=8), combine="median")
    product.save_pretrained(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.samplings == product.samplings
    assert torch.equal(again.sample(4, seed=1), product.sample(4, seed=1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"steps": 20, "grid_steps": 20}, "grid of more than as many"), ({"steps": 0}, "at least 1")],
)
def test_it_refuses_bad_options_in_one_sentence(options, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        OSS(**options)


def test_it_refuses_a_student():
    world = make_mixture()
    student = found(load(world.exact(Flow()), shape=(2,)))
    with pytest.raises(StillhouseError, match="many-step model"):
        found(student)


# -- Diffusers pipelines ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sd", "sd3"])
def piped(request, tmp_path_factory):
    folder = tiny.build(request.param, tmp_path_factory.mktemp("pipelines") / request.param)
    teacher = load(folder)
    prompts = ["a red circle", "a blue square"]
    data = Prompts(teacher.shape, teacher.text.encode(prompts))
    product = found(teacher, data, steps=3, grid_steps=10, searched=2, guidance=2.0)
    return folder, product


def in_diffusers(pipe, model, prompt):
    """Latents of plain Diffusers and of ours for the same noise, and the times at which its network is
    asked."""
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = pipe(
            prompt, num_inference_steps=3, guidance_scale=2.0, latents=noise, output_type="latent"
        ).images
    sampling = model.sampling(3)
    ours = model.sample(1, prompt, steps=3, start=noise * (sampling.start or 1), latents=True)
    return theirs, ours


def test_plain_diffusers_walks_the_searched_times_from_the_scheduler_alone(piped, tmp_path):
    base, product = piped
    place = product.save_pretrained(tmp_path / "times", form="scheduler")
    names = {f.relative_to(place).as_posix() for f in place.rglob("*") if f.is_file()}
    assert names <= {
        "README.md",
        "stillhouse.json",
        "scheduler/scheduler_config.json",
        "scheduler/few_step_scheduler.py",
    }
    kind = json.loads((place / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
    pipe = diffusers.DiffusionPipeline.from_pretrained(base)
    if hasattr(diffusers, kind):
        scheduler = getattr(diffusers, kind)
    else:
        sys.path.insert(0, str(place / "scheduler"))
        try:
            from few_step_scheduler import FewStepScheduler as scheduler
        finally:
            sys.path.pop(0)
            sys.modules.pop("few_step_scheduler", None)
    pipe.scheduler = scheduler.from_pretrained(place, subfolder="scheduler")
    theirs, ours = in_diffusers(pipe, product, "a red circle")
    assert torch.allclose(theirs, ours, atol=1e-3)
    assert "scheduler" in (place / "README.md").read_text().split("## ")[1]


def test_a_scheduler_opens_again_on_its_base_and_on_no_other(piped, tmp_path):
    base, product = piped
    place = product.save_pretrained(tmp_path / "times", form="scheduler")
    again = load(place, base=str(base))
    assert again.samplings == product.samplings
    assert torch.equal(again.sample(1, "a red circle", seed=2), product.sample(1, "a red circle", seed=2))
    with pytest.raises(StillhouseError, match="scheduler without weights"):
        load(place)
    other = tiny.build(base.name, tmp_path / "other", seed=5)
    with pytest.raises(StillhouseError, match=r"The scheduler in .* was searched on other weights"):
        load(place, base=str(other))


def test_a_whole_pipeline_is_saved_as_well(piped, tmp_path):
    _, product = piped
    place = product.save_pretrained(tmp_path / "whole")
    pipe = diffusers.DiffusionPipeline.from_pretrained(place, trust_remote_code=True)
    theirs, ours = in_diffusers(pipe, product, "a blue square")
    assert torch.allclose(theirs, ours, atol=1e-3)


def test_only_the_base_s_own_network_is_saved_as_a_scheduler_alone(piped, tmp_path):
    _, product = piped
    other = replace(product, denoiser=product.denoiser.copy())
    with pytest.raises(StillhouseError, match="own weights"):
        other.save_pretrained(tmp_path / "no", form="scheduler")
    assert not (tmp_path / "no").exists()

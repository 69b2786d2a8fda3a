"""The schedules of oss, written out from Pei, Hu & Gu, 2025 (arXiv 2503.21774), algorithm 1: every index
keeps the whole path by which it was reached, in float64 and in the coordinates of the straight path."""

import math

import pytest
import torch

from stillhouse.core.schedules import VE, Cosine, Flow, LinearVP
from stillhouse.opening import load
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.base import Work
from stillhouse.systems.solver.oss import OSS
from stillhouse.train.data import NoData
from stillhouse.worlds.mixture.layouts import make_mixture

N, ROWS, STEPS = 9, 5, 3
WORLD = make_mixture("grid")


def teacher_of(process, guidance=1.0):
    teacher = load(WORLD.exact(process), shape=(2,), classes=WORLD.classes)
    return teacher if guidance == 1 else with_guidance(teacher, guidance)


def with_guidance(teacher, guidance):
    teacher.samplings = {n: s.changed(guidance=guidance) for n, s in teacher.samplings.items()}
    return teacher


def paths(teacher, grid, x, cond, w, power, anchor):
    """The best path to index 0 in at most 1 … STEPS steps; the cost is a mean over the rows of ``x``."""
    process, times = teacher.denoiser.process, torch.tensor(grid, dtype=torch.float64)
    level = process.alpha(times) + process.sigma(times)
    straight = process.sigma(times) / level

    def step(y, i, j):
        at = times[i].expand(len(y))
        full, empty = (teacher.denoiser(level[i] * y, at, c).x0 for c in (cond, None))
        slope = (y - empty - w * (full - empty)) / straight[i]
        return y + (straight[j] - straight[i]) * slope

    walked = {N: x / level[N]}
    for i in range(N, 0, -1):
        walked[i - 1] = step(walked[i], i, i - 1)
    best = {i: (math.inf, walked[N], (i,)) for i in range(N + 1) if i == N or not anchor}
    found = []
    for _ in range(STEPS):
        after = dict(best)
        for i in sorted(best, reverse=True):
            for j in range(i):
                z = step(best[i][1], i, j)
                cost = float((z - walked[j]).abs().pow(power).mean())
                if cost < after.get(j, (math.inf,))[0]:
                    after[j] = (cost, z, (*best[i][2], j))
        best = after
        found.append(best[0][2])
    return found


def middle(each):
    """One path for many: the median at each step, floored between the two in the middle."""
    length = max(map(len, each))
    full = sorted([p[0]] * (length - len(p)) + list(p) for p in each)
    columns = [sorted(column) for column in zip(*full, strict=True)]
    half = len(each) // 2
    median = [c[half] if len(each) % 2 else math.floor((c[half - 1] + c[half]) / 2) for c in columns]
    return tuple(dict.fromkeys(median))


CASES = [
    (Flow(), {}),
    (Cosine(), {"guidance": 2.5}),
    (VE(), {"guidance": 0.6, "anchor": False}),
    (LinearVP(), {"combine": "median", "power": 1.0, "guidance": 1.5}),
    (Cosine(), {"combine": "median", "anchor": False, "searched": 4}),
]


@pytest.mark.parametrize(("process", "options"), CASES)
def test_the_schedules_are_those_of_the_algorithm(process, options):
    teacher = teacher_of(process, guidance=1.8)
    data = NoData((2,), WORLD.classes)
    whole = {"steps": STEPS, "grid_steps": N, "searched": ROWS, **options}
    product = OSS(**whole).apply({"teacher": teacher}, Work(data, seed=2, quiet=True))
    rows, w = whole["searched"], options.get("guidance", 1.8)
    work = Work(data, seed=2, quiet=True)
    _, cond = work.rows(rows, "search")
    one = torch.ones(1, dtype=torch.float64)
    x = float(process.sigma(one)) * work.draws(rows, "search").normal(2).double()
    grid = teacher.sampling(N).times[::-1]
    power, anchor = options.get("power", 2.0), options.get("anchor", True)
    if options.get("combine") == "median":
        every = [paths(teacher, grid, x[[r]], cond[[r]], w, power, anchor) for r in range(rows)]
        found = [middle([of_row[n] for of_row in every]) for n in range(STEPS)]
    else:
        found = paths(teacher, grid, x, cond, w, power, anchor)
    wanted = {len(path) - 1: path for path in reversed(found)}
    assert list(product.samplings) == list(wanted)
    level = process.alpha(torch.tensor(grid).double()) + process.sigma(torch.tensor(grid).double())
    for n, path in wanted.items():
        sampling = product.samplings[n]
        assert sampling.times == [grid[i] for i in path] and sampling.guidance == w
        assert sampling.solver == "ddim"
        if path[0] == N:
            assert sampling.start is None
        else:  # the noise as it is, taken for a state of that time
            assert sampling.start == pytest.approx(float(process.sigma(one) * level[path[0]] / level[N]))


def test_a_teacher_with_a_start_of_its_own_keeps_it():
    """A walk that begins with noise of another deviation: scaled to the time at which the schedule begins."""
    teacher, base = teacher_of(Cosine()), Sampling([1.0, 0.75, 0.5, 0.0], "ddim", start=3.0)
    assert OSS()._start(teacher.denoiser, base, (3, 1, 0)) == 3.0
    angle = torch.tensor([math.atan(math.exp(-10)), math.atan(math.exp(10))], dtype=torch.float64)
    low, high = angle.tolist()
    level = [math.cos(a) + math.sin(a) for a in (low + 0.5 * (high - low), high)]
    assert OSS()._start(teacher.denoiser, base, (1, 0)) == pytest.approx(3 * level[0] / level[1])


def test_the_search_keeps_no_graph():
    network = WORLD.network(Flow(), 0, width=16, depth=1)
    traced = []
    network.register_forward_hook(lambda _m, _i, pred: traced.append(pred.raw.requires_grad))
    teacher = load(network, shape=(2,), classes=WORLD.classes)
    OSS(steps=2, grid_steps=4, searched=2).apply(
        {"teacher": teacher}, Work(NoData((2,), WORLD.classes), quiet=True)
    )
    assert traced and not any(traced)

"""The loss of cfd, from Yan et al., 2025 (arXiv 2501.05445), and of the score distillation that it holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillhouse.core.draws import Draws, seed_of
from stillhouse.core.schedules import VE, Cosine, Flow, ScaledLinearVP
from tests.systems.oracle import ROWS, Case, Given


def shown(given: Given) -> Tensor:
    """Row ``i`` shows the scene of number ``i``, counted around."""
    return torch.arange(ROWS) % given.options["scenes"]


def project(place: Tensor, vectors: Tensor) -> Tensor:
    """To the right and upwards of orthographic cameras that look at the origin, (B, P, 2)."""
    back = place / place.norm(dim=1, keepdim=True)
    right = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]).to(back).expand_as(back), back)
    right = right / right.norm(dim=1, keepdim=True)
    camera = torch.stack([right, torch.linalg.cross(back, right)], 1)
    return torch.einsum("bij,bpj->bpi", camera, vectors)


def views(given: Given) -> tuple[Tensor, Any]:
    """What the cameras see; of pictures also how they were rendered."""
    net, place = given.student.net, given.cond["features"]
    if given.options["scene"] == "points":
        return project(place, net.centre[shown(given)]).flatten(1), None
    seen = net.render(shown(given), place, given.shape[-1])
    return seen.rgb, seen


def noise(given: Given, seen: Any, own: Draws) -> Tensor:
    """Fresh, of each camera's own, or of a field on the object, refreshed by ``gamma`` once an iteration."""
    field, place = given.net("state.field"), given.cond["features"]
    if given.options["noise"] == "fresh":
        return own.normal(*given.shape)
    if given.options["noise"] == "per-camera":
        seeds = [seed_of(int(field.key), camera) for camera in place.tolist()]
        made = [
            torch.randn(given.options["scenes"], *given.shape, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        return torch.stack([one[i] for one, i in zip(made, shown(given), strict=True)])
    gamma, fresh = given.options["gamma"], given.draws("field").generator
    for part in [field.noise, *([field.behind] if seen else [])] if given.step else []:
        z = torch.randn(part.shape, generator=fresh, dtype=torch.float64)
        part.copy_((1 - gamma) ** 0.5 * part + gamma**0.5 * z)
    if seen is None:
        return project(place, field.noise[shown(given)]).flatten(1)
    return field(shown(given), place, seen).reshape(ROWS, *given.shape)


def time(given: Given, own: Draws) -> Tensor:
    """Falling over the run of 24 iterations, or random between the same two times; the next step of a
    table."""
    first, last = given.options["first_time"], given.options["last_time"]
    share = own.uniform() if given.options["times"] == "uniform" else given.at(1 - given.step / 23)
    t = last + (first - last) * share
    steps = getattr(given.process, "steps", None)
    return (steps * t).ceil() / steps if steps else t


def loss(given: Given) -> Tensor:
    """Half the squared step ``w (eps_A - eps_B)``, held fixed: summed over a view, a mean over views."""
    x, seen = views(given)
    own = given.draws("student")
    with torch.no_grad():
        eps = noise(given, seen, own)
        t = time(given, own)
        x_t = given.noise(x, t, eps)
        predicted = given.guided(given.teacher, x_t, t, given.options["guidance"], "eps")
        t = t.reshape(-1, *[1] * len(given.shape))
        alpha, sigma = given.process.alpha(t), given.process.sigma(t)
        weight = {
            "ratio": sigma / alpha,
            "sigma2": sigma**2 / (alpha**2 + sigma**2),  # sigma^2 of the variance-preserving process
            "one": torch.ones_like(sigma),
        }[given.options["weight"]]
        step = weight * (predicted - eps)
    return 0.5 * (x - (x - step).detach()).square().sum() / ROWS


WHOLE = {"scenes": 4, "guidance": 2.5, "gamma": 0.2, "first_time": 0.9, "last_time": 0.3}
SMALL = {**WHOLE, "scene": "gaussians", "size": 12}
PICTURES = {
    "world": {"kind": None},
    "network": {"width": None, "depth": None, "channels": (8, 8)},
    "within": 9,
}
CASES = [
    Case("student", loss, Flow(), "velocity", WHOLE),
    Case("student", loss, Cosine(), "v", {**WHOLE, "weight": "sigma2"}, embedded=True, within=9),
    Case("student", loss, VE(), "edm", {**WHOLE, "noise": "per-camera", "times": "uniform"}, within=9),
    Case("student", loss, VE(), "edm", {**WHOLE, "noise": "fresh", "weight": "sigma2"}, within=5),
    Case("student", loss, ScaledLinearVP(), "eps", {**SMALL, "weight": "one"}, **PICTURES),
    Case("student", loss, Flow(), "velocity", {**SMALL, "noise": "per-camera"}, **PICTURES),
]

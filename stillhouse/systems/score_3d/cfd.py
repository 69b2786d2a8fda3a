"""cfd: views of one object walk down the teacher's ODE together, each from the noise that it sees on the
object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.guidance import Guided
from stillhouse.models import build_model
from stillhouse.models.scenes import Rendering, Scene
from stillhouse.models.scenes.base import Rendered
from stillhouse.parts.gaps.score import SCORE_WEIGHTS, sds_gradient, surrogate_loss
from stillhouse.parts.scenes.distill_3d import falling
from stillhouse.parts.scenes.noise_field import NoiseField, field_for, fixed_per_camera
from stillhouse.parts.states.time_sampler import trained
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.method import Method
from stillhouse.train.option import option
from stillhouse.train.recipe import Optim

SIZES = {"gaussians": "count", "voxels": "edge", "points": "count"}


@dataclass
class CFD(Method):
    """Consistent Flow Distillation for Text-to-3D Generation. Yan, Chen & Wang, 2025 (arXiv 2501.05445).

    The student is a scene that ignores noise and time and shows what its camera sees. Its views take the
    place of the clean variable of the teacher's ODE, whose noise is fixed on the object, so that all cameras
    follow parts of one flow; time falls from ``first_time`` to ``last_time`` in the course of the run. With
    fresh noise, random times and the weight ``sigma2`` it is score distillation sampling.
    """

    scene: str = option("gaussians", "what the object is made of", choices=tuple(SIZES))
    size: int = option(128, "Gaussians or points of a scene; for voxels, how many along an edge", low=1)
    scenes: int = option(
        1,
        "independent objects that are made at once; row i of a batch shows the one of number i, counted "
        "around",
        low=1,
    )
    extent: float = option(
        1.0, "half the width of the cameras' field of view, in the plane through the origin", low=0.01
    )
    noise: str = option(
        "consistent",
        "noise of the views: of one field on the object, a fixed one per camera, or fresh",
        choices=("consistent", "per-camera", "fresh"),
    )
    times: str = option(
        "annealed",
        "falling from first_time to last_time over the run, or random between the two",
        choices=("annealed", "uniform"),
    )
    weight: str = option(
        "ratio", "of the difference: sigma / alpha, sigma^2, or 1", choices=tuple(SCORE_WEIGHTS)
    )
    guidance: float = option(1.0, "teacher guidance scale (1: none)", low=0)
    first_time: float = option(0.95, "time at the start of the run", low=0.01, high=0.999)
    last_time: float = option(
        0.25,
        "time at its end; far below, a fixed noise carries the views away from the modes",
        low=0.01,
        high=0.999,
    )
    gamma: float = option(
        1e-4,
        "share of the consistent field's variance that each iteration draws anew (0: the ODE)",
        low=0,
        high=1,
    )

    kind = "method"
    worlds = ("objects",)
    needs = ("teacher",)
    forms = ("scene", "points")
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=0.02, betas=(0.9, 0.99))}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.last_time <= self.first_time,
            f"CFD goes from first_time down to last_time; {self.last_time} is not below {self.first_time}.",
        )

    def make_student(self, teacher: Denoiser) -> Denoiser:
        lens = {} if self.scene == "points" else {"extent": self.extent}
        config = {"name": self.scene, "scenes": self.scenes, SIZES[self.scene]: self.size, **lens}
        return Denoiser(build_model(config), teacher.process, "x0")

    def build(self) -> None:
        made = type(self.student.net)
        require(
            issubclass(made, Scene), f"CFD makes a scene of a teacher's views; a {made.__name__} is no scene."
        )
        self.real = Guided(self.teacher, self.guidance)
        field = field_for(self.student.net, self.shape)  # type: ignore[arg-type]
        self.field: NoiseField = self.state("field", field)

    def student_loss(self, batch: Batch) -> Tensor:
        x, eps = self.views(batch)
        return surrogate_loss(
            x,
            sds_gradient(x, self.time(batch), eps, self.real, None, batch.cond, self.weight),
            reduction="sum",
        )

    def time(self, batch: Batch) -> Tensor:
        """Times (rows,) of the iteration; of a teacher of a table at its steps."""
        if self.times == "uniform":
            return trained(self.process, batch.times(self.last_time, self.first_time))
        share = batch.step / max(1, self.total - 1)
        now = falling(share, self.first_time, self.last_time)
        return trained(self.process, torch.full((batch.rows,), now, device=self.student.device))

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the batch's cameras see of its scenes, and the noise that they see on them."""
        net: Scene = self.student.net  # type: ignore[assignment]
        state = torch.zeros(batch.rows, *batch.shape, device=self.student.device)
        first = batch.draws.rank * batch.rows  # a batch in parts counts on
        cond = _beside(batch.cond, torch.arange(first, first + batch.rows, device=state.device) % net.scenes)
        which, place = net.scene_and_camera(state, cond)
        seen: Rendering | None = None
        if isinstance(net, Rendered):
            seen = net.render(which, place, batch.shape[-1])
            x = seen.rgb
        else:
            x = self.student(state, torch.ones(batch.rows, device=state.device), cond).x0
        with torch.no_grad():
            return x, self._noise_of(batch, which, place, seen)

    def _noise_of(self, batch: Batch, which: Tensor, place: Tensor, seen: Rendering | None) -> Tensor:
        """The noise (rows, *shape) of the mode that was chosen."""
        if self.noise == "fresh":
            return batch.noise()
        if self.noise == "per-camera":
            return fixed_per_camera(int(self.field.key), self.field.noise.shape[0], which, place, batch.shape)
        self.field.refresh(batch.step, self.gamma, batch.stream("field").generator)
        noise: Tensor = self.field(which, place, seen).reshape(batch.rows, *batch.shape)
        return noise

    def samplings(self) -> dict[int, Sampling]:
        return {1: Sampling([1.0, 0.0], "renoise")}


def _beside(cond: Condition, scene: Tensor) -> dict[str, Any]:
    """A condition with the numbers (B,) of the scenes that the rows show."""
    return {**(cond if isinstance(cond, dict) else {}), "scene": scene}

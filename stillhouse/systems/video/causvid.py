"""causvid: a teacher that sees whole clips makes a student that streams them, chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.guidance import Guided
from stillhouse.parts.players.score_range import SCORE_OPTIM
from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.parts.video.clips import (
    check_levels,
    chunk_levels,
    clip_matching,
    level_times,
    make_causal,
    score_times,
    streaming,
    whole_clip_fake,
)
from stillhouse.parts.video.initialisation import CausalMethod
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch, shared
from stillhouse.train.option import option
from stillhouse.train.published import ADAMW, CONSTANT, Published, Settings


@dataclass
class CausVid(CausalMethod):
    """From Slow Bidirectional to Fast Autoregressive Video Diffusion Models. Yin et al., 2024 (arXiv
    2412.07772, algorithm 1).

    The student has the teacher's weights and a mask: a frame sees its own chunk and those before it, each
    chunk at a noise level of its own. First it learns to go from states on the teacher's paths to where they
    end (ODE initialisation); then its clips move along the difference of two scores, both of which see the
    whole clip at one time (asymmetric distribution matching).
    """

    levels: tuple[float, ...] = option((1.0, 0.6), "times of the student's calls for a chunk, falling from 1")
    chunk: int = option(2, "frames that are made together", low=1)
    ode_share: float = option(0.6, "share of the iterations that are ODE initialisation", low=0, high=1)
    paths: int = option(1024, "stored teacher trajectories", low=1)
    teacher_steps: int = option(32, "Euler steps of a stored trajectory", low=1)
    path_guidance: float = option(1.0, "teacher guidance scale of the trajectories (1: none)", low=0)
    guidance: float = option(1.0, "teacher guidance scale in the score difference (1: none)", low=0)
    shift: float = option(
        1.0, "shift of the teacher's time grid and of the score times towards the noise (1: none)", low=0.01
    )
    fake_per_student: int = option(5, "updates of the fake score per update of the student", low=1)
    warmup: int = option(
        0, "first iterations of the second stage in which the fake score learns alone", low=0
    )

    kind = "method"
    worlds = ("clips",)
    needs = ("teacher", "data")
    forms = ("video",)
    optim = SCORE_OPTIM
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "tianweiy/CausVid@ca21150, Wan 2.1 1.3B in three steps, both stages",
            lr={"student": 2e-6, "fake": 2e-6},
            options={"levels": (1.0, 0.757, 0.522), "chunk": 3, "ode_share": 0.75, "paths": 1500}
            | {"path_guidance": 6.0, "guidance": 4.5, "shift": 8.0},
            run={**ADAMW, **CONSTANT, "clip": 10.0},
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.levels = tuple(self.levels)  # a list, where it was read from a file
        check_levels(self.levels, "CausVid option 'levels'")

    def build(self) -> None:
        self.real = Guided(self.teacher, self.guidance)
        self.fake: Denoiser = self.player("fake", whole_clip_fake(self.teacher, self.student))
        make_causal(self.student, self.chunk)

    def path_teacher(self) -> Denoiser:
        return Guided(self.teacher, self.path_guidance)

    def stored_levels(self, batch: Batch) -> Tensor:
        return self.drawn(batch)

    def drawn(self, batch: Batch) -> Tensor:
        """Which level each frame is at, (rows, F); the last one is clean."""
        return chunk_levels(batch.stream("levels"), len(self.levels) + 1, self.chunk, self.shape[0])

    @shared
    def samples(self, batch: Batch) -> Tensor:
        """Clips by one causal call on real ones, each of whose chunks is at a level of its own; chunks at the
        clean level stay real."""
        t = level_times(self.process, self.levels, self.drawn(batch))
        return self.student(self.process.noise(batch.data, t, batch.noise()), t, batch.cond).x0

    def matching_loss(self, batch: Batch) -> Tensor:
        levels = self.drawn(batch)
        learns = levels < len(self.levels)
        return clip_matching(
            self.samples(batch), self.real, self.fake, batch.cond, batch.draws, self.shift, learns
        )

    def fake_loss(self, batch: Batch) -> Tensor:
        t = score_times(self.process, batch.draws, self.shift)
        return denoising_loss(self.fake, self.samples(batch), t, batch.noise(), batch.cond)

    def samplings(self) -> dict[int, Sampling]:
        return {len(self.levels): streaming(self.levels, self.chunk, self.shape[0])}

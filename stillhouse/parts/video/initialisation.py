"""ODE initialisation of causal students: the first stage of causvid and livetalk, and the matching stage
after it.

From states on the teacher's own paths, each chunk of a clip at a level of its own, the student learns where
they end (Yin et al., 2024, arXiv 2412.07772, section 4.3). Then its clips move along a difference of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.parts.video.clips import ode_loss, trajectories
from stillhouse.train.batch import Batch
from stillhouse.train.method import Method, copy_weights
from stillhouse.train.stage import Loss, Stage, alternating


class CausalMethod(Method):
    """A method whose first stage is ODE initialisation, and whose second moves a student against a fake
    score.

    Subclasses are dataclasses with the options ``levels, chunk, ode_share, paths, teacher_steps, shift,
    fake_per_student, warmup``; they make ``fake`` and give :meth:`path_teacher`, :meth:`stored_levels` and
    :meth:`matching_loss`.

    ``negative_prompt``: one fixed prompt, in the usual words for faults of pictures and clips, stands for the
    empty one where a text-to-video pipeline is guided, in the trajectories and in the score difference; so it
    is in CausVid's and Self Forcing's settings for Wan, whose own texts are longer.
    """

    negative_prompt: ClassVar[str] = (
        "blurry, low quality, overexposed, still picture, no motion, subtitles, watermark, distorted, "
        "deformed "
        "hands and faces, cluttered background"
    )
    levels: tuple[float, ...]
    chunk: int
    ode_share: float
    paths: int
    teacher_steps: int
    shift: float
    fake_per_student: int
    warmup: int
    fake: Denoiser

    def path_teacher(self) -> Denoiser:
        """The teacher that walks the stored paths."""
        raise NotImplementedError

    def stored_levels(self, batch: Batch) -> Tensor:
        """Which level each frame of a stored path is at, (rows, F); the last one is clean."""
        raise NotImplementedError

    def matching_loss(self, batch: Batch) -> Tensor:
        """The student's loss in the second stage."""
        raise NotImplementedError

    def stages(self, total: int) -> list[Stage]:
        first = round(self.ode_share * total)
        matching: dict[str, Loss] = {"student": self.matching_loss}
        return [
            Stage("ODE initialisation", first, lambda step: ["student"], {"student": self.ode_loss}),
            Stage("distribution matching", total - first, self.matching_turns, matching, self.begin_matching),
        ]

    def matching_turns(self, step: int) -> Sequence[str]:
        """The fake score alone for ``warmup`` iterations, then both in two time-scales."""
        both: Callable[[int], Sequence[str]] = alternating(self.fake_per_student)
        return both(step) if step >= self.warmup else ["fake"]

    def begin_matching(self) -> None:
        """Under a closed-form teacher the fake score starts from the nearest there is to one: the
        student's weights."""
        if isinstance(self.teacher, ExactDenoiser):
            copy_weights(self.fake, self.student)

    @property
    def bank_size(self) -> int:
        return self.paths if self.ode_share else 0

    def bank_rows(self, draws: Draws, cond: Condition) -> dict[str, Tensor]:
        return trajectories(
            self.path_teacher(), self.shape, draws, cond, self.levels, self.teacher_steps, self.shift
        )

    def ode_loss(self, batch: Batch) -> Tensor:
        """Equation 6: from states on the teacher's path to its end."""
        stored, levels = batch.stored(), self.stored_levels(batch)
        return ode_loss(self.student, stored["path"], levels, self.levels, stored.get("cond"))

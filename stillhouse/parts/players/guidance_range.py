"""A range of teacher guidance scales, and the student that takes the scale as an input where it varies."""

from __future__ import annotations

from dataclasses import dataclass

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.parts.players.students import with_inputs
from stillhouse.train.method import Method
from stillhouse.train.option import option


@dataclass
class GuidanceRange(Method):
    """Base of methods whose teacher is guided by a scale from a range. Meng, Rombach, Gao, Kingma, Ermon, Ho
    & Salimans, 2022 (arXiv 2210.03142, section 3.1).

    A method with other defaults declares the two options anew.
    """

    low_guidance: float = option(1.0, "smallest teacher guidance scale (1: none)", low=0)
    high_guidance: float = option(
        1.0, "largest teacher guidance scale; an input of the student when it varies", low=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.low_guidance, self.high_guidance
        require(low <= high, f"Guidance runs from low to high, not {low} to {high}.")

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance scale varies."""
        return self.low_guidance < self.high_guidance

    @property
    def sampling_guidance(self) -> float:
        """The scale that samplings give the student: the middle of the range, 1 where it takes none."""
        return (self.low_guidance + self.high_guidance) / 2 if self.takes_guidance else 1.0


@dataclass
class GuidanceInput(GuidanceRange):
    """A :class:`GuidanceRange` whose student takes the scale as an input where it varies."""

    def make_student(self, teacher: Denoiser) -> Denoiser:
        return with_inputs(teacher, guidance_input=True) if self.takes_guidance else teacher.copy()

"""distillation_pp: a few-step student whose own sampling is corrected, as it goes, by its many-step
teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from stillhouse.core.errors import require
from stillhouse.model import Model
from stillhouse.samplers.hooks import LEVELS, TeacherMix, describe_hook
from stillhouse.systems.base import Operation, Work
from stillhouse.train.option import option


@dataclass
class DistillationPP(Operation):
    """Inference-Time Diffusion Model Distillation (Distillation++). Park, Lee & Ye, 2024 (arXiv 2412.08871).

    Each guided step replaces the student's clean estimate ``x`` by one gradient step on ``1/2 |x -
    x_student|^2 + gamma E|eps - eps_teacher(alpha_s x + sigma_s eps, s)|^2``: without the teacher's Jacobian
    that is ``(1 - strength) x + strength D_teacher(alpha_s x + sigma_s eps, s)``, where ``s`` is the
    student's next time. Nothing is trained: the product is the student, its teacher beside it and the
    correction in its samplings.
    """

    guided_steps: int = option(1, "how many of the first steps are corrected", low=1)
    strength: float = option(0.5, "share of the teacher's answer in the corrected estimate", low=0, high=1)
    guidance: float = option(
        -1.0, "teacher guidance scale of the correction (1: none; negative: the teacher's own)", low=-1
    )
    level: str = option(
        "next", "time at which the estimate is shown to the teacher, of the student's grid", choices=LEVELS
    )

    kind = "operation"
    worlds = ("mixture", "digits")
    needs = ("teacher", "student")

    def apply(self, models: Mapping[str, Model], work: Work) -> Model:
        """The student with its teacher as the companion ``teacher`` and corrected samplings."""
        teacher, student = models["teacher"], models["student"]
        self._fitting(teacher, student)
        guidance = self.guidance if self.guidance > 0 else teacher.sampling().guidance
        samplings = {}
        for steps, sampling in student.samplings.items():
            guided = tuple(range(min(self.guided_steps, steps)))
            hook = TeacherMix("teacher", self.strength, guided, guidance, self.level)
            samplings[steps] = sampling.changed(hooks=[*sampling.legs[0].hooks, describe_hook(hook)])
        return replace(
            student,
            samplings=samplings,
            companions={**student.companions, "teacher": teacher.denoiser},
            info=student.info | self.describe(),
        )

    @staticmethod
    def _fitting(teacher: Model, student: Model) -> None:
        """Refuse models that don't share a process and a space of samples."""
        require(
            tuple(teacher.shape) == tuple(student.shape),
            f"The teacher makes samples of shape {tuple(teacher.shape)}, the student of "
            f"{tuple(student.shape)}.",
        )
        processes = [model.denoiser.process for model in (teacher, student)]
        require(
            processes[0].config() == processes[1].config() and not processes[0].discrete,
            f"The teacher's process is '{processes[0].name}', the student's '{processes[1].name}': a "
            "correction "
            "is made in one process of vectors.",
        )
        require(
            "teacher" not in student.companions,
            "This student has a teacher beside it already; take the one that it was made from.",
        )
        require(
            all(len(s.legs) == 1 and s.stream is None for s in student.samplings.values())
            and not student.free_steps,
            "Only a student's walks of one leg are corrected: not a many-step model, nor a stream.",
        )

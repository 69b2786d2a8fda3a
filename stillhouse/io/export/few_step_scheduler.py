"""A Diffusers scheduler for few-step students whose times or moves no stock scheduler has. It needs diffusers
and torch alone.

Every step is ``x <- a x + b output + c noise`` with the numbers of its row: whatever the network predicts and
however the student moves (straight on, or to the clean end and back up with fresh noise) is in a, b and c.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor

logger = logging.get_logger(__name__)
TIME, SCALE, STATE, OUTPUT, NOISE, ALPHA, SIGMA = range(7)  # the columns of a row


class FewStepScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Walks the student's own steps.

    Arguments:
        walks: by number of steps, a row for each step: the timestep given to the network, the scale of its
            input, the weights ``a, b, c`` of state, output and fresh noise, and the levels ``alpha, sigma``
            of signal and noise.
        starts: by number of steps, the standard deviation of the first noise.
        guidance_free: the student needs no classifier-free guidance, and a second evaluation for it is warned
            of once.
        prediction_type: of the network, for pipelines that look at it.
        num_train_timesteps: of the teacher's scheduler.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        walks: dict[str, list[list[float]]],
        starts: dict[str, float],
        guidance_free: bool = True,
        prediction_type: str = "epsilon",
        num_train_timesteps: int = 1000,
    ):
        self.walks, self.starts, self.guidance_free, self.train_steps = (
            walks,
            starts,
            guidance_free,
            num_train_timesteps,
        )
        self.rows_seen, self.warned = 0, False
        self.set_timesteps(int(next(iter(walks))))

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: list[float] | None = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Take the walk of so many steps; raises ``ValueError`` for a number that there is none of.

        Arguments:
            num_inference_steps: of the walk; None: as many as the grid has.
            device: of the timesteps.
            timesteps: a pipeline's grid, which is only counted: the student has its own.
            sigmas: likewise.
            mu: a pipeline's shift of its grid, without effect.
        """
        given = timesteps if timesteps is not None else sigmas
        n = num_inference_steps if given is None else len(given)
        if str(n) not in self.walks:
            known = [*self.walks]
            raise ValueError(
                f"This student was made for {', '.join(known)} step(s), not {n}: pass "
                f"num_inference_steps={known[0]}."
            )
        self.num_inference_steps = n
        self.walk, self.init_noise_sigma = self.walks[str(n)], self.starts[str(n)]
        self.timesteps = torch.tensor([row[TIME] for row in self.walk], dtype=torch.float32, device=device)
        self.step_index: int | None = None
        self.begin_index: int | None = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        self.begin_index = begin_index

    def index_for_timestep(self, timestep: Any) -> int:
        """The row of a time."""
        return int((self.timesteps - torch.as_tensor(timestep, device=self.timesteps.device)).abs().argmin())

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """The network's input; also notes how many rows it has.

        Arguments:
            sample: the state, (B, …).
            timestep: one of ``timesteps``, for the first call of a walk.

        Returns:
            The state, scaled.
        """
        self.rows_seen = len(sample)
        row = self.walk[self.index_for_timestep(timestep) if self.step_index is None else self.step_index]
        return sample if row[SCALE] == 1 else sample * row[SCALE]

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """The state at the next time, computed in float32.

        Arguments:
            model_output: the network's, (B, …).
            timestep: one of ``timesteps``, for the first step of a walk.
            sample: the state, (B, …).
            generator: of the fresh noise, where the step has some.
            return_dict: an object with ``prev_sample``; else a tuple.

        Returns:
            The next state, (B, …).
        """
        if self.step_index is None:
            self.step_index = (
                self.index_for_timestep(timestep) if self.begin_index is None else self.begin_index
            )
        if self.guidance_free and not self.warned and self.rows_seen == 2 * len(sample):
            self.warned = True
            logger.warning(
                "This student needs no guidance; with some it evaluates twice and oversaturates. Pass "
                "guidance_scale=1.0."
            )
        row = self.walk[self.step_index]
        moved = row[STATE] * sample.float() + row[OUTPUT] * model_output.float()
        if row[NOISE]:
            fresh = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
            moved = moved + row[NOISE] * fresh.float()
        self.step_index += 1
        moved = moved.to(sample.dtype)
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """States of the process.

        Arguments:
            original_samples: clean, (B, …).
            noise: standard normal, (B, …).
            timesteps: of the walk, (B,); each takes the levels of the nearest step.

        Returns:
            Noised samples, (B, …).
        """
        rows = torch.tensor([self.walk[self.index_for_timestep(t)] for t in timesteps]).to(original_samples)
        shape = (-1,) + (1,) * (original_samples.dim() - 1)
        return rows[:, ALPHA].reshape(shape) * original_samples + rows[:, SIGMA].reshape(shape) * noise

    def __len__(self) -> int:
        return self.train_steps

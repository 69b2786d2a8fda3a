"""What methods share, by the four questions a method answers: states, targets, gaps, players.

``from stillhouse import parts``, then ``parts.surrogate_loss``, ``parts.backward_simulation`` …: each is
imported when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.core.lazy import lazy

if TYPE_CHECKING:
    from stillhouse.parts import gaps as gaps
    from stillhouse.parts import players as players
    from stillhouse.parts import scenes as scenes
    from stillhouse.parts import states as states
    from stillhouse.parts import targets as targets
    from stillhouse.parts import tokens as tokens
    from stillhouse.parts import video as video
    from stillhouse.parts.gaps.adaptive_weight import adaptive_weight as adaptive_weight
    from stillhouse.parts.gaps.critic import JumpCritic as JumpCritic
    from stillhouse.parts.gaps.critic import discriminator_loss as discriminator_loss
    from stillhouse.parts.gaps.critic import generator_loss as generator_loss
    from stillhouse.parts.gaps.critic import head_for as head_for
    from stillhouse.parts.gaps.distances import pseudo_huber as pseudo_huber
    from stillhouse.parts.gaps.score import dmd_gradient as dmd_gradient
    from stillhouse.parts.gaps.score import fake_for as fake_for
    from stillhouse.parts.gaps.score import sds_gradient as sds_gradient
    from stillhouse.parts.gaps.score import surrogate_loss as surrogate_loss
    from stillhouse.parts.gaps.vsd import vsd_gradient as vsd_gradient
    from stillhouse.parts.players.students import shrunk as shrunk
    from stillhouse.parts.players.students import with_inputs as with_inputs
    from stillhouse.parts.states.backward_simulation import backward_simulation as backward_simulation
    from stillhouse.parts.states.backward_simulation import student_grid as student_grid
    from stillhouse.parts.states.pairs import teacher_pairs as teacher_pairs
    from stillhouse.parts.states.time_sampler import time_sampler as time_sampler
    from stillhouse.parts.targets.consistency import consistency_target as consistency_target
    from stillhouse.parts.targets.denoising import denoising_loss as denoising_loss
    from stillhouse.parts.targets.halving import halving_target as halving_target
    from stillhouse.parts.targets.tangent import tangent as tangent
    from stillhouse.parts.targets.teacher import teacher_steps as teacher_steps

__getattr__, __dir__, __all__ = lazy(__name__, __file__)

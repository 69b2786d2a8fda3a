"""Stillhouse: every way to distil a diffusion model, under one roof.

``import stillhouse`` is cheap: what it offers is imported when first touched, and torch with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.core.errors import StillhouseError as StillhouseError
from stillhouse.core.lazy import lazy

if TYPE_CHECKING:
    from stillhouse import parts as parts
    from stillhouse.api.evaluate import evaluate as evaluate
    from stillhouse.api.held_out import HeldOut as HeldOut
    from stillhouse.api.run import Run as Run
    from stillhouse.api.runs import distill as distill
    from stillhouse.api.runs import train_model as train_model
    from stillhouse.api.runs import train_teacher as train_teacher
    from stillhouse.core.conditions import Condition as Condition
    from stillhouse.core.conditions import drop_condition as drop_condition
    from stillhouse.core.denoiser import Denoiser as Denoiser
    from stillhouse.core.denoiser import ExactDenoiser as ExactDenoiser
    from stillhouse.core.draws import Draws as Draws
    from stillhouse.core.flowmap import ddim_step as ddim_step
    from stillhouse.core.flowmap import predict_x0 as predict_x0
    from stillhouse.core.guidance import Guided as Guided
    from stillhouse.core.prediction import Prediction as Prediction
    from stillhouse.core.process import Process as Process
    from stillhouse.core.schedules import VE as VE
    from stillhouse.core.schedules import Flow as Flow
    from stillhouse.core.schedules import process_from_config as process_from_config
    from stillhouse.model import Model as Model
    from stillhouse.model import Network as Network
    from stillhouse.models import build_model as build_model
    from stillhouse.opening import load as load
    from stillhouse.samplers.rollout import rollout as rollout
    from stillhouse.samplers.sampling import Leg as Leg
    from stillhouse.samplers.sampling import Sampling as Sampling
    from stillhouse.solvers import make_solver as make_solver
    from stillhouse.systems.base import Operation as Operation
    from stillhouse.systems.base import Part as Part
    from stillhouse.systems.base import Program as Program
    from stillhouse.systems.base import Work as Work
    from stillhouse.train.batch import Batch as Batch
    from stillhouse.train.batch import shared as shared
    from stillhouse.train.data import Data as Data
    from stillhouse.train.data import Several as Several
    from stillhouse.train.data import TensorData as TensorData
    from stillhouse.train.loop import Trainer as Trainer
    from stillhouse.train.method import Method as Method
    from stillhouse.train.option import option as option
    from stillhouse.train.recipe import Optim as Optim
    from stillhouse.train.recipe import Recipe as Recipe
    from stillhouse.train.stage import Stage as Stage
    from stillhouse.worlds.base import get_world as get_world

__version__ = "0.1.0"
__getattr__, __dir__, _names = lazy(__name__, __file__)
__all__ = [*_names, "StillhouseError"]  # noqa: PLE0604

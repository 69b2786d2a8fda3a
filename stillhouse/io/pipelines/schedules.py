"""A Diffusers scheduler's configuration as ours: the process, what the network predicts, and the times of
its steps."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.core.prediction import EDM, KINDS, Kind
from stillhouse.core.process import Process
from stillhouse.core.schedules import VE, Flow, ScaledLinearVP

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
# schedulers that step as DDIM does, or as its ancestral form, as are the steps of all that draw noise in
# first order; of the rest the process and the times are read, and stepped with a solver of our own
PLAIN = ("DDIM", "DDIMParallel", "EulerDiscrete", "FlowMatchEulerDiscrete", "EDMEuler")
ANCESTRAL = ("DDPM", "DDPMParallel", "EulerAncestralDiscrete")
STOCHASTIC = ("KDPM2AncestralDiscrete", "DPMSolverSDE", "SASolver", "UnCLIP")
NOISE_OF: dict[str, dict[str, Any]] = {"dpmsolver++": {}, "sde-dpmsolver++": {"eta": 1.0}}
SMALL = "fixed_small"  # the posterior's variance
POWERS = {"scaled_linear": 2.0, "linear": 1.0}


@dataclass
class Schedule:
    """A scheduler's process, prediction and times.

    Arguments:
        scheduler: of Diffusers.
        process: of its noise levels.
        kind: of the network's prediction.
        sign: -1 where the network's output is meant the other way round than ``kind`` has it.
    """

    scheduler: Any
    process: Process
    kind: Kind
    sign: int = 1

    @property
    def is_edm(self) -> bool:
        """Whether the network is preconditioned as EDM's."""
        return isinstance(self.kind, EDM)

    @cached_property
    def whole(self) -> bool:
        """Whether its timesteps are whole numbers, cut where they are none."""
        return not self._walk(
            2, **({"mu": 1.0} if self.scheduler.config.get("use_dynamic_shifting") else {})
        ).timesteps.is_floating_point()

    @property
    def solver(self) -> str | dict[str, Any]:
        """The solver of ours that steps as the scheduler does; where there is none, DDIM, which is Euler's in
        ``sigma / alpha``, with fresh noise if the scheduler draws any."""
        return self._stepped[0]

    @property
    def exact(self) -> bool:
        """Whether :attr:`solver` makes the scheduler's own steps."""
        return self._stepped[1]

    @property
    def stochastic(self) -> bool:
        """Whether the scheduler draws fresh noise at its steps."""
        solver = self.solver
        return solver == "renoise" or (isinstance(solver, dict) and solver.get("eta", 0) > 0)

    @cached_property
    def _stepped(self) -> tuple[str | dict[str, Any], bool]:
        name, config = type(self.scheduler).__name__.removesuffix("Scheduler"), self.scheduler.config
        if name == "DPMSolverMultistep" and config.get("algorithm_type") in NOISE_OF:
            noise: dict[str, Any] = NOISE_OF[config["algorithm_type"]]
            if config["solver_order"] == 2:
                midpoint = config.get("solver_type") == "midpoint"
                return ({"name": "dpm++", **noise} if noise else "dpm++"), midpoint
            return ({"name": "ddim", **noise} if noise else "ddim"), config["solver_order"] == 1
        if name == "UniPCMultistep" and config.get("predict_x0") and config.get("solver_order") <= 2:
            return {"name": "unipc", "order": config["solver_order"], "variant": config["solver_type"]}, True
        if name == "HeunDiscrete":
            return {"name": "heun", "coordinate": "ratio"}, True
        if name == "LCM" or (name == "FlowMatchEulerDiscrete" and config.get("stochastic_sampling")):
            return "renoise", True
        if name in ANCESTRAL:
            return {"name": "ddim", "eta": 1.0}, config.get("variance_type", SMALL) == SMALL
        if name in STOCHASTIC or str(config.get("algorithm_type")).startswith("sde-"):
            return {"name": "ddim", "eta": 1.0}, False
        return "ddim", name in PLAIN

    @cached_property
    def hooks(self) -> list[dict[str, Any]]:
        """What the scheduler does to clean estimates before its step, as hooks of a sampling: clipping,
        static or dynamic."""
        known, config = inspect.signature(type(self.scheduler).__init__).parameters, self.scheduler.config
        noise = {"keeps_noise": True} if type(self.scheduler).__name__.startswith(("DDIM", "TCD")) else {}
        if "thresholding" in known and config.get("thresholding"):
            most = float(config.get("sample_max_value", 1.0))
            return [{"name": "clip", "quantile": config["dynamic_thresholding_ratio"], "most": most, **noise}]
        if "clip_sample" in known and config.get("clip_sample"):
            return [{"name": "clip", "bound": float(config.get("clip_sample_range", 1.0)), **noise}]
        return []

    def times(self, n: int, **options: Any) -> list[float]:
        """The falling times that the scheduler visits and the one it ends at, by its own arithmetic.

        The end is 0, unless the scheduler stops at the first step of its table (``set_alpha_to_one: false``,
        as Stable Diffusion's does).

        Arguments:
            n: steps, at least 1.
            options: for ``set_timesteps``.

        Returns:
            Times in [0, 1]; of a second-order scheduler each once.
        """
        walk = self._walk(n, **options)
        if isinstance(self.process, ScaledLinearVP):
            steps = self.process.steps
            final = getattr(walk, "final_alpha_cumprod", 1.0)
            early = (float(final) < 1 and self.solver != "renoise") or walk.config.get(
                "final_sigmas_type"
            ) == "sigma_min"
            # an offset may lead past the table's end, where Diffusers stops with an IndexError
            visited = (min((float(index) + 1) / steps, 1.0) for index in walk.timesteps)
            found = [*visited, 1 / steps if early else 0.0]
        else:
            sigmas = walk.sigmas.double()
            found = (
                sigmas if isinstance(self.process, Flow) else self.process.time_of_ratio(sigmas)
            ).tolist()
        end = found[-1]
        above = sorted(
            {t for t in found if t > end}, reverse=True
        )  # second-order schedulers visit a time twice
        require(
            bool(above),
            f"The scheduler {type(walk).__name__} visits no time above t = {end:g} in {n} step(s).",
        )
        return [*above, end]

    def start(self, n: int, **options: Any) -> float:
        """Standard deviation of the noise that the pipeline starts a walk from, in our coordinates.

        Arguments:
            n: steps, at least 1.
            options: for ``set_timesteps``.

        Returns:
            1 for schedulers of a VP table, even where their first ``sigma`` is a little lower;
            ``sqrt(sigma_max^2 + 1)`` for EDM's.
        """
        walk = self._walk(n, **options)
        factor = float(getattr(walk, "init_noise_sigma", 1.0))
        if factor == 1:
            return factor
        first = torch.tensor(self.times(n, **options)[0], dtype=torch.float64)
        alpha = float(self.process.alpha(first))
        # such schedulers count in sigma / alpha, and at no signal in 2^12
        return factor * alpha if alpha else 1.0

    def _walk(self, n: int, **options: Any) -> Any:
        require(n >= 1, f"A time grid needs at least one step, not {n}.")
        walk = copy.deepcopy(self.scheduler)
        try:
            walk.set_timesteps(n, **options)
        except (ValueError, TypeError) as error:
            raise StillhouseError(
                f"The scheduler {type(walk).__name__} can't walk in {n} step(s): {error}"
            ) from error
        return walk


def read_schedule(scheduler: Any) -> Schedule:
    """The process and prediction of a Diffusers scheduler.

    Tables of betas (scaled-linear, linear, or as numbers, with or without zero terminal SNR), flow matching,
    and EDM's sigmas. Raises :class:`StillhouseError` for a scheduler that has none of them.
    """
    name, config = type(scheduler).__name__, scheduler.config
    prediction = config.get("prediction_type", "epsilon")
    if name.startswith("FlowMatch") or prediction == "flow_prediction" or config.get("use_flow_sigmas"):
        return Schedule(scheduler, Flow(), KINDS["velocity"]())
    if "sigma_data" in config and "sigma_max" in config:
        process = VE(config["sigma_min"], config["sigma_max"], config.get("rho", 7.0))
        return Schedule(
            scheduler, process, EDM(config["sigma_data"]), -1 if prediction == "v_prediction" else 1
        )
    require(
        getattr(scheduler, "betas", None) is not None,
        f"The scheduler {name} has no table of betas, is no flow matching and none of EDM's; give the "
        "pipeline's training scheduler "
        "(DDIMScheduler, FlowMatchEulerDiscreteScheduler …), or an adapter with a process of its own.",
    )
    if prediction not in PREDICTIONS:
        raise unknown("prediction type", prediction, PREDICTIONS)
    return Schedule(scheduler, _table(scheduler), KINDS[PREDICTIONS[prediction]]())


def _table(scheduler: Any) -> ScaledLinearVP:
    config = scheduler.config
    steps, zero = config["num_train_timesteps"], bool(config.get("rescale_betas_zero_snr"))
    if config.get("trained_betas") is None and config.get("beta_schedule") in POWERS:
        return ScaledLinearVP(
            config["beta_start"], config["beta_end"], steps, zero, POWERS[config["beta_schedule"]]
        )
    return ScaledLinearVP(steps=steps, betas=tuple(scheduler.betas.double().tolist()))

"""Which Diffusers scheduler makes a saved student right by default: a stock one if any walks as the student
does, else our own file."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.prediction import EDM, KINDS, X0, Bounded, Eps, Kind, V
from stillhouse.core.schedules import Flow, ScaledLinearVP
from stillhouse.io.export.walks import Sampled, Walk, walk
from stillhouse.io.pipelines import Family
from stillhouse.io.pipelines.quiet import quiet

TABLE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
PREDICTIONS = {Eps: "epsilon", V: "v_prediction", X0: "sample"}
UNBOUNDED = (
    1e3  # what LCM's boundary condition is scaled by to be gone; students of ours without one have none
)
CLOSE = 1e-4


@dataclass
class Choice:
    """A scheduler for a saved student.

    Arguments:
        scheduler: of Diffusers, or ours.
        steps: the numbers of steps it is right for.
        own: it is ours, so that its file is saved as well.
        remarks: what Diffusers can't do.
    """

    scheduler: Any
    steps: list[int]
    own: bool = False
    remarks: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return type(self.scheduler).__name__


@dataclass
class Habits:
    """What a pipeline's code does with its scheduler and its guidance scale, read from its source."""

    rescales_start: bool
    scales_input: bool
    takes_latents: bool
    doubles: bool

    @classmethod
    def of(cls, pipe: Any) -> Habits:
        source = inspect.getsource(type(pipe))
        return cls(
            "init_noise_sigma" in source,
            "scale_model_input" in source,
            "latents:" in source,
            "guidance_scale > 1" in source,
        )


def choose(family: Family, denoiser: Denoiser, samplings: Mapping[int, Sampled]) -> Choice:
    """The scheduler for a student's samplings.

    A stock scheduler that walks them all; else a stock one for the default number alone, since that opens
    without running code from the folder; else :class:`FewStepScheduler`, whose file is saved beside its
    configuration. "Walks as the student" is tried, not concluded: both are run on a made-up network, and must
    call it at the same times and inputs and end at the same place.

    Arguments:
        family: of the student's pipeline.
        denoiser: the student.
        samplings: by number of steps, the default one first.

    Returns:
        The scheduler; the pipeline's own, right for no number of steps, where a sampling has several legs,
        hooks or companions.
    """
    habits = Habits.of(family.pipe)
    odd = [n for n, sampling in samplings.items() if not sampling.plain]
    if odd:  # several legs, hooks or companions: no scheduler can walk these
        remark = (
            "Its way of sampling is more than a scheduler's: sample it with stillhouse.load on this folder."
        )
        return Choice(family.pipe.scheduler, [], remarks=[remark])
    walks = {n: walk(family, denoiser, sampling) for n, sampling in samplings.items()}
    default = next(iter(walks))
    ours = own_scheduler(denoiser, walks, all(s.guidance == 1 for s in samplings.values()))
    remarks = _remarks(type(family.pipe).__name__, habits, walks[default])
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # candidates whose grid divides by zero; they agree with nobody
        for wanted in ([*walks], [default]) if len(walks) > 1 else ([default],):
            options = {n: family.steps_options(n) for n in wanted}
            for stock in _stock(family, denoiser, walks[default]):
                if all(_agree(stock, ours, habits, n, options[n]) for n in wanted):
                    if len(wanted) < len(walks):
                        rest = ", ".join(str(n) for n in walks if n not in wanted)
                        remarks.append(
                            f"The scheduler is right for {default} step(s); for {rest} use stillhouse.load "
                            "on this folder."
                        )
                    return Choice(stock, wanted, remarks=remarks)
    return Choice(ours, [*walks], True, remarks)


def _prediction(kind: Kind) -> str | None:
    """Diffusers' name of what a network predicts."""
    return PREDICTIONS.get(type(KINDS[kind.inner]()) if isinstance(kind, Bounded) else type(kind))


def own_scheduler(denoiser: Denoiser, walks: Mapping[int, Walk], guidance_free: bool) -> Any:
    """Our own scheduler with some walks.

    Arguments:
        denoiser: the student, for the name of its prediction.
        walks: by number of steps, the default one first.
        guidance_free: the student needs no guidance.

    Returns:
        A :class:`FewStepScheduler`.
    """
    from stillhouse.io.export.few_step_scheduler import FewStepScheduler

    pred = _prediction(denoiser.kind) or (
        "flow_prediction" if isinstance(denoiser.process, Flow) else "epsilon"
    )
    rows, starts = {str(n): w.rows for n, w in walks.items()}, {str(n): w.start for n, w in walks.items()}
    return FewStepScheduler(rows, starts, guidance_free, pred)


def _remarks(pipeline: str, habits: Habits, first: Walk) -> list[str]:
    pred = []
    if not habits.rescales_start and abs(first.start - 1) > 1e-4:
        how = (
            "hand it `latents` of that level"
            if habits.takes_latents
            else "sample it with stillhouse.load on this folder"
        )
        pred.append(
            f"{pipeline} always starts from noise of deviation 1; the student starts from "
            f"{first.start:.4g}: {how}."
        )
    if not habits.scales_input and any(abs(row[1] - 1) > 1e-6 for row in first.rows):
        pred.append(
            f"{pipeline} does not scale the network's input as this student needs: sample it with "
            "stillhouse.load on this folder."
        )
    return pred


# -- stock schedulers ------------------------------------------------------------------------------


def _stock(family: Family, denoiser: Denoiser, first: Walk) -> Iterator[Any]:
    """Stock schedulers that may walk as the student does, the likeliest first: the pipeline's own, then those
    of its process."""
    yield copy.deepcopy(family.pipe.scheduler)
    if isinstance(denoiser.process, ScaledLinearVP) and _prediction(denoiser.kind):
        yield from _of_table(family, denoiser, first)
    elif isinstance(denoiser.process, Flow):
        yield from _of_flow(family, first)
    elif isinstance(denoiser.kind, EDM) and not first.stochastic:
        from diffusers import EDMEulerScheduler

        config = family.pipe.scheduler.config
        last = {"sigma_min": first.rows[-1][6]} if len(first.rows) > 1 else {}
        kept = {
            k: config[k]
            for k in ("sigma_min", "sigma_max", "sigma_data", "prediction_type", "rho")
            if k in config
        }
        yield EDMEulerScheduler(**{**kept, **last})


def _of_table(family: Family, denoiser: Denoiser, first: Walk) -> Iterator[Any]:
    from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler

    config = family.pipe.scheduler.config
    same = {k: config[k] for k in TABLE if config.get(k) is not None} | {
        "prediction_type": _prediction(denoiser.kind)
    }
    if not first.stochastic and not isinstance(denoiser.kind, Bounded):
        plain = {**same, "clip_sample": False, "steps_offset": 1}
        yield DDIMScheduler(**plain, timestep_spacing="trailing")
        for to_one in (True, False):
            yield DDIMScheduler(**plain, timestep_spacing="leading", set_alpha_to_one=to_one)
        for spacing in ("trailing", "leading", "linspace"):
            yield EulerDiscreteScheduler(**same, timestep_spacing=spacing, steps_offset=1)
        steps = round(first.rows[0][0]) + 1
        if (
            steps < config["num_train_timesteps"]
        ):  # a student that starts lower: the part of the table below is a table, and starts there
            part = {
                "num_train_timesteps": steps,
                "trained_betas": family.pipe.scheduler.betas[:steps].tolist(),
            }
            yield EulerDiscreteScheduler(
                **part, prediction_type=_prediction(denoiser.kind), timestep_spacing="trailing"
            )
    steps, scaling = (
        config["num_train_timesteps"],
        denoiser.kind.scale if isinstance(denoiser.kind, Bounded) else UNBOUNDED,
    )
    for levels in (50, *(n for n in range(steps, 0, -1) if steps % n == 0 and n != 50)):
        yield LCMScheduler(
            **same, clip_sample=False, original_inference_steps=levels, timestep_scaling=scaling
        )


def _of_flow(family: Family, first: Walk) -> Iterator[Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    times = [row[6] for row in first.rows]
    shifts = [1.0, float(family.pipe.scheduler.config.get("shift", 1.0))]
    if len(times) > 1 and times[1] < 1:
        even = 1 - 1 / len(times)
        shifts.append(times[1] * (1 - even) / (even * (1 - times[1])))
    for shift in dict.fromkeys(shifts):
        for end in (None, times[-1]) if len(times) > 1 else (None,):
            yield FlowMatchEulerDiscreteScheduler(
                shift=shift, shift_terminal=end, stochastic_sampling=first.stochastic
            )


# -- trying ----------------------------------------------------------------------------------------


def _agree(stock: Any, ours: Any, habits: Habits, n: int, options: Mapping[str, Any]) -> bool:
    """Whether ``stock`` calls the network and moves as ``ours`` does in ``n`` steps, in a pipeline of these
    habits."""
    try:
        theirs, end = _try(stock, habits, n, options)
    except (ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError):
        return False  # a grid that it doesn't have
    asked, mine = _try(ours, habits, n, options)
    if len(asked) != len(theirs):
        return False
    pairs = [*zip(asked, theirs, strict=True), (mine, end)]
    return all(bool((a - b).abs().max() < CLOSE * max(1.0, float(a.abs().max()))) for a, b in pairs)


@torch.no_grad()
def _try(scheduler: Any, habits: Habits, n: int, options: Mapping[str, Any]) -> tuple[list[Tensor], Tensor]:
    """What a made-up network is given on one walk (times and inputs), and where the walk ends."""
    scheduler = copy.deepcopy(scheduler)
    accepted = set(inspect.signature(scheduler.set_timesteps).parameters)
    if "sigmas" in options and "sigmas" in accepted:
        scheduler.set_timesteps(**{k: v for k, v in options.items() if k in accepted})
    else:
        scheduler.set_timesteps(n, **{k: v for k, v in options.items() if k in accepted})
    generator = torch.Generator().manual_seed(n)
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    x = torch.randn(2, 3, 4, generator=generator)
    x = x * float(scheduler.init_noise_sigma) if habits.rescales_start else x
    asked: list[Tensor] = []
    for t in scheduler.timesteps:
        x_in = scheduler.scale_model_input(x, t) if habits.scales_input else x
        asked += [torch.as_tensor(t).double().reshape(1), x_in]
        x = scheduler.step(torch.sin(x_in + float(t) / 300), t, x, **extra, return_dict=False)[0]
    return asked, x

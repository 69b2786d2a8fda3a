"""What a network predicts, where its folder is silent or wrong: read from the marks that people leave in a
single file, or as the user has it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.io.checked import opened, text_of
from stillhouse.io.pipelines.schedules import PREDICTIONS, Schedule, read_schedule
from stillhouse.io.plain_yaml import yaml_of

NAMES = {ours: theirs for theirs, ours in PREDICTIONS.items()}
SPELLINGS = {
    **dict.fromkeys(("epsilon", "eps", "noise"), "eps"),
    **dict.fromkeys(("v", "v_prediction", "v-prediction", "vpred", "v_pred", "velocity"), "v"),
    **dict.fromkeys(("sample", "x0"), "x0"),
}
MARKS = ("v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std")
EDM_LOW = 0.002  # the lowest sigma of an EDM checkpoint that states none


@dataclass
class Stated:
    """What a checkpoint states of its own training.

    Arguments:
        prediction: ``eps``, ``v`` or ``x0``; empty: nothing is stated.
        zero_snr: whether its table ends at zero SNR; None: nothing is stated.
        source: where that stands, for the user.
        sigmas: lowest and highest of a network that predicts v under EDM's preconditioning; None for others.
    """

    prediction: str = ""
    zero_snr: bool | None = None
    source: str = ""
    sigmas: tuple[float, float] | None = None


def header(file: Path) -> tuple[list[str], dict[str, str], dict[str, float]]:
    """Names of a safetensors file's tensors, its metadata, and the values of those :data:`MARKS` that are
    single numbers."""
    with opened(file) as found:
        keys, about = list(found.keys()), dict(found.metadata() or {})
        marked = {mark: found.get_tensor(mark) for mark in MARKS if mark in keys}
    return keys, about, {name: float(value) for name, value in marked.items() if value.numel() == 1}


def stated(file: Path) -> Stated:
    """What a single file's own keys (``v_pred``, ``ztsnr``, ``edm_vpred.sigma_max``), its metadata
    (``modelspec.prediction_type``, ``ss_v_parameterization`` …) or the ``.yaml`` of the same name beside it
    state, the first of them that does."""
    keys, about, values = header(file)
    own = {key.rpartition("diffusion_model.")[2] for key in keys}
    if "edm_vpred.sigma_max" in values:
        low = values.get("edm_vpred.sigma_min", EDM_LOW)
        return Stated("v", None, "its key edm_vpred.sigma_max", (low, values["edm_vpred.sigma_max"]))
    if "v_pred" in own:
        zero = "ztsnr" in own or None
        return Stated("v", zero, "its keys v_pred and ztsnr" if zero else "its key v_pred")
    return _of_metadata(about) or _of_yaml(file.with_suffix(".yaml")) or Stated()


def _of_metadata(about: Mapping[str, str]) -> Stated | None:
    zero = about.get("ss_zero_terminal_snr", "").lower() == "true" or None
    spelled = about.get("modelspec.prediction_type", "").strip().lower()
    if spelled in SPELLINGS:
        found = SPELLINGS[spelled]  # noise can't be predicted at zero SNR
        return Stated(
            found, False if found == "eps" else zero, f"modelspec.prediction_type '{spelled}' in its metadata"
        )
    if about.get("ss_v_parameterization", "").lower() == "true":
        return Stated("v", zero, "ss_v_parameterization in its metadata")
    architecture = about.get("modelspec.architecture", "")
    if architecture.startswith("stable-diffusion-v2-768-v"):
        return Stated("v", zero, f"modelspec.architecture '{architecture}' in its metadata")
    return None


def _of_yaml(file: Path) -> Stated | None:
    """The training configuration that web interfaces look for beside a checkpoint."""
    if not file.is_file():
        return None
    try:
        found = yaml_of(text_of(file))["model"]["params"]
        spelled = str(found.get("parameterization", "eps")).lower()
    except (yaml.YAMLError, StillhouseError, KeyError, TypeError, AttributeError):
        return None
    return Stated(SPELLINGS[spelled], None, f"'{file.name}' beside it") if spelled in SPELLINGS else None


def overruled(scheduler: Any, prediction: str | None = None, zero_snr: bool | None = None) -> Any:
    """A scheduler of a table with another prediction or end of its table.

    Arguments:
        scheduler: of Diffusers.
        prediction: ``eps``, ``v`` or ``x0``; None: as it is.
        zero_snr: whether the table ends at zero SNR; None: as it is.

    Returns:
        A scheduler of the same class, a DDIM one where that class has no zero SNR; ``scheduler`` itself where
        nothing changes. Raises :class:`StillhouseError` for a flow or EDM's, which have neither.
    """
    if prediction is not None and prediction not in NAMES:
        raise unknown("prediction", prediction, NAMES)
    wanted: dict[str, Any] = {} if prediction is None else {"prediction_type": NAMES[prediction]}
    if zero_snr is not None:
        wanted["rescale_betas_zero_snr"] = zero_snr
    changed = {key: value for key, value in wanted.items() if scheduler.config.get(key, False) != value}
    if not changed:
        return scheduler
    kind = type(scheduler).__name__
    require(
        has_table(read_schedule(scheduler)),
        f"{kind} has no table of betas, so that neither its prediction nor its last SNR can be chosen.",
    )
    if changed.get("rescale_betas_zero_snr"):
        changed["timestep_spacing"] = "trailing"  # the one spacing that begins at the table's last step
    kept = set(wanted) <= set(inspect.signature(type(scheduler).__init__).parameters)
    if kept:
        return type(scheduler).from_config({**scheduler.config, **changed})
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config({**scheduler.config, **changed, "clip_sample": False})


def has_table(schedule: Schedule) -> bool:
    """Whether a schedule's noise levels are a table of betas."""
    return hasattr(schedule.process, "betas")


def decided(scheduler: Any, file: Path, prediction: str | None, zero_snr: bool | None) -> tuple[Any, str]:
    """The scheduler of a single checkpoint.

    Arguments:
        scheduler: of the folder that its configuration is read from.
        file: the checkpoint.
        prediction: ``eps``, ``v`` or ``x0``, as the user has it; None: as the file states.
        zero_snr: likewise, whether the table ends at zero SNR.

    Returns:
        The scheduler, and a sentence on what was decided and why; empty for a flow, which leaves no choice.
    """
    found, schedule = stated(file), read_schedule(scheduler)
    given = prediction is not None or zero_snr is not None
    if found.sigmas and not given:
        from diffusers import EDMEulerScheduler

        low, high = found.sigmas
        edm = EDMEulerScheduler(low, high, sigma_data=1.0, prediction_type="v_prediction")
        return edm, (
            f"'{file.name}' is read as a network that predicts v under EDM's scaling ({found.source})."
        )
    if not has_table(schedule) and not given:
        return scheduler, ""
    if zero_snr is None and prediction in (None, found.prediction):
        zero_snr = found.zero_snr
    chosen = overruled(scheduler, prediction or found.prediction or None, zero_snr)
    after = read_schedule(chosen)
    end = " to zero terminal SNR" if getattr(after.process, "zero_terminal_snr", False) else ""
    why = "as given" if given else found.source or "the file states nothing, so as its configuration has it"
    return chosen, (
        f"'{file.name}' is read as a network that predicts {type(after.kind).__name__.lower()}{end} ({why}); "
        "prediction and zero_snr (--prediction, --zero-snr) overrule."
    )

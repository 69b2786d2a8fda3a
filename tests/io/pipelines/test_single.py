"""Checkpoints in a single file: whole ones, networks alone, those without some parts, and what they state of
their prediction."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stillhouse.core.errors import StillhouseError
from stillhouse.core.prediction import EDM
from stillhouse.io.pipelines import Family, open_pipeline
from stillhouse.io.pipelines.parameterization import overruled

Built = Callable[[str], Path]
Opened = Callable[[str], Family]


def same(mine: Family, its: Family) -> None:
    for name, part in its.pipe.components.items():
        if isinstance(part, torch.nn.Module):
            wanted, found = part.state_dict(), mine.pipe.components[name].state_dict()
            assert wanted.keys() == found.keys()
            for key, weight in wanted.items():
                torch.testing.assert_close(found[key], weight, msg=f"{name}.{key}")


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    # two levels of one layer each
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0": "output_blocks.1.1",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
}


def single_file_names(family: Family) -> dict[str, Tensor]:
    named = {}
    for key, weight in family.pipe.unet.state_dict().items():
        start = max((o for o in OUTER if key.startswith(f"{o}.")), key=len)
        rest = key.removeprefix(start)
        if ".resnets." in start:
            inner = rest.split(".")[1]
            rest = rest.replace(f".{inner}.", f".{RESNET[inner]}.")
        named[f"model.diffusion_model.{OUTER[start]}{rest}"] = weight
    levels = len(family.vae.config.block_out_channels)
    for key, weight in family.vae.state_dict().items():
        words = key.split(".")
        if words[1:2] == ["down_blocks"]:
            words[1:5] = (
                ["down", words[2], "block", words[4]]
                if words[3] == "resnets"
                else ["down", words[2], "downsample"]
            )
        elif words[1:2] == ["up_blocks"]:
            level = str(levels - 1 - int(words[2]))
            words[1:5] = (
                ["up", level, "block", words[4]] if words[3] == "resnets" else ["up", level, "upsample"]
            )
        elif words[1:2] == ["mid_block"]:
            words[1:4] = ["mid", f"block_{int(words[3]) + 1}"]
        name = ".".join(words).replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        named[f"first_stage_model.{name}"] = weight
    for key, weight in family.pipe.text_encoder.state_dict().items():
        named[
            f"cond_stage_model.transformer.{'' if key.startswith('text_model') else 'text_model.'}{key}"
        ] = weight
    return {key: weight.contiguous().clone() for key, weight in named.items()}


@pytest.fixture(scope="module")
def whole(opened: Opened) -> dict[str, Tensor]:
    """The weights of a whole checkpoint, under the names of single files."""
    return single_file_names(opened("sd"))


@pytest.fixture
def bare(built: Built, tmp_path: Path) -> Path:
    """A folder with configurations, and no weights."""
    folder = Path(shutil.copytree(built("sd"), tmp_path / "bare"))
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    return folder


def test_a_whole_one(
    built: Built, opened: Opened, whole: dict[str, Tensor], bare: Path, tmp_path: Path
) -> None:
    """It gives the weights of the pipeline that it was made of, with a configuration that needs none."""
    its = opened("sd")
    save_file(whole, tmp_path / "model.safetensors")
    for config in (built("sd"), bare):
        mine = open_pipeline(tmp_path / "model.safetensors", config=config)
        same(mine, its)
        assert mine.process == its.process and mine.times(4) == its.times(4)
        assert "the file states nothing" in mine.notes[0] and "predicts eps" in mine.notes[0]


def part_of(whole: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {key: w for key, w in whole.items() if key.startswith(prefixes)}


@pytest.mark.parametrize(
    "naming", ["model.diffusion_model.", "diffusion_model.", "", "unet.", "diffusers"], ids=str
)
def test_a_network_alone(
    naming: str, built: Built, opened: Opened, whole: dict[str, Tensor], bare: Path, tmp_path: Path
) -> None:
    """Under each of the names that people save it by; the rest is the configuration's."""
    file, its = tmp_path / "unet.safetensors", opened("sd")
    weights = {
        naming + key.removeprefix("model.diffusion_model."): 2 * w
        for key, w in part_of(whole, "model.diffusion_model.").items()
    }
    if naming in ("diffusers", "unet."):
        prefix = "" if naming == "diffusers" else naming
        weights = {prefix + key: 2 * w.clone() for key, w in its.pipe.unet.state_dict().items()}
    save_file({**weights, "v_pred": torch.empty(0)}, file)
    mine = open_pipeline(file, config=built("sd"))
    wanted = its.pipe.unet.state_dict()
    assert all(torch.equal(w, 2 * wanted[key]) for key, w in mine.pipe.unet.state_dict().items())
    same_but_network = {k: v for k, v in mine.pipe.components.items() if k in ("vae", "text_encoder")}
    for name, part in same_but_network.items():
        assert all(
            torch.equal(w, its.pipe.components[name].state_dict()[key])
            for key, w in part.state_dict().items()
        )
    assert type(mine.kind).__name__ == "V"
    with pytest.raises(StillhouseError, match="has no text_encoder, and neither has"):
        open_pipeline(file, config=bare)


def test_one_without_an_autoencoder_or_text(
    built: Built, opened: Opened, whole: dict[str, Tensor], bare: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    for kept in (("model.", "cond_stage_model."), ("model.", "first_stage_model.")):
        save_file(part_of(whole, *kept), file)
        same(open_pipeline(file, config=built("sd")), opened("sd"))
        with pytest.raises(StillhouseError, match="has no (vae|text_encoder), and neither has"):
            open_pipeline(file, config=bare)


def test_a_network_of_another_shape_is_refused(built: Built, tmp_path: Path) -> None:
    save_file({"some.weight": torch.zeros(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(StillhouseError) as error:
        open_pipeline(tmp_path / "odd.safetensors", config=built("sd"))
    assert "\n" not in str(error.value)


def test_what_is_refused(built: Built, whole: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    for name, words in (
        ("model.safetensors", "name a folder of the same kind"),
        ("model.ckpt", "is a pickle.*weights_only=True"),
        ("model.npz", "neither a pipeline's folder nor a .safetensors checkpoint"),
    ):
        file = file.rename(tmp_path / name)
        with pytest.raises(StillhouseError, match=words):
            open_pipeline(file)
    file = file.rename(tmp_path / "model.safetensors")
    with pytest.raises(StillhouseError, match="DDIMPipeline can't be read from a single file"):
        open_pipeline(file, config=built("ddpm"))
    file.write_bytes(b"torn")
    with pytest.raises(StillhouseError, match="no whole safetensors file"):
        open_pipeline(file, config=built("sd"))


NOTHING = torch.empty(0)


@pytest.mark.parametrize(
    ("keys", "metadata", "beside", "kind", "zero"),
    [
        ({"v_pred": NOTHING, "ztsnr": NOTHING}, {}, "", "V", True),
        ({"v_pred": torch.ones(1)}, {}, "", "V", False),
        ({"model.diffusion_model.v_pred": NOTHING}, {}, "", "V", False),
        ({"ztsnr": NOTHING}, {}, "", "Eps", False),  # without v it would leave the first step undefined
        ({}, {"modelspec.prediction_type": "v"}, "", "V", False),
        ({}, {"modelspec.prediction_type": "v", "ss_zero_terminal_snr": "True"}, "", "V", True),
        ({}, {"modelspec.prediction_type": "epsilon"}, "", "Eps", False),
        ({}, {"ss_v_parameterization": "True"}, "", "V", False),
        ({}, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "", "V", False),
        ({}, {"modelspec.architecture": "stable-diffusion-v1"}, "", "Eps", False),
        ({}, {}, "model:\n  params:\n    parameterization: v\n", "V", False),
        ({}, {}, "model: [", "Eps", False),
    ],
)
def test_marks_of_the_community(
    keys: dict[str, Tensor],
    metadata: dict[str, str],
    beside: str,
    kind: str,
    zero: bool,
    built: Built,
    whole: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({**part_of(whole, "model."), **keys}, file, {"format": "pt", **metadata})
    if beside:
        file.with_suffix(".yaml").write_text(beside)
    family = open_pipeline(file, config=built("sd"))
    assert type(family.kind).__name__ == kind
    process: Any = family.process
    assert process.zero_terminal_snr == zero
    assert len(family.notes) == 1 and f"predicts {kind.lower()}" in family.notes[0]
    assert ("zero terminal SNR" in family.notes[0]) == zero


def test_the_users_word_is_the_last(built: Built, whole: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({**part_of(whole, "model."), "v_pred": NOTHING, "ztsnr": NOTHING}, file)
    plain = open_pipeline(file, config=built("sd"), prediction="eps")
    assert type(plain.kind).__name__ == "Eps" and "(as given)" in plain.notes[0]
    process: Any = plain.process
    assert not process.zero_terminal_snr
    assert type(open_pipeline(built("sd"), prediction="v").kind).__name__ == "V"  # of folders as well
    assert type(open_pipeline(built("sd")).kind).__name__ == "Eps"
    with pytest.raises(StillhouseError, match="prediction"):
        open_pipeline(built("sd"), prediction="w")
    with pytest.raises(StillhouseError, match="has no table of betas"):
        open_pipeline(built("sd3"), prediction="v")


def test_v_under_edms_scaling(built: Built, whole: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({**part_of(whole, "model."), "edm_vpred.sigma_max": torch.tensor(120.0)}, file)
    family = open_pipeline(file, config=built("sd"))
    assert isinstance(family.kind, EDM) and family.kind.sigma_data == 1.0 and family.schedule.sign == -1
    assert family.pipe.scheduler.config.sigma_max == 120.0


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("EulerDiscreteScheduler", "EulerDiscreteScheduler"),
        ("DDIMScheduler", "DDIMScheduler"),
        ("PNDMScheduler", "DDIMScheduler"),  # has no zero SNR
    ],
)
def test_zero_snr_begins_at_pure_noise(name: str, made: str, opened: Opened) -> None:
    import diffusers

    family = opened("sd")
    scheduler = getattr(diffusers, name).from_config(family.pipe.scheduler.config)
    chosen = overruled(scheduler, "v", True)
    assert type(chosen).__name__ == made and overruled(chosen, "v", True) is chosen
    pipe = type(family.pipe)(**{**family.pipe.components, "scheduler": chosen}, requires_safety_checker=False)
    mine = type(family)(pipe)
    assert mine.times(4)[0] == 1.0 and mine.start(4) == pytest.approx(1.0)

"""LoRAs of people in single files: on their base by Diffusers' own reader, text encoders and alphas
included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import stillhouse
from stillhouse.adapters import adapted
from stillhouse.core.errors import StillhouseError
from stillhouse.io.pipelines import tiny
from stillhouse.model import Model
from stillhouse.samplers.sampling import Sampling


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for kind in ("sd", "sdxl"):
        tiny.build(kind, folder / kind)
    return folder


LAYER = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
SDXLS = LAYER.replace("down_blocks_0_attentions_0", "input_blocks_1_1")


@pytest.mark.parametrize(
    ("kind", "unet", "text"),
    [
        ("sd", LAYER, {"lora_te_": "text_encoder"}),
        ("sdxl", SDXLS, {"lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}),
    ],
)
def test_kohyas_names_with_text_encoders_and_alphas(
    kind: str, unet: str, text: dict[str, str], place: Path, tmp_path: Path
) -> None:
    plain = stillhouse.load(place / kind).pipeline
    assert plain is not None
    tensors, moved = {}, {}

    def add(name: str, part: str, layer: str) -> None:
        weight = plain.pipe.components[part].get_parameter(f"{layer}.weight")
        down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
        tensors.update(
            {
                f"{name}.lora_down.weight": down,
                f"{name}.lora_up.weight": up,
                f"{name}.alpha": torch.tensor(6.0),
            }
        )
        moved[part, layer] = weight + 3 * up @ down  # alpha / rank = 6 / 2

    add(f"lora_unet_{unet}", "unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
    for prefix, part in text.items():
        nested = "text_model." * hasattr(plain.pipe.components[part], "text_model")
        for inner in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1"):
            inner = f"encoder.layers.0.{inner}"
            add(f"{prefix}text_model_{inner.replace('.', '_')}", part, f"{nested}{inner}")
    save_file(tensors, tmp_path / "style.safetensors")
    model = stillhouse.load(tmp_path, base=place / kind)  # or the file itself, as below
    family = model.pipeline
    assert family is not None and model.free_steps
    for (part, layer), wanted in moved.items():
        torch.testing.assert_close(family.pipe.components[part].get_parameter(f"{layer}.weight"), wanted)
    words = ["a red circle"]
    assert (family.encode(words)["tokens"] - plain.encode(words)["tokens"]).abs().max() > 1e-4
    if kind == "sd":
        assert (family.empty["tokens"] - plain.empty["tokens"]).abs().max() > 1e-4
    assert "style.safetensors" in family.notes[-1] and "text_encoder" in family.notes[-1]
    assert not any("lora" in name for name in family.network.state_dict())


def student_of(teacher: Model) -> Model:
    own = adapted(teacher.denoiser, 3, alpha=6.0).copy()
    with torch.no_grad():
        for p in own.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    return Model(
        own,
        teacher.shape,
        samplings={2: Sampling([1.0, 0.5, 0.0], "renoise")},
        info={"method": "dmd2"},
        text=teacher.text,
        codec=teacher.codec,
        pipeline=teacher.pipeline,
    )


@pytest.mark.parametrize("name", ["kohya.safetensors", "pytorch_lora_weights.safetensors"])
def test_our_own_files_are_the_student_again(name: str, place: Path, tmp_path: Path) -> None:
    teacher = stillhouse.load(place / "sd")
    folder = student_of(teacher).save_pretrained(tmp_path / "turbo", form="lora")
    whole = stillhouse.load(folder, base=place / "sd")
    again = stillhouse.load(folder / name, base=place / "sd")
    assert again.samplings == whole.samplings and not again.free_steps
    mine, its = (model.sample(1, "a red circle", latents=True, seed=2) for model in (again, whole))
    assert (mine - its).abs().max() < 1e-4
    tiny.build("sd", tmp_path / "other", seed=5)
    with pytest.raises(StillhouseError, match="trained on other weights"):
        stillhouse.load(folder / name, base=tmp_path / "other")
    with pytest.raises(StillhouseError, match="is a LoRA; give the pipeline it was trained on"):
        stillhouse.load(folder / name)


def test_a_base_in_memory_is_left_as_it_is(place: Path, tmp_path: Path) -> None:
    teacher = stillhouse.load(place / "sd")
    folder = student_of(stillhouse.load(place / "sd")).save_pretrained(tmp_path / "turbo", form="lora")
    before = {name: w.clone() for name, w in teacher.denoiser.net.state_dict().items()}
    fused = stillhouse.load(folder / "kohya.safetensors", base=teacher)
    after = teacher.denoiser.net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(w, after[name]) for name, w in before.items())
    assert any(not torch.equal(w, before[name]) for name, w in fused.denoiser.net.state_dict().items())


def test_what_is_no_lora_of_this_base(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(StillhouseError, match="is no LoRA, neither a safetensors file"):
        stillhouse.load(file, base=place / "sd")
    half = f"lora_unet_{LAYER}.lora_down.weight"
    save_file({half: torch.zeros(2, 999), half.replace("down", "up"): torch.zeros(16, 2)}, file)
    with pytest.raises(StillhouseError, match="can't put") as error:
        stillhouse.load(file, base=place / "sd")
    assert "\n" not in str(error.value)

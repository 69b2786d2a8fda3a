"""Opening: what is refused and how it is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.io.pipelines import Family, open_pipeline

Built = Callable[[str], Path]


@pytest.fixture
def copied(built: Built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built("sd"), tmp_path / "pipe"))


def refused(folder: Path | str, *words: str) -> None:
    with pytest.raises(StillhouseError) as error:
        open_pipeline(folder)
    sentence = str(error.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


def test_no_pipeline(tmp_path: Path) -> None:
    refused(tmp_path / "gone", "There is no folder", "hub:owner/name")
    refused(tmp_path, "is no Diffusers pipeline")
    (tmp_path / "old.ckpt").write_bytes(b"")
    refused(tmp_path, "old.ckpt, a pickle")
    (tmp_path / "model_index.json").write_text("[]")
    refused(tmp_path, "model_index.json' can't be read")


def test_a_missing_part(copied: Path) -> None:
    shutil.rmtree(copied / "text_encoder")
    refused(copied, "lacks its part 'text_encoder' (CLIPTextModel)")


def test_missing_weights(copied: Path) -> None:
    (copied / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    refused(copied, "part 'vae'", "has no weights")


def test_pickled_weights(copied: Path) -> None:
    (copied / "unet" / "diffusion_pytorch_model.safetensors").rename(
        copied / "unet" / "diffusion_pytorch_model.bin"
    )
    refused(copied, "diffusion_pytorch_model.bin", "is a pickle", "save_pretrained")


def test_torn_weights(copied: Path) -> None:
    file = copied / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    refused(copied, "Diffusers can't open the pipeline")


def test_code_is_not_run(copied: Path) -> None:
    (copied / "scheduler" / "own.py").write_text("raise SystemExit('was run')")
    refused(copied, "part 'scheduler'", "not run")
    (copied / "scheduler" / "own.py").unlink()
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(json.dumps({**index, "_class_name": ["pipeline", "Own"]}))
    refused(copied, "brings code of its own", "not run")


def test_an_index_leads_nowhere_else(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.loads((copied / "model_index.json").read_text())
    (copied.parent / "x").mkdir()
    for name in ("../x", "..", "/tmp", "unet/../../x"):
        more = {**index, name: ["diffusers", "UNet2DConditionModel"]}
        (copied / "model_index.json").write_text(json.dumps(more))
        refused(copied, f"names the part '{name}'")
    # a package that lies where the command is given is not imported
    (copied.parent / "evil.py").write_text("raise SystemExit('was run')")
    monkeypatch.syspath_prepend(str(copied.parent))
    for library in ("evil", "os", "..evil", 3):
        more = {**index, "unet": [library, "Net"]}
        (copied / "model_index.json").write_text(json.dumps(more))
        refused(copied, f"made by the package '{library}'")
    (copied / "model_index.json").write_text(json.dumps(index))
    shards = copied / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for weights in ("../../x.safetensors", "/tmp/x.safetensors", 3):
        shards.write_text(json.dumps({"weight_map": {"conv_in.bias": weights}}))
        refused(copied, f"names the weights '{weights}'")
    shards.write_text("[]")
    refused(copied, "no index of weights")


def test_a_scheduler_without_a_process(copied: Path) -> None:
    from diffusers import SCMScheduler

    SCMScheduler().save_pretrained(copied / "scheduler")
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(
        json.dumps({**index, "scheduler": ["diffusers", "SCMScheduler"]})
    )
    with pytest.raises(StillhouseError, match="SCMScheduler has no table of betas"):
        open_pipeline(copied).denoiser()


def test_an_inpainting_model(copied: Path) -> None:
    from stillhouse.io.pipelines import tiny

    tiny.unet(in_channels=9).save_pretrained(copied / "unet")
    refused(copied, "reads 9 channels and gives 4")


def test_a_variant_alone_is_found(copied: Path, built: Built) -> None:
    for part in ("unet", "vae"):
        (copied / part / "diffusion_pytorch_model.safetensors").rename(
            copied / part / "diffusion_pytorch_model.fp16.safetensors"
        )
    same(open_pipeline(copied), open_pipeline(built("sd")))


def same(mine: Family, its: Family) -> None:
    for name, part in its.pipe.components.items():
        if isinstance(part, torch.nn.Module):
            wanted, found = part.state_dict(), mine.pipe.components[name].state_dict()
            assert wanted.keys() == found.keys()
            for key, weight in wanted.items():
                torch.testing.assert_close(found[key], weight, msg=f"{name}.{key}")


def test_only_a_named_hub_model_may_download(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    asked = []
    open_it = diffusers.DiffusionPipeline.from_pretrained

    def watched(name: str, **options: object) -> object:
        asked.append(
            (name, options["local_files_only"], options["use_safetensors"], options.get("trust_remote_code"))
        )
        return open_it(str(built("sd")), local_files_only=True)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", watched)
    open_pipeline(built("sd"))
    open_pipeline("hub:owner/name")
    assert asked == [(str(built("sd")), True, True, None), ("owner/name", False, True, None)]


def test_a_hubs_pipeline_that_a_file_names_comes_from_what_was_fetched(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "models--me--tiny"
    shutil.copytree(built("sd"), place / "snapshots" / "0123abcd")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    family = open_pipeline("hub:me/tiny", local=True)
    assert family.folder == place / "snapshots" / "0123abcd"
    with pytest.raises(StillhouseError, match="was not fetched before.*--teacher hub:me/other"):
        open_pipeline("hub:me/other", local=True)

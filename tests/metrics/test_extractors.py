"""Features of samples: a folder of the user's own, the library's small network, plain numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.metrics.diversity import diversity
from stillhouse.metrics.extractors import open_features, plain_features, small_features
from stillhouse.metrics.fidelity import kernel_distance

SIDE = 16
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def dino():
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(
        Dinov2Config(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=4
        )
    )


def clip():
    from transformers import CLIPConfig, CLIPModel

    vision = {**SMALL, "image_size": SIDE, "patch_size": 4}
    return CLIPModel(
        CLIPConfig(text_config={**SMALL, "vocab_size": 50}, vision_config=vision, projection_dim=8)
    )


def vit():
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**SMALL, image_size=SIDE, patch_size=4), add_pooling_layer=False)


def resnet():
    from transformers import ResNetConfig, ResNetModel

    return ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1]))


def saved(maker, folder: Path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = maker().eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "crop_size": {"height": SIDE, "width": SIDE}}
        )
    )
    return model


def pictures(n: int = 3, side: int = SIDE) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("maker", "width"), [(dino, 16), (clip, 8), (vit, 16), (resnet, 6)])
def test_features_are_those_of_transformers_own_network(maker, width, tmp_path):
    model, x = saved(maker, tmp_path), pictures()
    with torch.no_grad():
        if maker is clip:
            wanted = model.visual_projection(model.vision_model(pixel_values=x).pooler_output)
        elif maker is vit:  # a folder without weights of the pooling: the first token
            wanted = model(pixel_values=x).last_hidden_state[:, 0]
        else:
            wanted = model(pixel_values=x).pooler_output.flatten(1)
    found = open_features(tmp_path)(x)
    assert found.shape == (3, width)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    clips = torch.stack([x, x.flip(0)], 1)  # of two frames
    torch.testing.assert_close(open_features(tmp_path)(clips), (found + found.flip(0)) / 2)


def test_grey_and_large_pictures_are_prepared(tmp_path):
    saved(dino, tmp_path)
    net = open_features(tmp_path)
    assert net(pictures(2, 40)[:, :1]).shape == (2, 16) and str(SIDE) in net.note


def test_a_networks_name_is_its_repositorys_in_a_snapshot_of_the_hub(tmp_path):
    folder = tmp_path / "models--facebook--dinov2-small" / "snapshots" / "0123abcd"
    saved(dino, folder)
    assert open_features(folder).name == "facebook/dinov2-small"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "is a pickle"),
        (lambda f: (f / "model.safetensors").write_bytes(b"torn"), "can't be opened"),
        (lambda f: (f / "config.json").write_text('{"model_type": "nothing"}'), "can't be opened"),
        (lambda f: lacking(f), "lack 1 tensors"),
    ],
)
def test_folders_that_lack_a_part_get_a_sentence(change, sentence, tmp_path):
    saved(dino, tmp_path)
    change(tmp_path)
    with pytest.raises(StillhouseError, match=sentence):
        open_features(tmp_path)


def lacking(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    held = load_file(folder / "model.safetensors")
    del held["encoder.layer.0.norm1.weight"]
    save_file(held, folder / "model.safetensors", {"format": "pt"})


def test_without_a_folder_the_library_has_its_own():
    small = small_features()
    assert small(pictures(2, 48)).shape == (2, 64) and "can't be compared" in small.note
    assert plain_features(3)(torch.ones(2, 3)).tolist() == [[1] * 3] * 2
    many = plain_features(400)
    x = torch.randn(2, 100, 4, generator=torch.Generator().manual_seed(0))
    assert many(x).shape == (2, 64) and (many(x) == plain_features(400)(x)).all()


def test_the_kernel_distance_is_unbiased_and_of_the_papers_kernel():
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5, 3, generator=draw) for _ in range(2))

    def kernel(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    pairs = [(i, j) for i in range(5) for j in range(5)]
    wanted = sum((kernel(x[i], x[j]) + kernel(y[i], y[j])) / 20 for i, j in pairs if i != j) - 2 * sum(
        kernel(x[i], y[j]) / 25 for i, j in pairs
    )
    assert kernel_distance(x, y) == pytest.approx(wanted, rel=1e-5)
    many = [kernel_distance(*torch.randn(2, 20, 3, generator=draw)) for _ in range(400)]
    mean, error = torch.tensor(many).mean(), torch.tensor(many).std() / 20
    assert abs(float(mean)) < 4 * float(error)
    assert kernel_distance(x, y + 3) > 10


def test_diversity_is_within_a_condition():
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    same, mixed = torch.cat([one, one, other, other]), torch.cat([one, other, one, other])
    assert diversity(same, labels) == pytest.approx(0) and diversity(mixed, labels) == pytest.approx(2)
    assert diversity(same, torch.arange(4)) is None

"""Inception v3: its published size and names, and what FID's variant does otherwise."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from stillhouse.core.errors import StillhouseError
from stillhouse.metrics.extractors import open_features
from stillhouse.metrics.inception import CLASSES, Inception, Mixed, open_inception


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        held = Inception().state_dict()
    return {**held, "fc.bias": torch.zeros(CLASSES), "AuxLogits.fc.bias": torch.zeros(3)}


def test_it_has_as_many_weights_as_the_published_one(weights):
    # 23,834,568 with a head of 1,000 classes: the published number of Inception v3 without its side
    # classifier
    assert sum(p.numel() for p in Inception().parameters()) == 23_834_568 - 2049 * 1000
    for name in (
        "Conv2d_1a_3x3.conv.weight",
        "Mixed_5b.branch5x5_2.bn.running_mean",
        "Mixed_6e.branch7x7dbl_5.conv.weight",
        "Mixed_7a.branch7x7x3_4.bn.weight",
        "Mixed_7c.branch3x3_2b.conv.weight",
        "Mixed_7c.branch3x3dbl_3a.bn.bias",
        "Mixed_7b.branch_pool.conv.weight",
    ):
        assert name in weights


def test_features_of_a_file_of_weights(weights, tmp_path):
    file = tmp_path / "pt_inception-2015-12-05.pth"
    torch.save(weights, file)
    found = open_features(file)
    x = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = found(x)
    assert made.shape == (2, 2048) and "FID's" in found.note and float((made[0] - made[1]).abs().max()) > 0
    sizes = [m.shape[-1] for m in _sizes(open_inception(file)[0], x)]
    assert sizes == [149, 147, 147, 73, 71, 35, 35, 35, 17, 17, 17, 17, 17, 8, 8, 8]  # of the paper's table 1
    save_file({n: t for n, t in weights.items() if n != "fc.bias"}, tmp_path / "inception.safetensors")
    assert torch.equal(open_features(tmp_path / "inception.safetensors")(x), made)


def _sizes(net, x):
    seen = []
    for block in net.children():
        block.register_forward_hook(lambda _, __, out: seen.append(out))
    net(x)
    return seen


def test_fids_own_pooling():
    layers = {"branch_pool": [(1, 1, 1, 1)]}
    x = torch.ones(1, 1, 3, 3)
    assert Mixed(layers, "average", padded=False)._pooled(x).min() == 1
    assert Mixed(layers, "average", padded=True)._pooled(x).min() == pytest.approx(4 / 9)
    assert Inception().Mixed_7c.pool == "max" and Inception(1000).Mixed_7c.pool == "average"


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_other_files_get_a_sentence(weights, tmp_path):
    file = tmp_path / "inception.pth"
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(StillhouseError, match="can't be read as weights"):
        open_features(file)
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(StillhouseError, match="holds no Inception v3: .* missing"):
        open_features(file)
    torch.save({**weights, "Conv2d_1a_3x3.conv.weight": torch.zeros(1)}, file)
    with pytest.raises(StillhouseError, match="of another shape"):
        open_features(file)

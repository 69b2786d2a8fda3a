"""Small pictures on disk, made here."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

torch.set_num_threads(1)

COLOURS = ["red", "green", "blue", "yellow", "white", "black"]


def picture(index: int, size: tuple[int, int] = (24, 24), kind: str = "PNG") -> bytes:
    """The bytes of a picture of one colour; ``size``: width, height."""
    buffer = io.BytesIO()
    Image.new("RGB", size, COLOURS[index % len(COLOURS)]).save(buffer, kind)
    return buffer.getvalue()


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder of ``n`` pictures with captions in text files."""

    def made(
        n: int = 6,
        sizes: tuple[tuple[int, int], ...] = ((24, 24),),
        name: str = "pictures",
        captions: bool = True,
    ) -> Path:
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        for i in range(n):
            (place / f"{i:03d}.png").write_bytes(picture(i, sizes[i % len(sizes)]))
            if captions:
                (place / f"{i:03d}.txt").write_text(f"a {COLOURS[i % len(COLOURS)]} picture\n")
        return place

    return made


class Text:
    """Two tokens of four numbers that follow from a prompt's length and first letter; counts what it was
    asked."""

    def __init__(self, scale: float = 1.0):
        self.scale, self.asked = scale, 0

    def encode(self, prompts):
        self.asked += len(prompts)
        rows = torch.tensor([[float(len(p)), float(ord(p[0])) if p else 0.0] for p in prompts])
        return {
            "tokens": self.scale * rows[:, :, None].expand(-1, 2, 4) / 10,
            "mask": torch.tensor([[bool(p), bool(p)] for p in prompts]),
        }

    def describe(self):
        return {"name": "fake"}


class Codec:
    """Eight pixels to a latent's side, four channels: the mean colour and the brightness; counts its
    images."""

    def __init__(self, scale: float = 1.0):
        self.scale, self.seen = scale, 0

    def encode(self, images):
        self.seen += len(images)
        small = torch.nn.functional.avg_pool2d(images, 8)
        return self.scale * torch.cat([small, small.mean(1, keepdim=True)], 1)

    def decode(self, latents):
        return torch.nn.functional.interpolate(latents[:, :3] / self.scale, scale_factor=8)


@pytest.fixture
def text() -> type[Text]:
    return Text


@pytest.fixture
def codec() -> type[Codec]:
    return Codec


@pytest.fixture
def bytes_of() -> Callable[..., bytes]:
    return picture


@pytest.fixture
def tarred() -> Callable[..., Path]:
    return tar

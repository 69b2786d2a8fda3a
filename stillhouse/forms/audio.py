"""Sounds (T,) in [-1, 1]: .wav files, and curves on a page."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.errors import require
from stillhouse.forms.base import Form, Option, Request, Sampled

if TYPE_CHECKING:
    from torch import Tensor

RATE = 8000  # numbers a second
WORLDS = ("tones",)  # nothing in its shape tells a sound from any other vector


class Audio(Form):
    """Waveforms of the worlds that make such."""

    name = "audio"
    title = "sounds, one after the other, as .wav"
    options = (Option("--rate", int, f"numbers a second of a .wav file [{RATE}]", RATE, "HZ"),)
    refusal = "Only a model of sounds has a number of values a second."

    def fits(self, model: Sampled) -> bool:
        return len(model.shape) == 1 and model.world in WORLDS

    def sample(self, model: Sampled, request: Request) -> str:
        """Sounds as numbers, or one after the other as a .wav file."""
        if Path(request.out).suffix != ".wav":
            return super().sample(model, request)
        n = request.n if request.n is not None else self.few
        x = model.sample(
            n, request.label_rows(n), steps=request.steps, guidance=request.guidance, seed=request.seed
        )
        path = save_wav(request.out, x, request.options["rate"])
        return f"{path}: {n} sounds in {self.cost(model, request)} each"


def save_wav(path: str | Path, sounds: Tensor, rate: int = RATE) -> Path:
    """Write sounds one after the other as a .wav file of 16 bits, whole or not at all.

    Arguments:
        path: ends in ``.wav``.
        sounds: (B, T) in [-1, 1]; what lies beyond is cut.
        rate: numbers a second, 1 … 384,000.

    Returns:
        Where it is.
    """
    path = Path(path)
    from stillhouse.io.weights import atomic_write

    require(path.suffix == ".wav", f"Sounds are written as .wav, not '{path.suffix}'.")
    require(1 <= rate <= 384_000, f"A sound has 1 to 384,000 numbers a second, not {rate}.")
    numbers = (sounds.detach().float().cpu().flatten().clamp(-1, 1) * 32767).round().short()

    def write(part: Path) -> None:
        with wave.open(str(part), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(numbers.numpy().astype("<i2").tobytes())

    atomic_write(path, write)
    return path

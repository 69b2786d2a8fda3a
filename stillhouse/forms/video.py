"""Clips (F, C, H, W) in [-1, 1]: moving pictures (.gif, .mp4), a contact sheet (.png); streamed by causal
students."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stillhouse.core.errors import StillhouseError, require
from stillhouse.forms.base import Form, Option, Request, Sampled, Setting
from stillhouse.forms.views import Clips, Display

if TYPE_CHECKING:
    from torch import Tensor

    from stillhouse.core.conditions import Condition, ConditionLike

NUMBERS = (".npy", ".safetensors")
FPS = 8.0


class Video(Form):
    """Clips, or latents of such."""

    name = "video"
    shown, few = 8, 6
    title = "clips, as .gif, .mp4 or a contact sheet .png"
    options = (
        Option("--frames", int, "how long a clip is; of a causal student any number [as it was trained]"),
        Option("--fps", float, f"frames a second [{FPS:g}]", FPS),
        Option("--sound", str, "a .wav file for a model under sound; it sets the length", metavar="FILE"),
    )
    refusal = "Only a model of clips makes so many frames or listens to a sound."

    def fits(self, model: Sampled) -> bool:
        return len(model.shape) == 4

    def of_length(self, model: Sampled, frames: int, sampling: Any) -> tuple[int, ...]:
        """The shape of a clip of ``frames`` frames, 0 for the model's own; a stream makes clips of any
        length."""
        require(frames >= 0, f"A clip has at least one frame, not {frames}.")
        if frames in (0, model.shape[0]):
            return model.shape
        require(
            bool(sampling.stream),
            f"This model makes clips of {model.shape[0]} frames, all at once; distil a causal student "
            f"to stream {frames}.",
        )
        return (frames, *model.shape[1:])

    def stream(
        self,
        model: Sampled,
        cond: ConditionLike = None,
        *,
        n: int = 0,
        frames: int = 0,
        given: Tensor | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        latents: bool = False,
    ) -> Iterator[Tensor]:
        """Clips of a causal student as chunks that come as they are made.

        Arguments:
            model: of clips, causal.
            cond: as of :meth:`stillhouse.model.Model.sample`, for the whole stream.
            n: clips side by side; 0 for as many as ``cond`` has rows, else 1.
            frames: how many to make, the last chunk being cut; 0 for no end.
            given: first frames to go on from, (n, k, C, H, W), which are not repeated; None for none.
            steps: number of steps; None for the default.
            guidance: scale ``w``, 1 for none; None for the sampling's own.
            seed: of all random draws.
            latents: leave the chunks as they were walked; else each is decoded by itself.

        Returns:
            An iterator of chunks, (n, up to the student's chunk, C, H, W).
        """
        from stillhouse.core.conditions import move, size
        from stillhouse.core.draws import Draws
        from stillhouse.samplers.streaming import stream

        sampling, device = model.sampling(steps, guidance), model.denoiser.device
        require(
            bool(sampling.stream),
            f"This model makes clips of {model.shape[0]} frames, all at once; distil a causal student to "
            "stream.",
        )
        if not n:
            if cond is None or isinstance(cond, str | int):
                n = 1
            else:
                n = len(cond) if isinstance(cond, list | tuple) else size(cond) or 1
        chunks = stream(
            model.denoiser.eval(),
            sampling,
            model.shape[1:],
            move(model.condition_of(n, cond), device),
            Draws(n, seed, "sample", device=device),
            frames=frames,
            given=move(given, device),
        )
        return chunks if latents else (model.pictures(chunk) for chunk in chunks)

    def sample(self, model: Sampled, request: Request) -> str:
        """Clips under prompts, labels, a sound or the conditions of their world."""
        import torch
        from tqdm import tqdm

        from stillhouse.core.conditions import move
        from stillhouse.core.draws import Draws
        from stillhouse.io.images import save_samples
        from stillhouse.io.media import ENDINGS, save_clips
        from stillhouse.samplers.draw import draw_samples

        out, asked = request.file("samples.gif"), request.options
        require(
            out.suffix in (*ENDINGS, *NUMBERS),
            f"Clips are written as {', '.join((*ENDINGS, *NUMBERS))}, not '{out.suffix}'.",
        )
        sampling, device = model.sampling(request.steps, request.guidance), model.denoiser.device
        frames = model.shape[0] if asked["frames"] is None else asked["frames"]
        require(frames >= 1, f"A clip has at least one frame, not {frames}.")
        n = request.n if request.n is not None else len(request.prompts) or self.few
        world = self._setting(model, request)
        wish: ConditionLike = list(request.prompts) or request.label_rows(n)
        if model.cond_kind:
            wish, frames = self._condition(model, world, request, n, frames)
        shape = model.of_length(frames, sampling)
        cond = move(model.condition_of(n, wish), device)
        began, first = time.perf_counter(), 0.0
        if sampling.stream:
            chunks = []
            walk = self.stream(
                model,
                cond,
                n=n,
                frames=frames,
                steps=request.steps,
                guidance=request.guidance,
                seed=request.seed,
                latents=True,
            )
            with tqdm(total=frames, desc="stream", unit="frame", dynamic_ncols=True, leave=False) as bar:
                for chunk in walk:
                    first = first or time.perf_counter() - began
                    chunks.append(chunk.cpu())
                    bar.update(chunk.shape[1])
            clips = torch.cat(chunks, 1)
        else:
            draws = Draws(n, request.seed, "sample", device=device)
            clips = draw_samples(
                model.denoiser.eval(), sampling, shape, cond, draws, networks=model.networks
            ).cpu()
        seconds = time.perf_counter() - began
        clips = model.pictures(clips, cond)
        if out.suffix in NUMBERS:
            path = save_samples(out, clips)
        else:
            path = save_clips(out, _drawn(world, clips), fps=asked["fps"], columns=request.columns)
        per = f"chunk of {sampling.stream.chunk} frames" if sampling.stream else "clip"
        start = f", the first chunk after {first:.2f} s" if sampling.stream else ""
        return (
            f"{path}: {n} clip(s) of {frames} frames in {self.cost(model, request)} per {per}; "
            f"{frames / seconds:.1f} frames a second{start}"
        )

    @staticmethod
    def _setting(model: Sampled, request: Request) -> Setting | None:
        """The world that the model is of, if its frames are the model's."""
        world = request.world()
        return world if world is not None and tuple(world.shape[1:]) == tuple(model.shape[1:]) else None

    @staticmethod
    def _condition(
        model: Sampled, world: Setting | None, request: Request, n: int, frames: int
    ) -> tuple[Condition, int]:
        """The condition of a model that takes more than texts and labels: the sound of a file, or conditions
        of its world; and the clip's length."""
        display = world.display if world is not None else Display()
        if world is None or display.condition is None or display.sound is None:
            raise StillhouseError(
                f"This model takes {model.cond_kind} for each clip; sample it in Python: "
                "model.sample(cond=…)."
            )
        labels = world.balanced_labels(n)
        assert labels is not None
        file = request.options["sound"]
        if not file:
            return display.condition(labels, frames), frames
        from stillhouse.core.conditions import as_parts
        from stillhouse.io.media import read_sound

        require(
            request.options["frames"] is None,
            "The length of a clip follows from its sound; leave out --frames or --sound.",
        )
        features = display.sound(read_sound(file, request.options["fps"]))
        cond = display.condition(labels, features.shape[1])
        return {**as_parts(cond), "features": features.expand(n, -1, -1)}, features.shape[1]


def _drawn(world: Setting | None, clips: Tensor) -> Tensor:
    """Clips as moving pictures."""
    view = (world.display if world is not None else Display()).view(clips)
    if not isinstance(view, Clips):
        raise StillhouseError(
            f"Clips of shape {tuple(clips.shape[1:])} are no pictures; write them as .npy or .safetensors."
        )
    return view.clips

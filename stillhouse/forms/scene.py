"""Scenes, under a camera: a turn-table (.gif, .mp4), a sheet of views, or the object itself (.ply)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.errors import require, required
from stillhouse.forms.base import Form, Option, Request, Sampled

if TYPE_CHECKING:
    from stillhouse.core.conditions import Condition

FILMS = (".gif", ".mp4")
TURN, VIEWS = 36, 12  # views of a turn-table, and of a sheet
FPS = 12.0


class Scene(Form):
    """Display of objects, a camera each."""

    name = "scene"
    shown = VIEWS
    title = "an object, as .gif, .mp4, a sheet .png or .ply"
    options = (Option("--scene", int, "which object, of a run that made several [0]"),)
    refusal = "Only the student of a score-3d method holds objects to choose from."

    def fits(self, model: Sampled) -> bool:
        return model.cond_kind == "camera"

    def sample(self, model: Sampled, request: Request) -> str:
        """A turn-table of ``-n`` views, the scene, or views side by side, as the file's name ends."""
        from stillhouse.io.images import save_samples
        from stillhouse.io.media import save_clips
        from stillhouse.io.ply import write_ply
        from stillhouse.models.scenes import Scene as SceneNet

        net, out, asked = model.denoiser.net, Path(request.out), request.options["scene"]
        scene = net if isinstance(net, SceneNet) else None
        require(
            scene is not None or asked is None,
            "This model draws a view at a time; only the student of a score-3d method holds objects.",
        )
        number = asked or 0
        require(
            scene is None or 0 <= number < scene.scenes,
            f"This model holds the objects 0 … {scene.scenes - 1 if scene else 0}, not {number}.",
        )
        if out.suffix == ".ply":
            scene = required(
                scene,
                "This model draws a view at a time and holds no object; distil one: stillhouse distill cfd.",
            )
            return str(write_ply(out, scene, number))
        film = out.suffix in FILMS
        n = request.n or (TURN if film else VIEWS)
        require(not film or len(model.shape) == 3, "Only pictures make a turn-table; write points as .npy.")
        cameras = _orbit(n, number) if scene is not None else _cameras(request, n)
        views = model.sample(n, cameras, steps=request.steps, guidance=request.guidance, seed=request.seed)
        path = (
            save_clips(out, views[None], fps=FPS)
            if film
            else save_samples(out, views, columns=request.columns)
        )
        return f"{path}: {n} views"


def _orbit(n: int, number: int) -> Condition:
    """Once around object ``number``, in ``n`` views."""
    import torch

    from stillhouse.models.scenes.base import FRONT
    from stillhouse.models.scenes.camera import orbit

    return {"features": orbit(n, FRONT[0]), "scene": torch.full((n,), number)}


def _cameras(request: Request, n: int) -> Condition:
    """The cameras that a network's world has."""
    world = required(
        request.world(), "The model does not name its world, whose cameras it needs; sample it in Python."
    )
    return world.condition(world.balanced_labels(n))

"""``stillhouse sample`` of models that are told a camera: a turn-table, a sheet of views, or the scene itself
as .ply."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.errors import require

if TYPE_CHECKING:
    from stillhouse.core.conditions import Condition
    from stillhouse.model import Model

FILMS = (".gif", ".mp4")
TURN, VIEWS = 36, 12  # views of a turn-table, and of a sheet


def add_scene(parser: ArgumentParser) -> None:
    """The option of a run that made several objects."""
    parser.add_argument("--scene", type=int, help="which object, of a run that made several [0]")


def sample_scene(model: Model, given: Namespace) -> int:
    """Write what ``given.out`` asks for: ``.gif`` or ``.mp4`` a turn-table of ``-n`` views, ``.ply`` the
    scene, else views side by side."""
    from stillhouse.io.images import save_samples
    from stillhouse.io.media import save_clips
    from stillhouse.io.ply import write_ply
    from stillhouse.models.scenes import Scene

    net, out = model.denoiser.net, Path(given.out)
    scene = net if isinstance(net, Scene) else None
    number = given.scene or 0
    require(
        scene is not None or given.scene is None,
        "This model draws a view at a time; only the student of a score-3d method holds objects.",
    )
    require(
        scene is None or 0 <= number < scene.scenes,
        f"This model holds the objects 0 … {scene.scenes - 1 if scene else 0}, not {number}.",
    )
    if out.suffix == ".ply":
        require(
            scene is not None,
            "This model draws a view at a time and holds no object; distil one: stillhouse distill cfd.",
        )
        assert scene is not None
        print(write_ply(out, scene, number))
        return 0
    n = given.n or (TURN if out.suffix in FILMS else VIEWS)
    require(
        out.suffix not in FILMS or len(model.shape) == 3,
        "Only pictures make a turn-table; write points as .npy.",
    )
    views = model.sample(
        n, _cameras(model, scene, n, number), steps=given.steps, guidance=given.guidance, seed=given.seed
    )
    path = (
        save_clips(out, views[None], fps=12)
        if out.suffix in FILMS
        else save_samples(out, views, columns=given.columns)
    )
    print(f"{path}: {n} views")
    return 0


def _cameras(model: Model, scene: object, n: int, number: int) -> Condition:
    """Once around an object; of a network, the cameras that its world has."""
    import torch

    from stillhouse.models.scenes.base import FRONT
    from stillhouse.models.scenes.camera import orbit

    if scene is not None:
        return {"features": orbit(n, FRONT[0]), "scene": torch.full((n,), number)}
    from stillhouse.worlds.base import open_world

    world = open_world(model.world)
    return world.condition(world.balanced_labels(n))

"""Scenes: one-step generators that hold an object and render a camera's view of it. Torch alone,
differentiable."""

from __future__ import annotations

from stillhouse.models.scenes.base import Rendering, Scene
from stillhouse.models.scenes.gaussians import Gaussians
from stillhouse.models.scenes.points import Plain, Points
from stillhouse.models.scenes.voxels import Voxels

__all__ = ["Gaussians", "Plain", "Points", "Rendering", "Scene", "Voxels"]

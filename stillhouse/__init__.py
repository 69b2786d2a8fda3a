"""Stillhouse: every way to distil a diffusion model, under one roof.

``import stillhouse`` is cheap: what it offers is imported when first touched, and torch with it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stillhouse.core.errors import StillhouseError

if TYPE_CHECKING:
    from stillhouse.api.runs import distill, train_teacher
    from stillhouse.model import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "StillhouseError", "distill", "load", "train_teacher"]

_HOMES = {"Model": "model", "load": "model", "distill": "api.runs", "train_teacher": "api.runs"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stillhouse' has no attribute '{name}'")
    return getattr(import_module(f"stillhouse.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
